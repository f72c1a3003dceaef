"""How often a training logs and saves: settings that TFX's cache must not see.

They do not change what a training ends with, so a change of them is no reason to train again. What
is among a component's parameters is part of its cache key; these travel in the environment of the
process or container that trains.
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
    """All fields, with those that this process's environment carries; else their defaults hold."""
    return {**fields, **json.loads(os.environ.get(VARIABLE, "{}"))}
