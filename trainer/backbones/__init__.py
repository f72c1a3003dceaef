"""Backbones: each module has `feature_maps(images)` for pictures [batch, size, size, 3], RGB 0-255.

A backbone scales the pictures as its weights want them, in float32 whatever the precision of the
rest, and returns the maps that the detector's anchors stand on, finest first. One with published
weights has their `PRETRAINED` beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass

# What the input pipeline puts outside the picture: the mean colour of ImageNet, RGB.
MEAN_RGB = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class Pretrained:
    """Where a backbone's ImageNet weights are published, and how files become its layers.

    They are either downloaded from `url` or a file of an installed `package`. `from_keras` turns
    the (name, weights) pairs of a Keras file into {layer of ours: weights}; `from_torch` does so
    for a PyTorch state dict and the names of the classes. A backbone may have only one of the two.
    """

    url: str = ""
    md5: str = ""
    package: str = ""
    from_keras: Callable | None = None
    from_torch: Callable | None = None
