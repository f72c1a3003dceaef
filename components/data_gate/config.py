"""What the data gate blocks on and what it only reports."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from data.looks import SAME_LOOK_DISTANCE
from data.settings import CHECKED, Fraction, Settings, one_of

BLOCK = "block"
DROP_TRAIN = "drop_train"

# Checks whose findings block or warn as the configuration says. Anomalies against the schema always
# block, and for pictures in several splits there is `on_leak`.
CHECKS = (
    "pictures",
    "orientation",
    "boxes",
    "duplicates",
    "anchors",
    "classes",
    "sizes",
    "skew",
    "drift",
)


@dataclass(frozen=True, config=CHECKED)
class DataGateConfig(Settings):
    """Which findings stop a run, and the limits beyond which there is a finding."""

    on_leak: Annotated[str, one_of((BLOCK, DROP_TRAIN))] = BLOCK
    """Pictures in several splits stop the run, or with `drop_train` the Trainer leaves out the
    training copies and the report lists them."""
    leak_distance: int = Field(default=SAME_LOOK_DISTANCE, ge=-1, le=256)
    """Pictures are the same when their bytes are, or when at most this many of the 256 bits of
    their perceptual hashes differ. Re-encoded or resized photographs differ in up to 20 bits,
    different ones in 80 and more; -1 compares bytes only."""
    block_on: tuple[Annotated[str, one_of(CHECKS)], ...] = ("pictures", "orientation", "boxes")
    """Checks that stop the run; the findings of the others are warnings."""
    max_unmatchable: Fraction = 0.25
    """Share of objects that overlap no anchor by `trainer.matching_iou`: 0.13 for SSD300 on
    VOC, 0.07 for SSD512."""
    min_pictures: int = Field(default=100, ge=0)
    """In each split. Smaller ones are not compared with others: what differs is mostly chance."""
    max_skew: Fraction = 0.1
    """How far the train split may be from the others: L-infinity distance of class frequencies,
    Jensen-Shannon divergence of sizes and positions."""
    max_drift: Fraction = 0.1
    """The same distances from the train split of the latest blessed model."""
