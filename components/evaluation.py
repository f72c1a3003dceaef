"""Reads an Evaluator's output: scores with intervals, and the bounds that a model missed."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
import tensorflow_model_analysis as tfma
from google.protobuf.message import DecodeError, Message
from tensorflow_model_analysis.proto import metrics_for_slice_pb2, validation_result_pb2

from components.mean_average_precision import metric_names, tfma_metric
from data.errors import DataError

OVERALL = ""

_METRICS = "metrics-*.tfrecord"
_VALIDATIONS = "validations*"


class Score(NamedTuple):
    """A number and its 95 % interval (`tfma_metric.confidence_interval`), NaN if there is none."""

    value: float
    lower: float = math.nan
    upper: float = math.nan

    def clipped(self) -> "Score":
        """The score with its (symmetric) interval clipped to the range of an AP."""
        return self._replace(lower=max(self.lower, 0.0), upper=min(self.upper, 1.0))


@dataclass(frozen=True)
class Evaluation:
    """Scores of a candidate and its baseline by slice (`OVERALL`, `objects=2-4`) and metric.

    `changes` is candidate minus baseline. Without a baseline, it and `baseline` are empty.
    `failures` has one sentence per bound that the candidate misses, none if it is blessed.
    """

    candidate: dict[str, dict[str, Score]]
    baseline: dict[str, dict[str, Score]]
    changes: dict[str, dict[str, Score]]
    failures: tuple[str, ...]


def read_evaluation(folder: Path) -> Evaluation:
    """Reads an Evaluator's output folder.

    Raises:
        DataError: its files are missing or damaged.
    """
    slices = _read(folder, _METRICS, metrics_for_slice_pb2.MetricsForSlice)
    (validation,) = _read(folder, _VALIDATIONS, validation_result_pb2.ValidationResult)[:1]
    candidate: dict[str, dict[str, Score]] = {}
    baseline: dict[str, dict[str, Score]] = {}
    changes: dict[str, dict[str, Score]] = {}
    for proto in slices:
        name = _slice_name(proto.slice_key.single_slice_keys)
        for item in proto.metric_keys_and_values:
            score = _score(item)
            if score is None:
                continue
            owner = baseline if item.key.model_name == tfma.BASELINE_KEY else candidate
            owner = changes if item.key.is_diff else owner
            owner.setdefault(name, {})[item.key.name.removesuffix("_diff")] = score
    if metric_names.MAP not in candidate.get(OVERALL, {}):
        raise _damaged(folder, f"no {metric_names.MAP} for the whole split")
    return Evaluation(candidate, baseline, changes, tuple(_failures(validation, changes)))


def _read(folder: Path, pattern: str, message: type[Message]) -> list:
    """A file's records as protos; at least one."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise _damaged(folder, f"{pattern} is missing")
    try:
        records = list(tf.data.TFRecordDataset([str(file) for file in files]))
        protos = [message.FromString(record.numpy()) for record in records]
    except (tf.errors.OpError, DecodeError) as error:
        raise _damaged(files[0], str(error)) from error
    if not protos:
        raise _damaged(files[0], "it is empty")
    return protos


def _damaged(path: Path, found: str) -> DataError:
    return DataError(
        f"{path}: incomplete or damaged evaluation ({found}). Evaluate again: "
        "ssd run --from Evaluator"
    )


def _score(item: metrics_for_slice_pb2.MetricsForSlice.MetricKeyAndValue) -> Score | None:
    """The number under a metric's key; None for curves and other values."""
    if not item.value.HasField("double_value"):
        return None
    value = item.value.double_value.value
    if not item.HasField("confidence_interval"):
        return Score(value)
    spread = item.confidence_interval
    bounds = tfma_metric.confidence_interval(
        value, spread.standard_error.double_value.value, spread.degrees_of_freedom.value
    )
    return Score(value, *bounds)


def _slice_name(keys: Iterable) -> str:
    values = {key.column: getattr(key, key.WhichOneof("kind")) for key in keys}
    return ",".join(
        f"{name}={value.decode() if isinstance(value, bytes) else value}"
        for name, value in values.items()
    )


def _failures(
    validation: validation_result_pb2.ValidationResult, changes: dict[str, dict[str, Score]]
) -> Iterator[str]:
    for proto in validation.metric_validations_per_slice:
        slice_name = _slice_name(proto.slice_key.single_slice_keys)
        for failure in proto.failures:
            name = failure.metric_key.name
            where = f" of {slice_name}" if slice_name else ""
            value = failure.metric_value.double_value.value
            threshold = failure.metric_threshold
            if threshold.HasField("change_threshold"):
                change = changes[slice_name][metric_names.MAP]
                notes = []
                if not math.isnan(change.lower):
                    notes.append(f"95 % interval {change.lower:+.4f} to {change.upper:+.4f}")
                if change.value and not value:
                    notes.append("not significant")
                note = f" ({', '.join(notes)})" if notes else ""
                yield (
                    f"mAP{where} changed by {change.value:+.4f}{note}, "
                    f"below the minimum of {threshold.change_threshold.absolute.value:+g}"
                )
                continue
            least = threshold.value_threshold.lower_bound.value
            if not failure.HasField("metric_value"):
                yield f"{name}{where} was not measured; the minimum is {least:g}"
            elif math.isnan(value):
                yield f"{name}{where} is undefined without objects; the minimum is {least:g}"
            else:
                yield f"{name}{where} is {value:.4f}, below the minimum of {least:g}"
    for spec in validation.missing_slices:
        for name, value in spec.feature_values.items():
            yield f"no picture has {name}={value}, for which there is a minimum mAP"
