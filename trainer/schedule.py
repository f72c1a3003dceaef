"""The learning rate over the steps of a run."""

import math

import keras
from keras import ops

from trainer.config import ConfigInSteps


class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the base rate, then decay by the configured schedule.

    `steps`: divided by ten at each of the given fractions of the run. `cosine`: half a cosine from
    the end of the warm-up to 0 after the last step.
    """

    def __init__(self, config: ConfigInSteps) -> None:
        self.config = config

    def __call__(self, step: int | keras.KerasTensor) -> keras.KerasTensor:
        """The rate at a step, float32 scalar; steps count from 0."""
        config = self.config
        step = ops.cast(step, "float32")
        share = ops.minimum(step / max(config.warmup_steps, 1), 1.0)
        warmup = config.warmup_learning_rate + share * (
            config.learning_rate - config.warmup_learning_rate
        )
        fall = _cosine(step, config) if config.schedule == "cosine" else _tenths(step, config)
        return ops.where(step < config.warmup_steps, warmup, config.learning_rate * fall)

    def get_config(self) -> dict:
        """The argument of `__init__`, for Keras to save."""
        return {"config": self.config}


def _tenths(step: keras.KerasTensor, config: ConfigInSteps) -> keras.KerasTensor:
    factor = 1.0
    for fraction in config.learning_rate_steps:
        factor = factor * ops.where(step >= fraction * config.steps, 0.1, 1.0)
    return factor


def _cosine(step: keras.KerasTensor, config: ConfigInSteps) -> keras.KerasTensor:
    share = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return 0.5 * (1.0 + ops.cos(math.pi * ops.clip(share, 0.0, 1.0)))
