"""What the Trainer needs to know, with the paper's values as defaults. Imports nothing heavy."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from data.settings import CHECKED, Fraction, Settings, one_of
from trainer.model_zoo import ANCHOR_STYLES, DETECTORS
from trainer.recipes import RECIPES

SCHEDULES = ("steps", "cosine")
MIXED_FLOAT16 = "mixed_float16"
PRECISIONS = ("float32", "mixed_bfloat16", MIXED_FLOAT16)
LATEST = "latest"
NO_WEIGHTS = "none"
# Fields that say what a training writes on its way; they do not change what it ends with.
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
    batch_size: int = Field(32, ge=1)
    """Pictures a step on all devices together, a multiple of their number."""
    steps: int = Field(120_000, ge=1)
    """Optimiser steps, each on one batch."""
    learning_rate: float = Field(1e-3, gt=0)
    """For the whole batch, so the number of devices does not change it."""
    schedule: Annotated[str, one_of(SCHEDULES)] = "steps"
    """How the rate falls after the warm-up: in `steps`, or along half a `cosine` to 0."""
    warmup_steps: int = Field(500, ge=0)
    warmup_learning_rate: float = Field(1e-4, gt=0)
    learning_rate_steps: tuple[float, ...] = (2 / 3, 5 / 6)
    """Fractions of `steps` after which the schedule `steps` divides the rate by ten. The paper's
    80k and 100k of 120k are 2/3 and 5/6."""
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    """On kernels only."""
    double_bias_rate: bool = False
    """Biases learn at twice the rate, the other half of the Caffe release's rule."""
    clip_norm: float = Field(0.0, ge=0)
    """Bound on the norm of all gradients together; 0 for none."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Above 0, weights and moving statistics are averaged over the steps and the averages are
    evaluated and exported: `average = ema * average + (1 - ema) * weights`, with less than `ema` in
    the first steps (`trainer.moving_averages`)."""
    matching_iou: float = Field(0.5, gt=0, le=1)
    """IoU from which an anchor answers for an object, beside the best anchor of each object."""
    negatives_per_positive: int = Field(3, ge=1)
    """Background anchors with the highest loss that count in a picture, for each positive one."""
    score_threshold: float = Field(0.01, ge=0, lt=1)
    """The exported model leaves out detections with lower scores."""
    candidates_per_class: int = Field(400, ge=1)
    """Boxes with the highest scores of each class that go into non-maximum suppression."""
    nms_iou: Fraction = 0.45
    """Non-maximum suppression drops boxes that overlap a better one of their class by more."""
    max_detections: int = Field(200, ge=1)
    """Most detections that the exported model answers for a picture."""
    precision: Annotated[str, one_of(PRECISIONS)] = "float32"
    """Keras' dtype policy. `mixed_float16` has a loss scale that follows the gradients. Losses, box
    codes and the exported model are always float32."""
    xla: bool = False
    """Compile the step with XLA, which helps on GPUs but not on CPUs, and works on one device."""
    seed: int = Field(0, ge=0, le=_MAX_SEED)
    shuffle_buffer: int = Field(2048, ge=1, le=_MAX_BUFFER)
    """Pictures that are shuffled at a time; their encoded bytes are held in memory."""
    log_every: int = Field(10, ge=1)
    checkpoint_every: int = Field(1000, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    eval_every: int = Field(0, ge=0)
    """Steps between measurements of the mAP on the eval split, which is also measured at the end.
    The best weights are exported; with 0 nothing is measured and the last ones are."""
    warm_start: str = ""
    """A model to start from: the path of an exported one (`trainer.weights.saved_model`), `latest`
    for the latest blessed one, or empty. While there is none yet, `backbone_weights` counts."""

    @field_validator("learning_rate_steps")
    @classmethod
    def _rise(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if list(fractions) != sorted(fractions) or any(not 0 < f <= 1 for f in fractions):
            raise ValueError("must rise within (0, 1]; each is a fraction of trainer.steps")
        return fractions

    @model_validator(mode="after")
    def _cosine_has_steps(self) -> Self:
        if self.schedule == "cosine" and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be less than steps ({self.steps}) with "
                "the cosine schedule, which starts after the warm-up"
            )
        return self
