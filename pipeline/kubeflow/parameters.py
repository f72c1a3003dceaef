"""Settings that a run can override without compiling again.

TFX packs most settings into JSON, into which Kubeflow Pipelines cannot insert a run's parameters.
So a task takes them as extra parameters, and the entry point of its container inserts them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from tensorflow_model_analysis.proto import config_pb2
from tfx.types.standard_component_specs import (
    CUSTOM_CONFIG_KEY,
    EVAL_CONFIG_KEY,
    TRAIN_ARGS_KEY,
)

from components.mean_average_precision import metric_names
from data.errors import DataError
from data.settings import Names, parse
from pipeline.config import Config, EvaluatorConfig
from trainer.config import TrainerConfig, only_the_given

INTEGER, DOUBLE = "NUMBER_INTEGER", "NUMBER_DOUBLE"


@dataclass(frozen=True)
class RunParameter:
    """A parameter of a run; `write` puts its value into the parameters of `component`, a dict.

    `type` is as in Kubeflow's pipeline specification. The run lacks the parameter if `default`
    returns None.
    """

    name: str
    component: str
    type: str
    default: Callable[[Config], object]
    write: Callable[[dict, Any], None]


def _of_run(names: Names) -> str:
    return "a run's parameter "


def _write_steps(parameters: dict, steps: float) -> None:
    _write_trainer(parameters, "steps", int(steps))
    arguments = json.loads(parameters[TRAIN_ARGS_KEY])
    parameters[TRAIN_ARGS_KEY] = json.dumps({**arguments, "num_steps": int(steps)})


def _write_trainer(parameters: dict, field: str, value: int | float) -> None:
    settings = json.loads(parameters[CUSTOM_CONFIG_KEY])
    settings["trainer"][field] = value
    only_the_given(settings["trainer"], {field})
    parse(TrainerConfig, settings["trainer"], _of_run)
    parameters[CUSTOM_CONFIG_KEY] = json.dumps(settings)


def _write_min_map(parameters: dict, value: float) -> None:
    parse(EvaluatorConfig, {"min_map": value}, _of_run)
    config, threshold = _overall_threshold(parameters, metric_names.MAP)
    threshold.value_threshold.lower_bound.value = value
    parameters[EVAL_CONFIG_KEY] = json_format.MessageToJson(config)


def _write_min_map_change(parameters: dict, value: float) -> None:
    parse(EvaluatorConfig, {"min_map_change": value}, _of_run)
    config, threshold = _overall_threshold(parameters, metric_names.SIGNIFICANT)
    threshold.change_threshold.absolute.value = value
    parameters[EVAL_CONFIG_KEY] = json_format.MessageToJson(config)


def _overall_threshold(
    parameters: dict, metric: str
) -> tuple[config_pb2.EvalConfig, config_pb2.MetricThreshold]:
    """The Evaluator's configuration, and its threshold of a metric over all pictures."""
    config = json_format.Parse(parameters[EVAL_CONFIG_KEY], config_pb2.EvalConfig())
    (spec,) = config.metrics_specs
    for found in spec.per_slice_thresholds[metric].thresholds:
        if list(found.slicing_specs) == [config_pb2.SlicingSpec()]:
            return config, found.threshold
    raise DataError(f"the compiled pipeline has no bound on {metric}. Compile it again")


PARAMETERS = (
    RunParameter("steps", "Trainer", INTEGER, lambda c: c.trainer.steps, _write_steps),
    RunParameter(
        "epochs",
        "Trainer",
        DOUBLE,
        lambda config: config.trainer.epochs,
        lambda parameters, value: _write_trainer(parameters, "epochs", value),
    ),
    RunParameter(
        "learning_rate",
        "Trainer",
        DOUBLE,
        lambda config: config.trainer.learning_rate,
        lambda parameters, value: _write_trainer(parameters, "learning_rate", value),
    ),
    RunParameter("min_map", "Evaluator", DOUBLE, lambda c: c.evaluator.min_map, _write_min_map),
    RunParameter(
        "min_map_change",
        "Evaluator",
        DOUBLE,
        lambda config: config.evaluator.min_map_change,
        _write_min_map_change,
    ),
)


def write_parameters(parameters: dict) -> None:
    """Moves a run's parameters to where TFX reads them, in place; DataError if out of range."""
    for parameter in PARAMETERS:
        if parameter.name in parameters:
            parameter.write(parameters, parameters.pop(parameter.name))
