"""A detector of two convolutions on 32 px, which compiles quickly."""

import keras

from trainer.anchors import AnchorSpec
from trainer.detector import DetectorSpec


def _maps(images):
    # In float32 at any precision, like the backbones.
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32")(images)
    maps = []
    for stride in (8, 2):
        x = keras.layers.Conv2D(8, stride, strides=stride, name=f"conv{stride}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm{stride}")(x)
        x = keras.layers.ReLU()(x)
        maps.append(x)
    return maps


TINY = DetectorSpec(_maps, AnchorSpec(32, (4, 2), (8, 16), (8, 16), (16, 28), ((2,), (2,))))
