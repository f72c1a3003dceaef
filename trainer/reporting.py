"""Logging and checkpoint settings, hidden from TFX's cache.

They do not change a training's result, so changing them must not train again. A component's
parameters are part of its cache key, so these travel in the environment of the process or container
that trains.
"""

import dataclasses
import json
import os
from typing import Any

from trainer.config import BOOKKEEPING, TrainerConfig

VARIABLE = "SSD_TRAINER_REPORTING"


def without_reporting(config: TrainerConfig) -> dict[str, object]:
    """The fields that decide a training's result, as JSON values."""
    return {
        name: value for name, value in dataclasses.asdict(config).items() if name not in BOOKKEEPING
    }


def environment(config: TrainerConfig) -> dict[str, str]:
    """The variable that carries the other fields to where the training runs."""
    return {VARIABLE: json.dumps({name: getattr(config, name) for name in BOOKKEEPING})}


def with_reporting(fields: dict[str, Any]) -> dict[str, Any]:
    """Adds the fields from this process's environment, if any."""
    return {**fields, **json.loads(os.environ.get(VARIABLE, "{}"))}
