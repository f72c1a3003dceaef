"""A feature pyramid and heads of depthwise separable convolutions.

The pyramid passes information about objects from coarse to fine maps (Feature Pyramid Networks,
section 3); the heads are SSDLite's (MobileNetV2, section 6.2).
"""

from keras import KerasTensor, layers

# Low enough for the moving statistics to converge in a few hundred steps.
_MOMENTUM = 0.97


def pyramid(maps: list[KerasTensor], filters: int) -> list:
    """Maps of `filters` channels: one for each of `maps`, then coarser ones down to a single cell.

    Args:
      maps: finest first, each half the size of the one before, rounded up.
    """
    levels = [
        _normalised(_pointwise(x, filters, f"lateral{level}"), f"lateral{level}")
        for level, x in enumerate(maps)
    ]
    for level in reversed(range(len(levels) - 1)):
        fine, coarse = levels[level], levels[level + 1]
        up = layers.UpSampling2D(2, name=f"up{level}")(coarse)
        if excess := up.shape[1] - fine.shape[1]:
            up = layers.Cropping2D(((0, excess), (0, excess)), name=f"crop{level}")(up)
        levels[level] = layers.Add(name=f"merge{level}")([fine, up])
    while (x := levels[-1]).shape[1] > 1:
        name = f"extra{len(levels) - len(maps) + 1}"
        # As in SSD300: "same" would pad only the far side and shift the map by half a cell.
        if x.shape[1] != 3:
            x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        x = _depthwise(x, f"{name}_depthwise", strides=2, padding="valid")
        x = _normalised(_pointwise(x, filters, name), name, activation=True)
        levels.append(x)
    return levels


def separable_head(x: KerasTensor, outputs: int, name: str) -> KerasTensor:
    """[batch, height, width, outputs] by a depthwise and a pointwise convolution."""
    x = _depthwise(x, f"{name}_depthwise")
    return layers.Conv2D(outputs, 1, kernel_initializer="glorot_uniform", name=name)(x)


def _depthwise(x: KerasTensor, name: str, strides: int = 1, padding: str = "same") -> KerasTensor:
    x = layers.DepthwiseConv2D(
        3,
        strides=strides,
        padding=padding,
        use_bias=False,
        depthwise_initializer="he_normal",
        name=name,
    )(x)
    return _normalised(x, name, activation=True)


def _pointwise(x: KerasTensor, filters: int, name: str) -> KerasTensor:
    return layers.Conv2D(filters, 1, use_bias=False, name=name)(x)


def _normalised(x: KerasTensor, name: str, activation: bool = False) -> KerasTensor:
    """`x` with batch normalisation and, with `activation`, ReLU6."""
    x = layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activation else x
