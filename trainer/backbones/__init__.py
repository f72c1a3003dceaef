"""Backbones: each module has `feature_maps(images)` for pictures [batch, size, size, 3], RGB 0-255.

A backbone scales the pictures as its weights expect, in float32 whatever the precision of the rest,
and returns the feature maps for the detector's anchors, finest first. If it has published weights,
the module has their `PRETRAINED` too.
"""

from collections.abc import Callable
from dataclasses import dataclass

# What the input pipeline fills around a picture: ImageNet's mean colour, RGB.
MEAN_RGB = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class Pretrained:
    """Where to find a backbone's ImageNet weights, and how to convert files to its layers.

    They are downloaded from `url` or read from an installed `package`. `from_keras` turns the
    (name, weights) pairs of a Keras file into {our layer: weights}; `from_torch` does so for a
    PyTorch state dict and the class names. A backbone may have only one of the two.
    """

    url: str = ""
    md5: str = ""
    package: str = ""
    from_keras: Callable | None = None
    from_torch: Callable | None = None
