"""What the data gate refuses and what it only tells."""

from dataclasses import dataclass

BLOCK = "block"
DROP_TRAIN = "drop_train"

# Checks whose findings block or warn as the configuration says. Anomalies against the schema always
# block, and for pictures in several splits there is `on_leak`.
CHECKS = ("pictures", "boxes", "duplicates", "anchors", "classes", "sizes", "skew", "drift")


@dataclass(frozen=True)
class DataGateConfig:
    """`block_on` names the checks that stop the run; the findings of the others are warnings.

    Pictures in several splits stop it too, unless `on_leak` is `drop_train`: then the Trainer
    leaves out the training copies, and the report lists them. Pictures are the same when their
    bytes are, or when at most `leak_distance` of the 256 bits of their perceptual hashes differ:
    re-encoded or resized photographs differ in up to 20, different ones in 80 and more; -1 compares
    bytes only.

    Limits of warnings: `max_unmatchable` is the share of objects that overlap no anchor by more
    than 0.5 IoU (0.13 for SSD300 on VOC, 0.07 for SSD512), `min_pictures` the least size of a
    split, `max_skew` and `max_drift` how far the train split may be from the others and from the
    one of the latest blessed model: L-infinity distance of class frequencies, Jensen-Shannon
    divergence of sizes and positions.
    """

    on_leak: str = BLOCK
    leak_distance: int = 40
    block_on: tuple[str, ...] = ("pictures", "boxes")
    max_unmatchable: float = 0.25
    min_pictures: int = 100
    max_skew: float = 0.1
    max_drift: float = 0.1

    def __post_init__(self):
        if self.on_leak not in (BLOCK, DROP_TRAIN):
            raise ValueError(f"data.on_leak: {self.on_leak!r} is not {BLOCK} or {DROP_TRAIN}")
        if not -1 <= self.leak_distance <= 256:
            raise ValueError(f"data.leak_distance: {self.leak_distance} must be in [-1, 256]")
        for check in self.block_on:
            if check not in CHECKS:
                raise ValueError(
                    f"data.block_on: {check!r} is not known; choose of {', '.join(CHECKS)}"
                )
        for name in ("max_unmatchable", "max_skew", "max_drift"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name}: {getattr(self, name)} must be in [0, 1]")
        if self.min_pictures < 0:
            raise ValueError(f"data.min_pictures: {self.min_pictures} must not be negative")
