"""Tuning with TFX: short trainings that vary learning rate, weight decay and warm-up."""

import dataclasses
import logging
from pathlib import Path

import keras_tuner
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner.component import TunerFnResult

from trainer.config import ConfigInSteps, TrainerConfig
from trainer.run import Job, with_values

_log = logging.getLogger("ssd.trainer")

_OBJECTIVE = "eval_mAP"
# The search range around a configured value, as a factor in both directions.
_SPREAD = 10.0
# The middle of the search if no weight decay is configured: the paper's.
_WEIGHT_DECAY = TrainerConfig().weight_decay


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """A search for the best mAP on the eval split (TFX's Tuner contract).

    `fn_args.custom_config` holds what `trainer.run.run_fn` reads there and `tuner`: the number of
    `trials` and the `steps` of each. The best values are named like the fields of a TrainerConfig,
    so that `run_fn` accepts them as its hyperparameters. The first trial uses the configured
    values.
    """
    settings = fn_args.custom_config["tuner"]
    job = Job.from_arguments(fn_args)
    oracle = FromConfigured(
        objective=keras_tuner.Objective(_OBJECTIVE, "max"),
        max_trials=settings["trials"],
        hyperparameters=search_space(job.config, settings["steps"]),
        seed=job.config.seed,
    )
    tuner = ShortTrainings(job, settings, oracle, Path(fn_args.working_dir))
    return TunerFnResult(tuner=tuner, fit_kwargs={"verbose": 0})


def search_space(config: ConfigInSteps, steps: int) -> keras_tuner.HyperParameters:
    """Rate and decay within a factor of ten of the configured ones; warm-up up to half the steps.

    That is half of the trial's `steps` or of the training's, whichever is less, since both use the
    same warm-up.
    """
    space = keras_tuner.HyperParameters()
    for name, middle in (
        ("learning_rate", config.learning_rate),
        ("weight_decay", config.weight_decay or _WEIGHT_DECAY),
    ):
        space.Float(name, middle / _SPREAD, middle * _SPREAD, sampling="log", default=middle)
    longest = min(steps, config.steps) // 2
    space.Int("warmup_steps", 0, longest, default=min(config.warmup_steps, longest))
    return space


class FromConfigured(keras_tuner.oracles.BayesianOptimizationOracle):
    """Bayesian optimisation whose first trial uses the configured values."""

    def populate_space(self, trial_id: str) -> dict:
        """The next trial's values, and whether there is one."""
        if not self.trials:
            return {"status": "RUNNING", "values": dict(self.hyperparameters.values)}
        return super().populate_space(trial_id)


class ShortTrainings(keras_tuner.engine.base_tuner.BaseTuner):
    """Trains each trial from the same start and measures it on the eval split."""

    def __init__(self, job: Job, settings: dict, oracle: keras_tuner.Oracle, folder: Path) -> None:
        super().__init__(oracle=oracle, directory=str(folder), project_name="tuning")
        self._job = job
        self._settings = settings
        self._folder = folder
        self._served = job.new_detector()

    def run_trial(self, trial: keras_tuner.engine.trial.Trial, verbose: int) -> dict[str, float]:
        """The mAP that a trial's values reach; 0 if the loss does not stay finite."""
        values = trial.hyperparameters.values
        steps = self._settings["steps"]
        try:
            config = dataclasses.replace(
                with_values(self._job.config, {"values": values}),
                steps=steps,
                checkpoint_every=steps,
                eval_every=steps,
            )
            job = dataclasses.replace(self._job, config=config)
            _, best = job.train(job.new_network(), self._served, self._folder / trial.trial_id)
            assert best  # every trial is measured after its last step
            score = best.score
        except FloatingPointError:
            score = 0.0
        # After any other kind of error KerasTuner would continue with the next trial.
        except Exception as error:
            raise keras_tuner.errors.FatalError(str(error)) from error
        _log.info(
            "  trial=%d/%d %s eval_mAP=%.4f",
            int(trial.trial_id) + 1,
            self._settings["trials"],
            " ".join(f"{name}={value:.3g}" for name, value in values.items()),
            score,
        )
        return {_OBJECTIVE: score}

    def search_space_summary(self, extended: bool = False) -> None:
        """Does nothing: each trial logs its values."""

    def results_summary(self, num_trials: int = 10) -> None:
        """Does nothing: each trial logs its score."""
