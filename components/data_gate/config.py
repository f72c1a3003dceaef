"""What the data gate blocks and what it only reports."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from data.looks import SAME_LOOK_DISTANCE
from data.settings import CHECKED, Fraction, Settings, one_of

BLOCK = "block"
DROP_TRAIN = "drop_train"

# Checks whose findings block or warn depending on the configuration. Schema anomalies always block;
# `on_leak` is for pictures in several splits.
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
    """Which findings stop a run, and the limits for findings."""

    on_leak: Annotated[str, one_of((BLOCK, DROP_TRAIN))] = BLOCK
    """Pictures in several splits stop the run; with `drop_train` they are left out of training
    instead and listed in the report."""
    leak_distance: int = Field(default=SAME_LOOK_DISTANCE, ge=-1, le=256)
    """Two pictures are the same if their bytes are, or if their 256-bit perceptual hashes differ in
    at most this many bits. Re-encoded or resized photographs differ in up to 20 bits, different
    ones in at least 80. -1 compares only bytes."""
    block_on: tuple[Annotated[str, one_of(CHECKS)], ...] = ("pictures", "orientation", "boxes")
    """Checks that stop the run; the findings of the others are warnings."""
    max_unmatchable: Fraction = 0.25
    """Share of objects that overlap no anchor by `trainer.matching_iou`: 0.13 for SSD300 on
    VOC, 0.07 for SSD512."""
    min_pictures: int = Field(default=100, ge=0)
    """Per split. Smaller splits are not compared with others, where differences are mostly chance,
    unless `block_on` names skew or drift."""
    max_skew: Fraction = 0.1
    """Limit on the distance of the train split from the others: L-infinity distance of class
    frequencies, Jensen-Shannon divergence of sizes and positions."""
    max_drift: Fraction = 0.1
    """Limit on the same distances from the train split of the latest blessed model."""
