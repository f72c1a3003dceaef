"""The detection metric for TensorFlow Model Analysis.

Put `metric_config(...)` into a `MetricsSpec`, and bounds on the metrics named here into its
`per_slice_thresholds`. (Not into `MetricConfig.threshold`, which TFMA looks up under the name of
the metric only, while this one reports many; and not into `thresholds`, which TFMA holds against
every slice.)
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from scipy import stats
from tensorflow_model_analysis.metrics import metric_types
from tensorflow_model_analysis.metrics.binary_confusion_matrices import Matrices
from tensorflow_model_analysis.metrics.confusion_matrix_plot import CONFUSION_MATRIX_PLOT_NAME
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.utils import model_util

from components.mean_average_precision import (
    bootstrap,
    coco,
    object_slices,
    outcomes,
    tfma_inputs,
)
from components.mean_average_precision.accumulator import Columns, DetectionAccumulator, take
from components.mean_average_precision.average_precision import (
    interpolated_precision,
    mean_of_defined,
)
from components.mean_average_precision.outcomes import Outcomes, Packed
from components.mean_average_precision.voc import ClassResult
from data.fields import Fields

MAP = "mAP"  # VOC2007, 11-point
MAP_AREA = "mAP_area"  # VOC2010 and later

# Exists as a change only (TFMA stores it as mAP_significant_diff): see `significant_change`.
SIGNIFICANT = "mAP_significant"

# COCO's twelve numbers by the field of `coco.CocoResult` that holds them.
COCO_NAMES = {
    field.name: f"coco/{field.name}"
    for field in dataclasses.fields(coco.CocoResult)
    if field.name != "class_ap"
}

# The recalls at which precision is stored. A fixed grid keeps the curves of two models, and those
# of the samples behind a confidence interval, comparable.
CURVE_RECALLS = np.linspace(0.0, 1.0, 101)
_SCORE_THRESHOLDS = np.linspace(0.0, 1.0, 101)

_IOU_THRESHOLD = 0.5

# A picture by itself takes a kilobyte, mostly for the objects of its ten arrays.
_PICTURES_PER_PART = 500


def ap_name(class_name: str) -> str:
    """Metric with the 11-point AP of a class; NaN without objects that are not difficult."""
    return f"AP/{class_name}"


def ap_area_name(class_name: str) -> str:
    """Metric with the area AP of a class; NaN without objects that are not difficult."""
    return f"AP_area/{class_name}"


def curve_name(class_name: str) -> str:
    """Metric with the interpolated precision of a class, float64 [101], at `CURVE_RECALLS`."""
    return f"precision_at_recall/{class_name}"


def coco_ap_name(class_name: str) -> str:
    """Metric with COCO's AP of a class."""
    return f"coco/ap/{class_name}"


def slice_map_name(slice_name: str) -> str:
    """Metric with the 11-point mAP of some of the objects, by a name of `slice_names`."""
    return f"mAP/{slice_name}"


def slice_names(fields: Fields) -> tuple[str, ...]:
    """The slices of objects that records with these fields tell apart."""
    known = ["size", *(flag for flag in ("truncated", "occluded") if getattr(fields, flag))]
    return tuple(name for name in object_slices.NAMES if name.split("=")[0] in known)


def metric_config(
    class_names: Sequence[str],
    fields: Fields,
    code_version: str = "",
    with_coco: bool = False,
    with_intervals: bool = False,
) -> config_pb2.MetricConfig:
    """Configures the metric.

    class_names: every class that records and model can name, in the order of their ids 1..N.
    fields: the names of the records' features.
    code_version: names the metric's source, so that a cached evaluation is not used after a change.
    with_coco: also reports `COCO_NAMES` and `coco_ap_name` of each class.
    with_intervals: also says how much each metric varies over bootstrap samples of the pictures.
        (TFMA's own options for that are to be left out.)
    """
    config = {
        "class_names": list(class_names),
        "fields": dataclasses.asdict(fields),
        "code_version": code_version,
        "with_coco": with_coco,
        "with_intervals": with_intervals,
    }
    return config_pb2.MetricConfig(
        class_name=MeanAveragePrecision.__name__, module=__name__, config=json.dumps(config)
    )


