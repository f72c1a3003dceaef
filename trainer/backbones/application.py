"""Shared parts of the backbones from keras.applications."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from keras import KerasTensor, layers

from data.errors import DataError


def extra_maps(x: KerasTensor, pairs: Iterable[tuple[int, int, int, int]]) -> list:
    """Maps of extra layer pairs after `x`, with batch normalisation (SSD paper, section 2.1).

    Args:
      pairs: (squeeze, output, stride, padding) for each pair: a 1x1 convolution to `squeeze`
        channels, then a 3x3 one to `output`.
    """
    maps = []
    for number, (squeeze, filters, stride, pad) in enumerate(pairs, start=1):
        x = _convolution(x, squeeze, 1, 1, f"extra{number}_1")
        if pad:
            # Explicit: with stride 2, "same" pads only one side and shifts the map by half a cell.
            x = layers.ZeroPadding2D(pad, name=f"extra{number}_pad")(x)
        x = _convolution(x, filters, 3, stride, f"extra{number}_2")
        maps.append(x)
    return maps


def _convolution(x: KerasTensor, filters: int, kernel: int, stride: int, name: str) -> KerasTensor:
    x = layers.Conv2D(filters, kernel, strides=stride, use_bias=False, name=name)(x)
    x = layers.BatchNormalization(momentum=0.97, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def from_keras(application: Callable) -> Callable:
    """Converter for a `Pretrained`: from a file's layers to those of a keras.applications model.

    Pairs them by order, as Keras does, because some published files have an older version's names.
    The file's remaining layers are the classifier, which is dropped.

    Args:
      application: returns the model without a classifier, with random weights.
    """

    def convert(file_layers: Sequence[tuple[str, list[np.ndarray]]]) -> dict:
        names = [layer.name for layer in application().layers if layer.weights]
        if len(file_layers) < len(names):
            raise DataError(f"{len(file_layers)} layers with weights; {len(names)} are needed")
        return {name: weights for name, (_, weights) in zip(names, file_layers, strict=False)}

    return convert
