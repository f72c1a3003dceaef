"""The detection metric for TensorFlow Model Analysis.

Put `metric_config(...)` into a `MetricsSpec`, and bounds on the metrics of `metric_names` into its
`per_slice_thresholds`. Do not use `MetricConfig.threshold`, which TFMA looks up by the metric's
name although this one reports many, or `thresholds`, which TFMA applies to every slice.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_model_analysis as tfma
from scipy import stats
from tensorflow_model_analysis.metrics import metric_types
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.utils import model_util

from components.mean_average_precision import metric_names
from components.mean_average_precision.tfma_scoring import MatchedPicture, ScorePictures, metric_key
from data.fields import Fields
from metrics import bootstrap
from metrics.accumulator import DetectionAccumulator
from metrics.matched import match
from metrics.picture_reader import Detections, as_columns, read_detections, read_ground_truth
from metrics.voc_matching import IOU_THRESHOLD


def metric_config(
    class_names: Sequence[str],
    fields: Fields,
    with_coco: bool = False,
    with_intervals: bool = False,
) -> config_pb2.MetricConfig:
    """Configures the metric.

    class_names: every class in records and answers, in the order of ids 1..N.
    fields: the names of the records' features.
    with_coco: adds COCO's metrics: `metric_names.COCO_NAMES` and each class's `coco_ap_name`.
    with_intervals: adds each metric's spread over bootstrap samples of the pictures. Do not set
        TFMA's own options for that.
    """
    config = {
        "class_names": list(class_names),
        "fields": dataclasses.asdict(fields),
        "with_coco": with_coco,
        "with_intervals": with_intervals,
    }
    return config_pb2.MetricConfig(
        class_name=MeanAveragePrecision.__name__, module=__name__, config=json.dumps(config)
    )


class MeanAveragePrecision(metric_types.Metric):
    """mAP and AP of each class by the Pascal VOC rules (`voc.evaluate`), IoU above 0.5.

    Ground truth comes from the features of the raw `tf.Example` (`metrics.picture_reader`),
    detections from the model's outputs (`data.saved_model`). A record without object features is a
    picture without objects; one without flags has no difficult, truncated, occluded or crowd
    objects.

    A candidate that names an unknown class is an error. A baseline may know other classes: its
    detections of classes unknown here are dropped, and the classes that it does not know have AP 0.

    Also yields TFMA's confusion matrix plots, one per class under its id 1..N, for
    `tfma.view.render_plot`. Detection has no true negatives, so they are always 0.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        fields: dict[str, Any],
        with_coco: bool = False,
        with_intervals: bool = False,
        name: str = metric_names.MAP,
    ) -> None:
        super().__init__(
            _computations,
            class_names=list(class_names),
            fields=dict(fields),
            with_coco=with_coco,
            with_intervals=with_intervals,
            name=name,
        )


def confidence_interval(
    value: float, standard_error: float, degrees_of_freedom: int
) -> tuple[float, float]:
    """The 95 % interval around a value, from the spread of its bootstrap samples.

    TFMA's own interval is centred on the samples' mean. With few pictures, samples that repeat some
    of them have a higher AP, by up to a standard error.
    """
    half = float(stats.t.ppf(0.975, degrees_of_freedom)) * standard_error
    return value - half, value + half


def significant_change(change: tfma.types.ValueWithTDistribution | float) -> float:
    """The change if it is significant, else 0.

    change: from baseline to candidate, both measured on the same pictures. With confidence
        intervals it is TFMA's t distribution, not significant if its 95 % interval contains 0.
        Without them it is a number, which always counts.
    """
    if not isinstance(change, tfma.types.ValueWithTDistribution):
        return float(change)
    lower, upper = confidence_interval(
        change.unsampled_value, change.sample_standard_deviation, change.sample_degrees_of_freedom
    )
    return 0.0 if lower <= 0 <= upper else float(change.unsampled_value)


def _computations(
    class_names: list[str],
    fields: dict[str, Any],
    with_coco: bool,
    with_intervals: bool,
    name: str,
    eval_config: config_pb2.EvalConfig | None = None,
    model_names: Iterable[str] | None = None,
) -> list[metric_types.MetricComputation]:
    del name  # the keys have their own
    record = Fields(**fields)
    baseline = eval_config and model_util.get_baseline_model_spec(eval_config)
    computations: list[metric_types.MetricComputation] = []
    if with_intervals:
        computations.append(metric_types.CIDerivedMetricComputation([], _add_intervals))
    for model in model_names or [""]:
        is_baseline = baseline is not None and model == baseline.name
        slices = metric_names.slice_names(record)
        reader = _ReadPicture(class_names, record, slices, with_coco, model, is_baseline)
        combiner = ScorePictures(class_names, slices, with_coco, with_intervals, model)
        computations.append(metric_types.MetricComputation(combiner.keys(), [reader], combiner))
        if baseline and not is_baseline:
            key = metric_key(metric_names.SIGNIFICANT, model).make_diff_key()
            result = functools.partial(_add_significant_change, key)
            computations.append(metric_types.CIDerivedMetricComputation([key], result))
    return computations


def _add_intervals(metrics: metric_types.MetricsDict) -> metric_types.MetricsDict:
    """Converts the arrays of `ScorePictures`, and their differences, to TFMA's type."""
    return {
        key: tfma.types.ValueWithTDistribution(
            sample_mean=values[1:].mean(axis=0),
            sample_standard_deviation=values[1:].std(axis=0, ddof=1),
            sample_degrees_of_freedom=bootstrap.SAMPLES - 1,
            unsampled_value=values[0],
        )
        for key, values in metrics.items()
        if isinstance(values, np.ndarray)
    }


def _add_significant_change(
    key: metric_types.MetricKey, metrics: metric_types.MetricsDict
) -> metric_types.MetricsDict:
    change = metrics[metric_key(metric_names.MAP, key.model_name).make_diff_key()]
    return {key: significant_change(change)}


class _ReadPicture(metric_types.Preprocessor):
    """Reads, checks and matches each picture once, before it goes to its slices."""

    def __init__(
        self,
        class_names: Sequence[str],
        fields: Fields,
        slices: Sequence[str],
        with_coco: bool,
        model_name: str,
        is_baseline: bool,
    ) -> None:
        super().__init__(f"{type(self).__name__} {model_name}")
        self._reader = DetectionAccumulator(class_names)
        self._known = np.array([name.encode() for name in class_names], object)
        self._fields = fields
        self._slices = tuple(slices)
        self._with_coco = with_coco
        self._model_name = model_name
        self._is_baseline = is_baseline

    def process(self, extracts: tfma.types.Extracts) -> Iterator[MatchedPicture]:
        inputs = metric_types.StandardMetricInputs(extracts)
        truth = read_ground_truth(inputs.get_features() or {}, self._fields)
        answer = inputs.get_predictions(self._model_name or None)
        found = read_detections(answer, truth)
        if self._is_baseline:
            known = np.isin(found.classes, self._known)
            found = Detections(*(column[known] for column in found))
        columns = as_columns(self._reader, truth, found)
        matched = match(columns, len(self._reader.class_names), IOU_THRESHOLD, self._slices)
        yield MatchedPicture(matched, columns if self._with_coco else None)
