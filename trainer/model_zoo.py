"""The detectors by name: their backbones and anchor layouts.

To add a detector, add a row. Does not import Keras, so that checking a configuration is fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from data.errors import DataError
from trainer import anchors
from trainer.anchors import AnchorSpec


@dataclass(frozen=True)
class Detector:
    """`backbone` is a name in `trainer.detector`; `anchors` maps styles to layouts."""

    backbone: str
    anchors: Mapping[str, AnchorSpec]


DETECTORS = {
    "ssd300-vgg16": Detector(
        "vgg16",
        {
            "paper": anchors.SSD300,
            "clipped": anchors.SSD300_CLIPPED,
            "hikapok": anchors.SSD300_HIKAPOK,
        },
    ),
    "ssd512-vgg16": Detector("vgg16", {"paper": anchors.SSD512}),
    "ssd300-mobilenet": Detector("mobilenet", {"paper": anchors.SSD300_COARSE}),
    "ssd300-resnet50": Detector("resnet50", {"paper": anchors.SSD300}),
    "ssd300-lite0": Detector("efficientnet_lite0", {"paper": anchors.SSD300_FINE}),
    "ssd128-small": Detector("small", {"paper": anchors.SSD128}),
}

ANCHOR_STYLES = tuple(
    dict.fromkeys(style for detector in DETECTORS.values() for style in detector.anchors)
)


def anchor_spec(detector: str, style: str) -> AnchorSpec:
    """The anchors of a detector in one of its styles.

    Raises:
      DataError: the detector has no such style.
    """
    layouts = DETECTORS[detector].anchors
    if style not in layouts:
        raise DataError(
            f"trainer.anchors: {style!r} does not exist for {detector}; use {', '.join(layouts)}"
        )
    return layouts[style]