class MeanAveragePrecision(metric_types.Metric):
    """mAP and AP of each class by the Pascal VOC rules (`voc.evaluate`), IoU above 0.5.

    Ground truth comes from the features of the raw `tf.Example`, detections from the model's
    answer: `detection_boxes` [n, 4], `detection_scores` [n], `detection_class_names` [n] and
    `num_detections`, rows after which are padding. A record without object features is a picture
    without objects; one without flags has no difficult, truncated, occluded or crowd objects.

    A candidate that names an unknown class is an error. A baseline may come from data with other
    classes: what it finds of classes unknown here is left out, and of those that it does not know
    it finds nothing, so their AP is 0.

    Beside the metrics it makes TFMA's own confusion matrix plots, one for each class under its id
    1..N, for `tfma.view.render_plot`. There is no true negative in detection: it is always 0.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        fields: dict[str, str | None],
        code_version: str = "",
        with_coco: bool = False,
        with_intervals: bool = False,
        name: str = MAP,
    ):
        del code_version  # part of the configuration only
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
    """Bounds of the 95 % interval around a number, from the spread of its bootstrap samples.

    TFMA's own interval lies around the mean of the samples. With few pictures AP is higher in
    samples that hold some twice, by as much as a standard error.
    """
    half = float(stats.t.ppf(0.975, degrees_of_freedom)) * standard_error
    return value - half, value + half


def significant_change(change: Any) -> float:
    """The change that counts: 0 where chance alone explains it, else the change itself.

    change: of a metric between candidate and baseline, both measured on the same pictures. With
        confidence intervals it comes as TFMA's t distribution, and a change whose 95 % interval
        holds 0 is one that chance explains; without them it is a number, and counts as it is.
    """
    if not isinstance(change, tfma.types.ValueWithTDistribution):
        return float(change)
    lower, upper = confidence_interval(
        change.unsampled_value, change.sample_standard_deviation, change.sample_degrees_of_freedom
    )
    return 0.0 if lower <= 0 <= upper else float(change.unsampled_value)


def _computations(
    class_names: list[str],
    fields: dict[str, str | None],
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
        is_baseline = bool(baseline) and model == baseline.name
        slices = slice_names(record)
        reader = _ReadPicture(class_names, record, slices, with_coco, model, is_baseline)
        combiner = _ScorePictures(class_names, slices, with_coco, with_intervals, model)
        computations.append(metric_types.MetricComputation(combiner.keys(), [reader], combiner))
        if baseline and not is_baseline:
            key = _key(SIGNIFICANT, model).make_diff_key()
            result = functools.partial(_add_significant_change, key)
            computations.append(metric_types.CIDerivedMetricComputation([key], result))
    return computations


def _key(name: str, model_name: str) -> metric_types.MetricKey:
    # TFMA finds the bounds of a MetricsSpec only under keys that leave it open whether examples
    # are weighted.
    return metric_types.MetricKey(name, model_name=model_name, example_weighted=None)


def _add_intervals(metrics: metric_types.MetricsDict) -> metric_types.MetricsDict:
    """Turns what `_ScorePictures` made with intervals, and its differences, into TFMA's type."""
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


def _add_significant_change(key: metric_types.MetricKey, metrics: metric_types.MetricsDict):
    change = metrics[_key(MAP, key.model_name).make_diff_key()]
    return {key: significant_change(change)}


class _Picture(NamedTuple):
    """What a picture adds to the score of VOC, and to COCO's if that is wanted."""

    outcomes: Outcomes
    columns: Columns | None


class _ReadPicture(metric_types.Preprocessor):
    """Reads, checks and matches a picture once, before it goes to slices and bootstrap samples."""

    def __init__(
        self,
        class_names: Sequence[str],
        fields: Fields,
        slices: Sequence[str],
        with_coco: bool,
        model_name: str,
        is_baseline: bool,
    ):
        super().__init__(f"{type(self).__name__} {model_name}")
        self._reader = DetectionAccumulator(class_names)
        self._known = np.array([name.encode() for name in class_names], object)
        self._fields = fields
        self._slices = tuple(slices)
        self._with_coco = with_coco
        self._model_name = model_name
        self._is_baseline = is_baseline

    def process(self, extracts: tfma.types.Extracts) -> Iterator[_Picture]:
        inputs = metric_types.StandardMetricInputs(extracts)
        truth = tfma_inputs.ground_truth(inputs.get_features() or {}, self._fields)
        answer = inputs.get_predictions(self._model_name or None)
        found = tfma_inputs.detections(answer, truth)
        if self._is_baseline:
            known = np.isin(found.classes, self._known)
            found = tfma_inputs.Detections(*(column[known] for column in found))
        columns = tfma_inputs.picture(self._reader, truth, found)
        matched = outcomes.match(
            columns, len(self._reader.class_names), _IOU_THRESHOLD, self._slices
        )
        yield _Picture(matched, columns if self._with_coco else None)


class _Accumulator(NamedTuple):
    """Pictures of a slice; those for COCO with their boxes, for it matches in many ways."""

    parts: list[Packed]
    single: list[Outcomes]  # pictures that are not packed yet
    coco: DetectionAccumulator


