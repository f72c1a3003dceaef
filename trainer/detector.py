"""The SSD network: a backbone, its anchors and a pair of heads on every feature map."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import keras
from keras import layers

from data.errors import DataError
from trainer import anchors
from trainer.anchors import AnchorSpec
from trainer.backbones import Pretrained, mobilenet, resnet50, small, vgg16
from trainer.config import TrainerConfig


@dataclass(frozen=True)
class DetectorSpec:
    """What a detector is made of, apart from its classes."""

    feature_maps: Callable
    anchors: AnchorSpec
    pretrained: Pretrained | None = None


# Adding a detector: a backbone module, an anchor layout and a row here (and in config.DETECTORS).
_DETECTORS = {
    ("ssd300-vgg16", "paper"): DetectorSpec(vgg16.feature_maps, anchors.SSD300, vgg16.PRETRAINED),
    ("ssd300-vgg16", "clipped"): DetectorSpec(
        vgg16.feature_maps, anchors.SSD300_CLIPPED, vgg16.PRETRAINED
    ),
    ("ssd300-vgg16", "hikapok"): DetectorSpec(
        vgg16.feature_maps, anchors.SSD300_HIKAPOK, vgg16.PRETRAINED
    ),
    ("ssd512-vgg16", "paper"): DetectorSpec(vgg16.feature_maps, anchors.SSD512, vgg16.PRETRAINED),
    ("ssd300-mobilenet", "paper"): DetectorSpec(
        mobilenet.feature_maps, anchors.SSD300_COARSE, mobilenet.PRETRAINED
    ),
    ("ssd300-resnet50", "paper"): DetectorSpec(
        resnet50.feature_maps, anchors.SSD300, resnet50.PRETRAINED
    ),
    ("ssd128-small", "paper"): DetectorSpec(small.feature_maps, anchors.SSD128),
}


def detector_spec(config: TrainerConfig) -> DetectorSpec:
    """The parts of the configured detector; DataError for a pair that does not exist."""
    spec = _DETECTORS.get((config.detector, config.anchors))
    if spec is None:
        known = ", ".join(style for name, style in _DETECTORS if name == config.detector)
        raise DataError(
            f"trainer.anchors: {config.anchors!r} does not exist for {config.detector}; use {known}"
        )
    return spec


def build_network(spec: DetectorSpec, num_classes: int, precision: str = "float32") -> keras.Model:
    """The network for `num_classes` classes, background not counted.

    Input: float [batch, size, size, 3], RGB 0-255. Outputs: box codes [batch, num_anchors, 4] and
    class logits [batch, num_anchors, 1 + num_classes], both float32 and in the order of
    `anchors.anchor_boxes`. `precision` is Keras' dtype policy for what lies between; the weights
    are float32 with each of them.
    """
    with _dtype_policy(precision):
        return _build(spec, num_classes)


@contextmanager
def _dtype_policy(name: str):
    # Layers of keras.applications take no policy but the global one.
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _build(spec: DetectorSpec, num_classes: int) -> keras.Model:
    size = spec.anchors.image_size
    images = keras.Input((size, size, 3), name="images")
    maps = spec.feature_maps(images)
    found = tuple(x.shape[1] for x in maps)
    if found != spec.anchors.feature_sizes:
        raise ValueError(
            f"backbone gives maps of {found}, anchors stand on {spec.anchors.feature_sizes}"
        )
    codes, logits = [], []
    for level, x in enumerate(maps):
        per_cell = spec.anchors.per_cell(level)
        codes.append(_head(x, per_cell, 4, f"box_head{level}"))
        logits.append(_head(x, per_cell, num_classes + 1, f"class_head{level}"))
    concatenate = {"axis": 1, "dtype": "float32"}
    return keras.Model(
        images,
        [
            layers.Concatenate(name="box_codes", **concatenate)(codes),
            layers.Concatenate(name="class_logits", **concatenate)(logits),
        ],
        name="ssd",
    )


def _head(x, per_cell: int, values: int, name: str):
    x = layers.Conv2D(
        per_cell * values, 3, padding="same", kernel_initializer="glorot_uniform", name=name
    )(x)
    return layers.Reshape((-1, values), name=f"{name}_per_anchor")(x)
