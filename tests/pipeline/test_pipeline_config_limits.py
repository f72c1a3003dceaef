"""Every numeric setting, at its limits and just beyond them."""

from typing import get_args, get_origin

import pytest

from data.errors import DataError
from data.settings import Settings, field_types
from pipeline.config import Config, load_config

_SHARE = ([0, 1], [-0.01, 1.01])
_BELOW_ONE = ([0, 0.99], [-0.01, 1])
_FROM_ZERO = ([0], [-1])
_FROM_ONE = ([1], [0])
_POSITIVE = ([1e-9], [0])
# Accepted and rejected values.
_LIMITS = {
    "data.eval_fraction": _BELOW_ONE,
    "data.pixels_from": ([0, 1], [-1, 2]),
    "data.leak_distance": ([-1, 256], [-2, 257]),
    "data.max_unmatchable": _SHARE,
    "data.min_pictures": _FROM_ZERO,
    "data.max_skew": _SHARE,
    "data.max_drift": _SHARE,
    "trainer.batch_size": _FROM_ONE,
    "trainer.steps": _FROM_ONE,
    "trainer.epochs": _POSITIVE,
    "trainer.learning_rate": _POSITIVE,
    "trainer.backbone_rate": _POSITIVE,
    "trainer.warmup_steps": _FROM_ZERO,
    "trainer.warmup_fraction": _BELOW_ONE,
    "trainer.warmup_learning_rate": _POSITIVE,
    "trainer.momentum": _BELOW_ONE,
    "trainer.weight_decay": _FROM_ZERO,
    "trainer.clip_norm": _FROM_ZERO,
    "trainer.ema": _BELOW_ONE,
    "trainer.matching_iou": ([1e-9, 1], [0, 1.01]),
    "trainer.negatives_per_positive": _FROM_ONE,
    "trainer.score_threshold": _BELOW_ONE,
    "trainer.candidates_per_class": _FROM_ONE,
    "trainer.nms_iou": _SHARE,
    "trainer.max_detections": _FROM_ONE,
    "trainer.seed": ([0, 2**32 - 1], [-1, 2**32]),
    "trainer.shuffle_buffer": ([1, 2**31 - 1], [0, 2**31]),
    "trainer.log_every": _FROM_ONE,
    "trainer.checkpoint_every": _FROM_ONE,
    "trainer.keep_checkpoints": _FROM_ONE,
    "trainer.eval_every": _FROM_ZERO,
    "trainer.eval_every_epochs": _FROM_ZERO,
    "trainer.patience": _FROM_ZERO,
    "trainer.frozen_stages": _FROM_ZERO,
    "tuner.trials": _FROM_ONE,
    "tuner.steps": _FROM_ONE,
    "evaluator.min_map": _SHARE,
    "evaluator.min_map_change": ([-1, 1], [-1.01, 1.01]),
    "serving.check_pictures": _FROM_ONE,
    "serving.max_latency_ms": ([1e-9, 30_000], [0, 30_001]),
    "serving.max_memory_mb": _POSITIVE,
    "serving.score_tolerance": _SHARE,
    "training_job.workers": _FROM_ZERO,
    "training_job.cpu": _POSITIVE,
    "training_job.memory_gb": _POSITIVE,
    "training_job.gpu_count": _FROM_ZERO,
    "training_job.retries": _FROM_ZERO,
    "training_job.timeout_s": _FROM_ZERO,
    # Bounds by name.
    "evaluator.min_class_ap": (["dog:0", "dog:1"], ["dog:-0.01", "dog:1.01"]),
    "evaluator.min_slice_map": (["a:b=c:0", "size=small:1"], ["size=small:1.01"]),
}


@pytest.mark.parametrize("name", _LIMITS)
def test_limits_are_inclusive_or_exclusive_as_listed(name):
    accepted, rejected = _LIMITS[name]
    for value in accepted:
        load_config("sample", [f"{name}={value}"])
    for value in rejected:
        with pytest.raises(DataError, match=name):
            load_config("sample", [f"{name}={value}"])


def test_the_list_covers_every_number():
    numbers = {
        f"{part}.{name}"
        for part, kind in field_types(Config).items()
        if isinstance(kind, type) and issubclass(kind, Settings)
        for name, type_ in field_types(kind).items()
        if get_origin(type_) is not tuple
        and any(own in (int, float) for own in (type_, *get_args(type_)))
    }
    assert numbers <= _LIMITS.keys()
    assert len(numbers) == len(_LIMITS) - 2