class _ScorePictures(beam.CombineFn):
    """Collects the pictures of a slice and scores them at the end.

    With intervals each metric is an array: first that of all pictures, then those of the samples.
    So TFMA takes differences between models sample by sample.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        slices: Sequence[str],
        with_coco: bool,
        with_intervals: bool,
        model_name: str,
    ):
        self._class_names = tuple(class_names)
        self._slices = tuple(slices)
        self._with_coco = with_coco
        self._with_intervals = with_intervals
        self._model_name = model_name

    def keys(self) -> list[metric_types.MetricKey]:
        """The keys of `extract_output`."""
        return list(self.extract_output(self.create_accumulator()))

    def create_accumulator(self) -> _Accumulator:
        return _Accumulator([], [], DetectionAccumulator(self._class_names))

    def add_input(self, accumulator: _Accumulator, picture: _Picture) -> _Accumulator:
        accumulator.single.append(picture.outcomes)
        if len(accumulator.single) == _PICTURES_PER_PART:
            _pack(accumulator)
        if self._with_coco:
            accumulator.coco.add_columns(picture.columns)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Accumulator]) -> _Accumulator:
        # Always a new one: TFMA may merge the same accumulators several times.
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged.parts.extend(accumulator.parts)
            merged.single.extend(accumulator.single)
            merged.coco.merge([accumulator.coco])
        return merged

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        accumulator.coco.columns()
        _pack(accumulator)
        return accumulator

    def extract_output(
        self, accumulator: _Accumulator
    ) -> dict[metric_types.MetricKey, float | np.ndarray]:
        whole = outcomes.unpack([*accumulator.parts, outcomes.pack(accumulator.single)])
        values, plots = self._score(whole, accumulator.coco)
        if self._with_intervals:
            samples = [self._score(*drawn)[0] for drawn in self._draw(whole, accumulator.coco)]
            values = {
                name: np.array([value, *(sample[name] for sample in samples)])
                for name, value in values.items()
            }
        return {_key(name, self._model_name): value for name, value in values.items()} | plots

    def _score(self, pictures: Outcomes, boxes: DetectionAccumulator) -> tuple[dict, dict]:
        """Metrics by name, plots by key; `boxes` are of the same pictures, for COCO."""
        results = outcomes.scores(pictures, len(self._class_names), len(self._slices))
        rows = zip(self._class_names, results, strict=True)
        values, plots, precisions = {}, {}, []
        for number, (name, (row, *parts)) in enumerate(rows, start=1):
            values |= {
                ap_name(name): row.ap_11_point,
                ap_area_name(name): row.ap_area,
                curve_name(name): _curve(row),
            }
            plots[_plot_key(number, self._model_name)] = _confusion_matrices(row)
            precisions.append([row.ap_11_point, row.ap_area, *(p.ap_11_point for p in parts)])
        names = [MAP, MAP_AREA, *map(slice_map_name, self._slices)]
        values |= zip(names, map(mean_of_defined, np.array(precisions).T), strict=True)
        if self._with_coco:
            values |= _coco_values(coco.evaluate(boxes))
        return values, plots

    def _draw(
        self, pictures: Outcomes, boxes: DetectionAccumulator
    ) -> Iterator[tuple[Outcomes, DetectionAccumulator]]:
        columns = boxes.columns()
        in_both = zip(
            bootstrap.draws(pictures.image_ids), bootstrap.draws(columns.image_ids), strict=True
        )
        for images, same_images in in_both:
            drawn = self.create_accumulator().coco
            drawn.add_columns(take(columns, same_images))
            yield outcomes.take(pictures, images), drawn


def _pack(accumulator: _Accumulator) -> None:
    if accumulator.single:
        accumulator.parts.append(outcomes.pack(accumulator.single))
        accumulator.single.clear()


def _coco_values(result: coco.CocoResult) -> dict[str, float]:
    values = {metric: getattr(result, field) for field, metric in COCO_NAMES.items()}
    return values | {coco_ap_name(name): value for name, value in result.class_ap.items()}


def _curve(row: ClassResult) -> np.ndarray:
    if not row.positives:
        return np.full(len(CURVE_RECALLS), np.nan)
    return interpolated_precision(row.precision, row.recall, CURVE_RECALLS)


def _plot_key(class_id: int, model_name: str) -> metric_types.PlotKey:
    return metric_types.PlotKey(
        CONFUSION_MATRIX_PLOT_NAME,
        model_name=model_name,
        sub_key=metric_types.SubKey(class_id=class_id),
        example_weighted=None,
    )


def _confusion_matrices(row: ClassResult):
    """Counts of the detections above each score threshold, as TFMA's plots want them."""
    above = len(row.scores) - np.searchsorted(row.scores[::-1], _SCORE_THRESHOLDS, "right")
    found = np.append(0.0, np.cumsum(row.hits))[above]
    matrices = Matrices(
        thresholds=_SCORE_THRESHOLDS.tolist(),
        tp=found.tolist(),
        tn=[0.0] * len(above),
        fp=(above - found).tolist(),
        fn=(row.positives - found).tolist(),
    )
    return matrices.to_proto().confusion_matrix_at_thresholds
