"""Converts published VGG-16 and SSD weights to the layers of `backbones.vgg16`.

Channel order: the network turns its RGB input into BGR, as Caffe's VGG-16 expects. The weights of
keras.applications and `vgg16_reducedfc.pth` are from that VGG-16 and are used unchanged. A full SSD
from ssd.pytorch was trained on RGB (its loader swaps OpenCV's BGR), so its first layer's input
channels are swapped here. A full SSD converted from Caffe to the same naming would expect BGR; the
file does not say, so such files are not supported.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from data.errors import DataError

# The VOC order of ssd.pytorch; its class 0 is background, as here.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

_CONVOLUTIONS = [
    (block, index)
    for block, count in enumerate((2, 2, 3, 3, 3), start=1)
    for index in range(1, count + 1)
]
_LAYERS = [f"conv{block}_{index}" for block, index in _CONVOLUTIONS] + ["fc6", "fc7"]
# Their positions in ssd.pytorch's list of layers, which includes activations and poolings.
_POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33)
# keras.applications flattens 7 x 7 x 512 values for its first dense layer.
_FC1_SHAPE = (7, 7, 512, 4096)


def from_keras(layers: Iterable[tuple[str, list[np.ndarray]]]) -> dict[str, list[np.ndarray]]:
    """Converts keras.applications' VGG16, with or without its dense layers.

    fc1 and fc2 are subsampled to fc6 and fc7: every third tap in both directions and every fourth
    channel stay (SSD paper, section 3, after DeepLab).

    Args:
      layers: (name, weights) from `keras_file.read_layers`.
    """
    found = dict(layers)
    converted = {}
    for block, index in _CONVOLUTIONS:
        name = f"block{block}_conv{index}"
        if name not in found:
            raise DataError(f"has no layer {name}; it has {', '.join(list(found)[:5])}, ...")
        converted[f"conv{block}_{index}"] = found[name]
    if "fc1" in found and "fc2" in found:
        kernel1, bias1 = _dense(found, "fc1", (int(np.prod(_FC1_SHAPE[:3])), 4096))
        kernel2, bias2 = _dense(found, "fc2", (4096, 4096))
        kernel1 = kernel1.reshape(_FC1_SHAPE)
        converted["fc6"] = [kernel1[::3, ::3, :, ::4], bias1[::4]]
        converted["fc7"] = [kernel2[None, None, ::4, ::4], bias2[::4]]
    return converted


def _dense(
    found: dict[str, list[np.ndarray]], name: str, wanted: tuple[int, int]
) -> list[np.ndarray]:
    shapes = [value.shape for value in found[name]]
    if shapes != [wanted, wanted[1:]]:
        raise DataError(f"layer {name}: weights of shapes {shapes}, not {[wanted, wanted[1:]]}")
    return found[name]


def from_torch(
    tensors: dict, class_names: Sequence[str] | None = None
) -> dict[str, list[np.ndarray]]:
    """Converts ssd.pytorch's files: `vgg16_reducedfc.pth` or a full SSD trained on VOC.

    Args:
      tensors: the state dict.
      class_names: the network's classes in the order of their ids; None leaves out all heads. Class
        heads are converted only if both file and names have VOC's twenty classes.
    """
    unread = dict(tensors)

    def take(key: str) -> np.ndarray:
        if key not in unread:
            raise DataError(f"has no tensor {key}; it has {', '.join(list(tensors)[:5])}, ...")
        return unread.pop(key)

    def convolution(key: str) -> list[np.ndarray]:
        kernel = take(f"{key}.weight")
        if kernel.ndim != 4:
            raise DataError(f"{key}.weight: shape {kernel.shape}, not a 2-D convolution's")
        return [kernel.transpose(2, 3, 1, 0), take(f"{key}.bias")]

    whole = "vgg.0.weight" in tensors
    prefix = "vgg." if whole else ""
    converted = {
        layer: convolution(f"{prefix}{position}")
        for layer, position in zip(_LAYERS, _POSITIONS, strict=True)
    }
    if whole:
        kernel, bias = converted["conv1_1"]
        converted["conv1_1"] = [kernel[:, :, ::-1], bias]
        converted["conv4_3_norm"] = [take("L2Norm.weight")]
        for index in range(_count(tensors, "extras")):
            converted[f"conv{8 + index // 2}_{1 + index % 2}"] = convolution(f"extras.{index}")
        of_voc = sorted(class_names or ()) == sorted(VOC_CLASSES)
        for level in range(_count(tensors, "loc")):
            boxes, classes = convolution(f"loc.{level}"), convolution(f"conf.{level}")
            if class_names is None:
                continue
            converted[f"box_head{level}"] = [_height_first(value) for value in boxes]
            if of_voc and classes[1].size == boxes[1].size // 4 * (len(VOC_CLASSES) + 1):
                converted[f"class_head{level}"] = [_ordered(v, class_names) for v in classes]
    if unread:
        raise DataError(f"tensor {next(iter(unread))} belongs to no layer of SSD on VGG-16")
    return converted


def _count(tensors: Iterable[str], part: str) -> int:
    return sum(name.startswith(f"{part}.") and name.endswith(".weight") for name in tensors)


def _height_first(values: np.ndarray) -> np.ndarray:
    """Box codes (x, y, width, height) to (y, x, height, width), along the last axis."""
    grouped = values.reshape(*values.shape[:-1], -1, 4)
    return grouped[..., [1, 0, 3, 2]].reshape(values.shape)


def _ordered(values: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Class scores per anchor, along the last axis, from VOC's order to that of `class_names`."""
    order = [0, *(1 + VOC_CLASSES.index(name) for name in class_names)]
    grouped = values.reshape(*values.shape[:-1], -1, len(order))
    return grouped[..., order].reshape(values.shape)
