"""What the Trainer needs to know, with the paper's values as defaults. Imports nothing heavy."""

import math
from dataclasses import dataclass

ANCHOR_STYLES = ("paper", "clipped", "seed")
AUGMENTATIONS = ("none", "light", "paper", "seed")
DETECTORS = (
    "ssd300-vgg16",
    "ssd512-vgg16",
    "ssd300-mobilenet",
    "ssd300-resnet50",
    "ssd128-small",
)
NO_WEIGHTS = "none"
IMAGENET_WEIGHTS = "imagenet"


@dataclass(frozen=True)
class TrainerConfig:
    """One training run. `steps` counts optimiser steps on batches of `batch_size` pictures.

    `learning_rate_steps` are fractions of `steps` after which the rate is divided by ten; the
    paper's 80k and 100k of 120k are 2/3 and 5/6. `backbone_weights` is `none`, `imagenet` or the
    path of a Keras or PyTorch file (`trainer.weights`). `clip_norm` 0 means no clipping. Pictures
    are shuffled within blocks of `shuffle_buffer`, whose encoded bytes are held in memory. Every
    `eval_every` steps and at the end the mAP on the eval split is measured, and the best weights
    are exported; with 0 it is not, and the last ones are.
    """

    detector: str = "ssd300-vgg16"
    anchors: str = "paper"
    backbone_weights: str = NO_WEIGHTS
    augmentation: str = "paper"
    use_difficult: bool = True
    batch_size: int = 32
    steps: int = 120_000
    learning_rate: float = 1e-3
    warmup_steps: int = 500
    warmup_learning_rate: float = 1e-4
    learning_rate_steps: tuple[float, ...] = (2 / 3, 5 / 6)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 0.0
    seed: int = 0
    shuffle_buffer: int = 2048
    log_every: int = 10
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    eval_every: int = 0

    def __post_init__(self):
        for field, allowed in (
            ("detector", DETECTORS),
            ("anchors", ANCHOR_STYLES),
            ("augmentation", AUGMENTATIONS),
        ):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(
                    f"trainer.{field}: {value!r} is not known; choose one of {', '.join(allowed)}"
                )
        for field in (
            "batch_size",
            "steps",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "shuffle_buffer",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"trainer.{field}: {getattr(self, field)} must be at least 1")
        for field in ("learning_rate", "warmup_learning_rate"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"trainer.{field}: {getattr(self, field)} must be above 0, finite")
        for field in ("warmup_steps", "weight_decay", "clip_norm", "seed", "eval_every"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(
                    f"trainer.{field}: {getattr(self, field)} must not be negative, but finite"
                )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"trainer.momentum: {self.momentum} must be in [0, 1)")
        bounds = self.learning_rate_steps
        if list(bounds) != sorted(bounds) or any(not 0 < b <= 1 for b in bounds):
            raise ValueError(
                f"trainer.learning_rate_steps: {bounds} must rise and lie in (0, 1]; "
                "each is a fraction of trainer.steps"
            )
