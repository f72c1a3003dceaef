"""An Evaluator's output as plain values: scores with intervals, slices, curves and bounds."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma

from components.mean_average_precision import tfma_metric
from data.errors import DataError

_Measures = dict[str, dict[tuple[str, str, bool], Any]]
_WHOLE = ""
_SIGNIFICANT_CHANGE = f"change of {tfma_metric.MAP}, 0 where chance explains it"


def read_evaluation(folder: str) -> dict:
    """Reads what the Evaluator measured; every value is ready for JSON, undefined ones are None.

    Returns:
      `map`, `map_area` and, where measured, `coco` by COCO's names: scores of the whole split. A
      score has `value`, `low` and `high` (95 % interval, None if not computed), and `baseline` and
      `change` of the same form or None.
      `classes`: `name`, `ap`, `ap_area`, `coco_ap` (None if not measured), `curve` and
      `baseline_curve`, the precision at `tfma_metric.CURVE_RECALLS`, or None.
      `slices`: `name`, `map`.
      `thresholds`: `metric`, `slice`, `bound`, `measured`, `ok` (None if it did not apply), `why`.
      `baseline_model`: the folder compared with, or None.

    Raises:
      DataError: the folder is no evaluation by `tfma_metric`, or a damaged one.
    """
    try:
        config = tfma.load_eval_result(folder).config
        measures = _read_measures(folder)
        validation = tfma.load_validation_result(folder)
    except (OSError, ValueError, IndexError, tf.errors.OpError) as error:
        raise DataError(
            f"{folder}: the evaluation cannot be read ({error}). Run again with --from Evaluator"
        ) from error
    if config is None or (tfma_metric.MAP not in _metric_names(measures)):
        raise DataError(
            f"{folder}: no evaluation of detections there. Run again with --from Evaluator"
        )
    candidate, baseline = _model_names(config)
    reader = _Reader(measures, candidate, baseline)
    names = _metric_names(measures)
    class_names = _class_names(config)
    coco = {
        name: reader.score(name) for name in tfma_metric.COCO_NAMES.values() if name in names
    }
    return {
        "map": reader.score(tfma_metric.MAP),
        "map_area": reader.score(tfma_metric.MAP_AREA),
        "coco": coco,
        "classes": [
            {
                "name": name,
                "ap": reader.score(tfma_metric.ap_name(name)),
                "ap_area": reader.score(tfma_metric.ap_area_name(name)),
                "coco_ap": reader.score(tfma_metric.coco_ap_name(name)) if coco else None,
                "curve": reader.curve(name, candidate),
                "baseline_curve": reader.curve(name, baseline),
            }
            for name in class_names
        ],
        "slices": list(_slices(reader, names)),
        "thresholds": list(_thresholds(config, validation, reader)),
        "baseline_model": _baseline_model(folder, baseline),
    }


class _Reader:
    """Looks measures up and gives them their common form."""

    def __init__(self, measures: _Measures, candidate: str, baseline: str | None):
        self.measures = measures
        self.candidate = candidate
        self.baseline = baseline

    def score(self, name: str, slice_name: str = _WHOLE) -> dict:
        """A metric of the candidate beside its baseline and the change."""
        values = self.measures.get(slice_name, {})
        found = values.get((self.candidate, name, False))
        score = dict(found or {"value": None, "low": None, "high": None})
        has_baseline = self.baseline is not None
        score["baseline"] = values.get((self.baseline, name, False)) if has_baseline else None
        score["change"] = values.get((self.candidate, name, True)) if has_baseline else None
        return score

    def curve(self, class_name: str, model: str | None) -> list[float] | None:
        """Precisions of a class, None where it has no objects or the model does not exist."""
        key = (model, tfma_metric.curve_name(class_name), False)
        curve = self.measures[_WHOLE].get(key)
        if curve is None or np.isnan(curve).any():
            return None
        return [round(float(value), 5) for value in curve]


def _read_measures(folder: str) -> _Measures:
    """Scalars as `value`, `low`, `high` and arrays, by slice and (model, metric, is a change)."""
    measures: _Measures = {}
    for record in tfma.load_metrics(folder):
        slice_name = " and ".join(
            f"{key.column}={_slice_value(key)}" for key in record.slice_key.single_slice_keys
        )
        values = measures.setdefault(slice_name, {})
        for item in record.metric_keys_and_values:
            key = (item.key.model_name, item.key.name, item.key.is_diff)
            kind = item.value.WhichOneof("type")
            if kind == "double_value":
                interval = item.confidence_interval
                values[key] = {
                    "value": _number(item.value.double_value.value),
                    "low": _bound(interval, "lower_bound"),
                    "high": _bound(interval, "upper_bound"),
                }
            elif kind == "array_value":
                values[key] = np.array(item.value.array_value.float64_values)
    return measures


def _slice_value(key) -> str:
    value = getattr(key, key.WhichOneof("kind"))
    return value.decode() if isinstance(value, bytes) else str(value)


def _bound(interval, name: str) -> float | None:
    return _number(getattr(interval, name).double_value.value) if interval.HasField(name) else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _metric_names(measures: _Measures) -> set[str]:
    return {name for _, name, _ in measures.get(_WHOLE, {})}


def _model_names(config: tfma.EvalConfig) -> tuple[str, str | None]:
    """Names of candidate and baseline; a model that is alone has no name among the metrics."""
    specs = config.model_specs
    baseline = next((spec.name for spec in specs if spec.is_baseline), None)
    if baseline is None:
        return "", None
    return next(spec.name for spec in specs if not spec.is_baseline), baseline


def _class_names(config: tfma.EvalConfig) -> list[str]:
    (metric,) = config.metrics_specs[0].metrics
    return json.loads(metric.config)["class_names"]


def _baseline_model(folder: str, baseline: str | None) -> str | None:
    if baseline is None:
        return None
    return tfma.load_eval_result(folder, model_name=baseline).model_location


def _slices(reader: _Reader, names: set[str]) -> Iterator[dict]:
    """Slices of objects, which are metrics of their own, then slices of pictures."""
    prefix = tfma_metric.slice_map_name("")
    for name in sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix)):
        yield {"name": name, "map": reader.score(tfma_metric.slice_map_name(name))}
    for name in sorted(reader.measures):
        if name != _WHOLE:
            yield {"name": name, "map": reader.score(tfma_metric.MAP, name)}


def _thresholds(config, validation, reader: _Reader) -> Iterator[dict]:
    """Every bound of the configuration, beside what was measured and what TFMA made of it."""
    failed = {
        (_spec_name(entry.slice_key), failure.metric_key.name, failure.metric_key.is_diff)
        for entry in validation.metric_validations_per_slice
        for failure in entry.failures
    }
    for spec in config.metrics_specs:
        for metric, thresholds in spec.per_slice_thresholds.items():
            for entry in thresholds.thresholds:
                for slicing in entry.slicing_specs:
                    where = " and ".join(f"{k}={v}" for k, v in slicing.feature_values.items())
                    yield from _bounds(metric, where, entry.threshold, reader, failed)
        for metric, threshold in spec.thresholds.items():
            yield from _bounds(metric, _WHOLE, threshold, reader, failed)


def _spec_name(slice_key) -> str:
    return " and ".join(f"{k.column}={_slice_value(k)}" for k in slice_key.single_slice_keys)


def _bounds(metric, where, threshold, reader: _Reader, failed) -> Iterator[dict]:
    measures = reader.measures.get(where, {})
    if threshold.HasField("value_threshold"):
        limits = threshold.value_threshold
        found = measures.get((reader.candidate, metric, False))
        yield _threshold(
            metric,
            where,
            [
                f"{sign} {limit.value:g}"
                for sign, name in (("≥", "lower_bound"), ("≤", "upper_bound"))
                if limits.HasField(name) and (limit := getattr(limits, name))
            ],
            found,
            # A slice that no picture is in has no measure and no failure either.
            found is not None and (where, metric, False) not in failed,
            "" if found else "no picture is in this slice",
        )
    if threshold.HasField("change_threshold"):
        limits = threshold.change_threshold
        sign = "≥" if limits.direction == tfma.MetricDirection.HIGHER_IS_BETTER else "≤"
        found = measures.get((reader.candidate, metric, True))
        no_baseline = reader.baseline is None
        yield _threshold(
            _SIGNIFICANT_CHANGE if metric == tfma_metric.SIGNIFICANT else f"change of {metric}",
            where,
            [
                f"{sign} {limit.value:+g}{unit}"
                for name, unit in (("absolute", ""), ("relative", " times it"))
                if limits.HasField(name) and (limit := getattr(limits, name))
            ],
            found,
            None if no_baseline else (where, metric, True) not in failed,
            "no blessed model to compare with" if no_baseline else "",
        )


def _threshold(metric, where, bounds, found: Mapping | None, ok, why) -> dict:
    return {
        "metric": metric,
        "slice": where,
        "bound": ", ".join(bounds),
        "measured": found["value"] if found else None,
        "ok": ok,
        "why": why,
    }
