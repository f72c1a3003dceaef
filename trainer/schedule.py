"""The learning rate over the steps of a run."""

import keras
from keras import ops

from trainer.config import TrainerConfig


class WarmupSteps(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the base rate, then a tenth at each of the given fractions of the run."""

    def __init__(self, config: TrainerConfig):
        self.config = config

    def __call__(self, step):
        config = self.config
        step = ops.cast(step, "float32")
        rate = config.learning_rate
        for fraction in config.learning_rate_steps:
            rate = rate * ops.where(step >= fraction * config.steps, 0.1, 1.0)
        share = ops.minimum(step / max(config.warmup_steps, 1), 1.0)
        warmup = config.warmup_learning_rate + share * (
            config.learning_rate - config.warmup_learning_rate
        )
        return ops.where(step < config.warmup_steps, warmup, rate)

    def get_config(self):
        return {"config": self.config}
