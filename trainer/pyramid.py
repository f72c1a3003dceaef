"""A feature pyramid of depthwise separable convolutions, and heads of the same kind.

The pyramid brings what coarse maps know about objects to the fine ones (Feature Pyramid Networks,
section 3); the heads are SSDLite's (MobileNetV2, section 6.2).
"""

from keras import KerasTensor, layers

# Of the moving statistics, which a training of a few hundred steps has to reach.
_MOMENTUM = 0.97


def pyramid(maps: list[KerasTensor], filters: int) -> list:
    """Maps of `filters` channels each: those of `maps`, then coarser ones down to a single cell.

    Args:
      maps: finest first, each half as fine as the one before, rounded up.
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
        # As SSD300 does it: "same" would pad the far side only and shift the map by half a cell.
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
    """`x` with batch normalisation, and ReLU6 where there is an activation."""
    x = layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activation else x
