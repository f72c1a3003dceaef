"""The Trainer's configuration, with the paper's values as defaults. Imports nothing heavy."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from data.settings import CHECKED, Fraction, Settings, one_of, parse
from trainer.model_zoo import ANCHOR_STYLES, DETECTORS
from trainer.recipes import RECIPES

SCHEDULES = ("steps", "cosine")
MIXED_FLOAT16 = "mixed_float16"
PRECISIONS = ("float32", "mixed_bfloat16", MIXED_FLOAT16)
LATEST = "latest"
NO_WEIGHTS = "none"
# Pairs of fields of which exactly one is set: in steps, or relative to the data or the training.
ALTERNATIVES = (
    ("steps", "epochs"),
    ("warmup_steps", "warmup_fraction"),
    ("eval_every", "eval_every_epochs"),
)
# Fields that say what a training writes on the way; they do not change its result.
BOOKKEEPING = ("log_every", "checkpoint_every", "keep_checkpoints")
# numpy's seeds have 32 bits, and no data set has that many records.
_MAX_SEED = 2**32 - 1
_MAX_BUFFER = 2**31 - 1
IMAGENET_WEIGHTS = "imagenet"


@dataclass(frozen=True, config=CHECKED)
class TrainerConfig(Settings):
    """One training run."""

    detector: Annotated[str, one_of(DETECTORS)] = "ssd300-vgg16"
    anchors: Annotated[str, one_of(ANCHOR_STYLES)] = "paper"
    backbone_weights: str = NO_WEIGHTS
    """`none`, `imagenet` or the path of a Keras or PyTorch file (`trainer.weights`)."""
    augmentation: Annotated[str, one_of(RECIPES)] = "paper"
    use_difficult: bool = True
    batch_size: int = Field(default=32, ge=1)
    """Pictures per step over all devices; must be a multiple of their number."""
    steps: int | None = Field(default=120_000, ge=1)
    """Optimiser steps, each on one batch. Either `steps` or `epochs` is set."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training pictures."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """For the whole batch, so the number of devices does not change it."""
    backbone_rate: float = Field(default=1.0, gt=0)
    """Factor on the backbone's learning rate: pretrained weights want smaller steps than new
    ones."""
    schedule: Annotated[str, one_of(SCHEDULES)] = "steps"
    """How the rate falls after the warm-up: in `steps`, or along half a `cosine` to 0."""
    warmup_steps: int | None = Field(default=500, ge=0)
    """Steps over which the rate rises from `warmup_learning_rate`. Or set `warmup_fraction`."""
    warmup_fraction: float | None = Field(default=None, ge=0, lt=1)
    """The warm-up as a share of the training."""
    warmup_learning_rate: float = Field(default=1e-4, gt=0)
    learning_rate_steps: tuple[float, ...] = (2 / 3, 5 / 6)
    """Fractions of the training after which the schedule `steps` divides the rate by ten. The
    paper's 80k and 100k of 120k steps are 2/3 and 5/6."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    """On kernels only."""
    double_bias_rate: bool = False
    """Biases learn at twice the rate, the other half of the Caffe release's rule."""
    clip_norm: float = Field(default=0.0, ge=0)
    """Limit on the global gradient norm; 0 for none."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Above 0, moving averages of weights and statistics are evaluated and exported, with `average
    = ema * average + (1 - ema) * weights` and a smaller `ema` in the first steps
    (`trainer.moving_averages`)."""
    matching_iou: float = Field(default=0.5, gt=0, le=1)
    """IoU from which an anchor matches an object; each object's best anchor always does."""
    negatives_per_positive: int = Field(default=3, ge=1)
    """Background anchors per positive that count in a picture, those with the highest loss."""
    score_threshold: float = Field(default=0.01, ge=0, lt=1)
    """The exported model drops detections with lower scores."""
    candidates_per_class: int = Field(default=400, ge=1)
    """How many of each class's best boxes go into non-maximum suppression."""
    nms_iou: Fraction = 0.45
    """Non-maximum suppression drops boxes with a higher IoU with a better box of their class."""
    max_detections: int = Field(default=200, ge=1)
    """Most detections that the exported model returns for a picture."""
    precision: Annotated[str, one_of(PRECISIONS)] = "float32"
    """Keras' dtype policy. `mixed_float16` uses dynamic loss scaling. Losses, box
    codes and the exported model are always float32."""
    xla: bool = False
    """Compile the step with XLA, which helps on GPUs but not on CPUs, and works on one device."""
    seed: int = Field(default=0, ge=0, le=_MAX_SEED)
    shuffle_buffer: int = Field(default=2048, ge=1, le=_MAX_BUFFER)
    """Size of the shuffle buffer in pictures; it holds their encoded bytes in memory."""
    log_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    eval_every: int | None = Field(default=0, ge=0)
    """Steps between measurements of the mAP on the eval split, which is also measured at the end.
    The best weights are exported. With 0 nothing is measured and the last weights are exported. Or
    set `eval_every_epochs`."""
    eval_every_epochs: float | None = Field(default=None, ge=0)
    patience: int = Field(default=0, ge=0)
    """Stop after this many measurements in a row without a new best mAP; 0 trains to the end."""
    frozen_stages: int = Field(default=0, ge=0)
    """How many of the backbone's first stages keep their weights. What they detect is general;
    freezing them saves most of their training time."""
    warm_start: str = ""
    """A model to start from: the path of an exported one (`trainer.weights.saved_model`), `latest`
    for the latest blessed one (`backbone_weights` while there is none yet), or empty."""

    @field_validator("learning_rate_steps")
    @classmethod
    def _rise(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if list(fractions) != sorted(fractions) or any(not 0 < f <= 1 for f in fractions):
            raise ValueError("must rise within (0, 1]; each is a fraction of trainer.steps")
        return fractions

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        for steps, relative in ALTERNATIVES:
            if (getattr(self, steps) is None) == (getattr(self, relative) is None):
                raise ValueError(f"set either {steps} or {relative}, not both or neither")
        return self

    @model_validator(mode="after")
    def _can_stop_and_freeze(self) -> Self:
        if self.patience and not (self.eval_every or self.eval_every_epochs):
            raise ValueError("patience: needs eval_every or eval_every_epochs above 0")
        if self.frozen_stages and self.backbone_weights == NO_WEIGHTS and not self.warm_start:
            raise ValueError(
                f"frozen_stages: {self.frozen_stages} stages of random weights would never learn. "
                "Set backbone_weights=imagenet, or frozen_stages=0"
            )
        return self

    @model_validator(mode="after")
    def _cosine_has_steps(self) -> Self:
        if self.steps is None or self.warmup_steps is None:
            return self
        if self.schedule == "cosine" and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be less than steps ({self.steps}) with "
                "the cosine schedule, which starts after the warm-up"
            )
        return self


