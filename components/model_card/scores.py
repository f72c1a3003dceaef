"""An evaluation as plain values: scores with the baseline's, curves, slices and bounds."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.evaluation import OVERALL, Evaluation, Score, read_evaluation
from components.mean_average_precision import metric_names

_SIGNIFICANT_CHANGE = f"change of {metric_names.MAP}, 0 if not significant"


def gather_scores(folder: str) -> dict:
    """The Evaluator's measurements, ready for JSON; undefined values are None.

    Returns:
      `map`, `map_area` and, if measured, `coco` by COCO's names: scores of the whole split. A score
      has `value`, `low` and `high` (95 % interval, None if not computed), and `baseline` and
      `change` of the same form, None without a baseline.
      `classes`: `name`, `ap`, `ap_area`, `coco_ap` (None if not measured), `curve` and
      `baseline_curve`, the precision at `metric_names.CURVE_RECALLS`, or None.
      `slices`: `name`, `map`.
      `thresholds`: `metric`, `slice`, `bound`, `measured`, `ok` (None if it did not apply), `why`.
      `baseline_model`: the folder compared with, or None.

    Raises:
      DataError: the folder is not an evaluation of detections, or is damaged.
    """
    scores = read_evaluation(Path(folder))
    config = tfma.load_eval_result(folder).config
    names = list(scores.candidate[OVERALL])
    coco = [name for name in metric_names.COCO_NAMES.values() if name in names]
    candidate, baseline = _curves(folder, config)
    return {
        "map": _compared(scores, metric_names.MAP),
        "map_area": _compared(scores, metric_names.MAP_AREA),
        "coco": {name: _compared(scores, name) for name in coco},
        "classes": [
            {
                "name": name,
                "ap": _compared(scores, metric_names.ap_name(name)),
                "ap_area": _compared(scores, metric_names.ap_area_name(name)),
                "coco_ap": _compared(scores, metric_names.coco_ap_name(name)) if coco else None,
                "curve": candidate.get(name),
                "baseline_curve": baseline.get(name),
            }
            for name in _class_names(config)
        ],
        "slices": list(_slices(scores, names)),
        "thresholds": list(_thresholds(config, scores)),
        "baseline_model": _baseline_model(folder, config),
    }


def _compared(scores: Evaluation, metric: str, slice_name: str = OVERALL) -> dict:
    """A metric of the candidate with its baseline and change."""

    def find(part: dict[str, dict[str, Score]]) -> Score | None:
        return part.get(slice_name, {}).get(metric)

    candidate, baseline = (
        score and score.clipped() for score in (find(scores.candidate), find(scores.baseline))
    )
    measured = _plain(candidate) or {"value": None, "low": None, "high": None}
    return measured | {"baseline": _plain(baseline), "change": _plain(find(scores.changes))}


def _plain(score: Score | None) -> dict | None:
    if score is None:
        return None
    value, low, high = (number if math.isfinite(number) else None for number in score)
    return {"value": value, "low": low, "high": high}


def _class_names(config: config_pb2.EvalConfig) -> list[str]:
    (metric,) = config.metrics_specs[0].metrics
    return json.loads(metric.config)["class_names"]


def _curves(folder: str, config: config_pb2.EvalConfig) -> tuple[dict, dict]:
    """The candidate's and baseline's precision curves by class, except classes without objects."""
    found: dict[bool, dict] = {False: {}, True: {}}
    for spec in config.model_specs:
        # A model evaluated alone has no name in the metrics.
        name = spec.name if len(config.model_specs) > 1 else None
        metrics = tfma.load_eval_result(folder, model_name=name).get_metrics_for_slice(())
        for class_name in _class_names(config):
            stored = metrics.get(metric_names.curve_name(class_name), {}).get("arrayValue", {})
            values = [float(value) for value in stored.get("float64Values", [])]
            if values and all(map(math.isfinite, values)):
                found[spec.is_baseline][class_name] = [round(value, 5) for value in values]
    return found[False], found[True]


def _baseline_model(folder: str, config: config_pb2.EvalConfig) -> str | None:
    for spec in config.model_specs:
        if spec.is_baseline:
            return tfma.load_eval_result(folder, model_name=spec.name).model_location
    return None


def _slices(scores: Evaluation, names: Iterable[str]) -> Iterator[dict]:
    """Slices of objects, which are separate metrics, then slices of pictures."""
    prefix = metric_names.slice_map_name("")
    for name in sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix)):
        yield {"name": name, "map": _compared(scores, metric_names.slice_map_name(name))}
    for name in sorted(scores.candidate):
        if name != OVERALL:
            yield {"name": name, "map": _compared(scores, metric_names.MAP, name)}


def _thresholds(config: config_pb2.EvalConfig, scores: Evaluation) -> Iterator[dict]:
    """The configured bounds with the measured values."""
    for spec in config.metrics_specs:
        for metric, thresholds in spec.per_slice_thresholds.items():
            for entry in thresholds.thresholds:
                for slicing in entry.slicing_specs:
                    where = ",".join(f"{k}={v}" for k, v in slicing.feature_values.items())
                    yield from _bounds(metric, where, entry.threshold, scores)


def _bounds(
    metric: str, where: str, threshold: config_pb2.MetricThreshold, scores: Evaluation
) -> Iterator[dict]:
    if threshold.HasField("value_threshold"):
        least = threshold.value_threshold.lower_bound.value
        found = _plain(scores.candidate.get(where, {}).get(metric))
        missing = "no picture is in this slice" if found is None else "undefined without objects"
        yield _threshold(metric, where, f"≥ {least:g}", found, least, missing)
    if threshold.HasField("change_threshold"):
        least = threshold.change_threshold.absolute.value
        found = _plain(scores.changes.get(where, {}).get(metric))
        is_significant = metric == metric_names.SIGNIFICANT
        name = _SIGNIFICANT_CHANGE if is_significant else f"change of {metric}"
        bound = _threshold(name, where, f"≥ {least:+g}", found, least, "undefined")
        if not scores.baseline:
            bound |= {"ok": None, "why": "no blessed model to compare with"}
        yield bound


def _threshold(
    metric: str, where: str, bound: str, found: dict | None, least: float, missing: str
) -> dict:
    value = found["value"] if found else None
    return {
        "metric": metric,
        "slice": where,
        "bound": bound,
        "measured": value,
        "ok": value is not None and value >= least,
        "why": missing if value is None else "",
    }
