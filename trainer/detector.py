"""The SSD network: a backbone, its anchors and a pair of heads on every feature map."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import keras
from keras import layers

from data.errors import DataError
from trainer.anchors import AnchorSpec
from trainer.backbones import Pretrained, efficientnet_lite, mobilenet, resnet50, small, vgg16
from trainer.config import TrainerConfig
from trainer.model_zoo import DETECTORS, anchor_spec


def dense_head(x: keras.KerasTensor, outputs: int, name: str) -> keras.KerasTensor:
    """[batch, height, width, outputs] by a 3x3 convolution, the paper's head."""
    return layers.Conv2D(
        outputs, 3, padding="same", kernel_initializer="glorot_uniform", name=name
    )(x)


@dataclass(frozen=True)
class DetectorSpec:
    """What a detector is made of, apart from its classes."""

    feature_maps: Callable
    anchors: AnchorSpec
    pretrained: Pretrained | None = None
    head: Callable = dense_head
    stages: tuple[str, ...] = ()
    """Regular expressions for the names of the backbone's layers, one per stage, input first."""


class _Backbone(Protocol):
    def feature_maps(self, images: keras.KerasTensor, /) -> list: ...


# By the names used in `trainer.model_zoo`.
_BACKBONES: dict[str, _Backbone] = {
    "efficientnet_lite0": efficientnet_lite.LITE0,
    "mobilenet": mobilenet,
    "resnet50": resnet50,
    "small": small,
    "vgg16": vgg16,
}


def detector_spec(config: TrainerConfig) -> DetectorSpec:
    """The parts of the configured detector.

    Raises:
      DataError: the detector has no anchors of the configured style.
    """
    anchors = anchor_spec(config.detector, config.anchors)
    backbone = _BACKBONES[DETECTORS[config.detector].backbone]
    return DetectorSpec(
        backbone.feature_maps,
        anchors,
        getattr(backbone, "PRETRAINED", None),
        getattr(backbone, "head", dense_head),
        getattr(backbone, "STAGES", ()),
    )


def freeze_stages(network: keras.Model, spec: DetectorSpec, count: int) -> None:
    """Makes the first stages of the backbone untrainable; batch normalisation keeps its statistics.

    Raises:
      DataError: the backbone has fewer stages.
    """
    if count > len(spec.stages):
        raise DataError(
            f"trainer.frozen_stages: {count}, but this detector's backbone has "
            f"{len(spec.stages) or 'no'} stages to freeze"
        )
    for pattern in spec.stages[:count]:
        for layer in network.layers:
            if re.match(pattern, layer.name):
                layer.trainable = False


def build_network(spec: DetectorSpec, num_classes: int, precision: str = "float32") -> keras.Model:
    """The network for `num_classes` classes, not counting background.

    Input: float [batch, size, size, 3], RGB 0-255. Outputs: box codes [batch, num_anchors, 4] and
    class logits [batch, num_anchors, 1 + num_classes], both float32 and in the order of
    `anchors.anchor_boxes`. `precision` is Keras' dtype policy for the layers in between; the
    weights are always float32.
    """
    with _dtype_policy(precision):
        return _build(spec, num_classes)


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    # Layers of keras.applications follow only the global policy.
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
            f"the backbone has maps of {found}, the anchors need {spec.anchors.feature_sizes}"
        )
    codes: list[keras.KerasTensor] = []
    logits: list[keras.KerasTensor] = []
    for level, x in enumerate(maps):
        for values, name, results in (
            (4, f"box_head{level}", codes),
            (num_classes + 1, f"class_head{level}", logits),
        ):
            head = spec.head(x, spec.anchors.per_cell(level) * values, name)
            results.append(layers.Reshape((-1, values), name=f"{name}_per_anchor")(head))
    concatenate = {"axis": 1, "dtype": "float32"}
    return keras.Model(
        images,
        [
            layers.Concatenate(name="box_codes", **concatenate)(codes),
            layers.Concatenate(name="class_logits", **concatenate)(logits),
        ],
        name="ssd",
    )