@dataclass(frozen=True, config=CHECKED, kw_only=True)
class ConfigInSteps(TrainerConfig):
    """A training run whose lengths are all in steps."""

    steps: int
    warmup_steps: int
    eval_every: int


def only_the_given(values: dict[str, Any], given: Collection[str]) -> None:
    """Drops a preset's value where the user set the other field of the pair (ALTERNATIVES).

    Args:
      values: fields of a TrainerConfig, changed in place.
      given: names of the fields that the user set.
    """
    for pair in ALTERNATIVES:
        for field, other in (pair, pair[::-1]):
            if field in given and other not in given and values.get(other) is not None:
                values[other] = None


def in_steps(config: TrainerConfig, count_pictures: Callable[[], int]) -> ConfigInSteps:
    """The configuration with all lengths in steps.

    Args:
      count_pictures: returns the number of training pictures; called only if a length is in epochs.

    Raises:
      ValueError: the cosine schedule has no steps left after the warm-up.
    """
    values = dataclasses.asdict(config)
    steps = config.steps
    if config.epochs or config.eval_every_epochs:
        steps_per_epoch = count_pictures() / config.batch_size
    if config.epochs is not None:
        steps = max(1, round(config.epochs * steps_per_epoch))
        values |= {"steps": steps, "epochs": None}
    if config.warmup_fraction is not None and steps is not None:
        values |= {"warmup_steps": int(config.warmup_fraction * steps), "warmup_fraction": None}
    if (epochs := config.eval_every_epochs) is not None:
        every = max(1, round(epochs * steps_per_epoch)) if epochs else 0
        values |= {"eval_every": every, "eval_every_epochs": None}
    return parse(ConfigInSteps, values, lambda names: "trainer." if names else "trainer: ")
