"""What the Trainer needs to know, with the paper's values as defaults. Imports nothing heavy."""

import math
import typing
from dataclasses import dataclass

ANCHOR_STYLES = ("paper", "clipped", "hikapok")
AUGMENTATIONS = ("none", "light", "paper", "hikapok")
DETECTORS = (
    "ssd300-vgg16",
    "ssd512-vgg16",
    "ssd300-mobilenet",
    "ssd300-resnet50",
    "ssd128-small",
)
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


@dataclass(frozen=True)
class TrainerConfig:
    """One training run. `steps` counts optimiser steps on batches of `batch_size` pictures.

    `batch_size` is that of all devices together and the learning rate is the one for that batch, so
    neither changes with the number of devices, of which it has to be a multiple.

    `schedule` says how the rate falls after the warm-up: `steps` divides it by ten after each
    fraction of `steps` in `learning_rate_steps` (the paper's 80k and 100k of 120k are 2/3 and 5/6),
    `cosine` lets it fall to 0 along half a cosine. Weight decay is on kernels alone;
    `double_bias_rate` is the other half of the Caffe release's rule, biases that learn at twice the
    rate. `clip_norm` bounds the norm of all gradients, 0 does not. With `ema` above 0 weights and
    moving statistics are averaged over the steps, `average = ema * average + (1 - ema) * weights`
    with less than `ema` in the first steps (`trainer.moving_averages`), and the averages are
    evaluated and exported.

    `precision` is Keras' dtype policy: `mixed_bfloat16`, or `mixed_float16` with a loss scale that
    follows the gradients. Losses, box codes and the exported model are float32. `xla` compiles the
    step by XLA, which helps on GPUs and not on CPUs, and works on one device.

    `backbone_weights` is `none`, `imagenet` or the path of a Keras or PyTorch file
    (`trainer.weights`). Pictures are shuffled through a buffer of `shuffle_buffer`, whose
    encoded bytes are held in memory.

    Every `eval_every` steps and at the end the mAP on the eval split is measured, and the best
    weights are exported; with 0 it is not, and the last ones are. `warm_start` is empty, the path
    of a model that was exported before (`trainer.weights.saved_model`), or `latest` for the latest
    blessed one; where there is none yet, `backbone_weights` counts.
    """

    detector: str = "ssd300-vgg16"
    anchors: str = "paper"
    backbone_weights: str = NO_WEIGHTS
    augmentation: str = "paper"
    use_difficult: bool = True
    batch_size: int = 32
    steps: int = 120_000
    learning_rate: float = 1e-3
    schedule: str = "steps"
    warmup_steps: int = 500
    warmup_learning_rate: float = 1e-4
    learning_rate_steps: tuple[float, ...] = (2 / 3, 5 / 6)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    double_bias_rate: bool = False
    clip_norm: float = 0.0
    ema: float = 0.0
    precision: str = "float32"
    xla: bool = False
    seed: int = 0
    shuffle_buffer: int = 2048
    log_every: int = 10
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    eval_every: int = 0
    warm_start: str = ""

    def __post_init__(self):
        for field, kind in typing.get_type_hints(TrainerConfig).items():
            _check_type(field, getattr(self, field), kind)
        for field, allowed in (
            ("detector", DETECTORS),
            ("anchors", ANCHOR_STYLES),
            ("augmentation", AUGMENTATIONS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
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
        for field, most in (("seed", _MAX_SEED), ("shuffle_buffer", _MAX_BUFFER)):
            if getattr(self, field) > most:
                raise ValueError(f"trainer.{field}: {getattr(self, field)} must be at most {most}")
        for field in ("momentum", "ema"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"trainer.{field}: {getattr(self, field)} must be in [0, 1)")
        if self.schedule == "cosine" and self.warmup_steps >= self.steps:
            raise ValueError(
                f"trainer.warmup_steps: {self.warmup_steps} must be less than trainer.steps "
                f"({self.steps}) with the cosine schedule, which begins when they are over"
            )
        bounds = self.learning_rate_steps
        if list(bounds) != sorted(bounds) or any(not 0 < b <= 1 for b in bounds):
            raise ValueError(
                f"trainer.learning_rate_steps: {bounds} must rise and lie in (0, 1]; "
                "each is a fraction of trainer.steps"
            )


def _check_type(field: str, value, kind) -> None:
    """ValueError unless a field's value is of its type; a whole number is a number too."""
    if typing.get_origin(kind) is tuple:
        item, _ = typing.get_args(kind)
        if not isinstance(value, tuple):
            raise ValueError(f"trainer.{field}: {value!r} must be a tuple")
        for part in value:
            _check_type(field, part, item)
        return
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise ValueError(f"trainer.{field}: {value!r} must be {names[kind]}")
