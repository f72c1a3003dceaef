"""Collects and scores the pictures of a slice in TensorFlow Model Analysis."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types
from tensorflow_model_analysis.metrics.binary_confusion_matrices import Matrices
from tensorflow_model_analysis.metrics.confusion_matrix_plot import CONFUSION_MATRIX_PLOT_NAME
from tensorflow_model_analysis.proto import metrics_for_slice_pb2

from components.mean_average_precision import metric_names
from metrics import bootstrap, coco, matched
from metrics.accumulator import Columns, DetectionAccumulator, take
from metrics.average_precision import (
    interpolated_precision,
    mean_of_defined,
)
from metrics.matched import Matched, Packed
from metrics.score_thresholds import SCORE_THRESHOLDS
from metrics.voc import ClassResult, score_classes

# An unpacked picture takes a kilobyte, mostly overhead of its ten arrays.
_PICTURES_PER_PART = 500


def metric_key(name: str, model_name: str) -> metric_types.MetricKey:
    """The key under which TFMA finds a metric's value and bounds."""
    # TFMA finds the bounds of a MetricsSpec only under keys that do not say whether examples are
    # weighted.
    return metric_types.MetricKey(name, model_name=model_name, example_weighted=None)


class MatchedPicture(NamedTuple):
    """What a picture adds to the VOC score, and to COCO's if configured."""

    matched: Matched
    columns: Columns | None


class _Accumulator(NamedTuple):
    """Pictures of a slice. COCO needs their boxes, because it matches them in many ways."""

    parts: list[Packed]
    single: list[Matched]  # not packed yet
    coco: DetectionAccumulator


class ScorePictures(beam.CombineFn):
    """Collects the pictures of a slice and scores them at the end.

    With intervals each metric is an array, [1 + samples]: for all pictures, then for each bootstrap
    sample, so that TFMA compares models sample by sample.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        slices: Sequence[str],
        with_coco: bool,
        with_intervals: bool,
        model_name: str,
    ) -> None:
        self._class_names = tuple(class_names)
        self._slices = tuple(slices)
        self._with_coco = with_coco
        self._with_intervals = with_intervals
        self._model_name = model_name

    def keys(self) -> list[metric_types.MetricKey]:
        """The keys of `extract_output`."""
        return list(self.extract_output(self.create_accumulator()))

    def create_accumulator(self) -> _Accumulator:
        """An accumulator without pictures."""
        return _Accumulator([], [], DetectionAccumulator(self._class_names))

    def add_input(self, accumulator: _Accumulator, picture: MatchedPicture) -> _Accumulator:
        """Adds a picture in place."""
        accumulator.single.append(picture.matched)
        if len(accumulator.single) == _PICTURES_PER_PART:
            _pack(accumulator)
        if picture.columns is not None:
            accumulator.coco.add_columns(picture.columns)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Accumulator]) -> _Accumulator:
        """All their pictures, in a new accumulator."""
        # Always new, because TFMA may merge the same accumulators several times.
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged.parts.extend(accumulator.parts)
            merged.single.extend(accumulator.single)
            merged.coco.merge([accumulator.coco])
        return merged

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        """Packs the remaining pictures before Beam sends them to another worker."""
        accumulator.coco.columns()
        _pack(accumulator)
        return accumulator

    def extract_output(
        self, accumulator: _Accumulator
    ) -> dict[metric_types.MetricKey, float | np.ndarray]:
        """{key: value} of all metrics, and the plots."""
        whole = matched.unpack([*accumulator.parts, matched.pack(accumulator.single)])
        values, plots = self._score(whole, accumulator.coco)
        if self._with_intervals:
            samples = [self._score(*drawn)[0] for drawn in self._draw(whole, accumulator.coco)]
            values = {
                name: np.array([value, *(sample[name] for sample in samples)])
                for name, value in values.items()
            }
        return {metric_key(name, self._model_name): value for name, value in values.items()} | plots

    def _score(self, pictures: Matched, boxes: DetectionAccumulator) -> tuple[dict, dict]:
        """Metrics by name and plots by key; `boxes` holds the same pictures, for COCO."""
        results = score_classes(pictures, len(self._class_names), len(self._slices))
        rows = zip(self._class_names, results, strict=True)
        values: dict[str, float | np.ndarray] = {}
        plots, precisions = {}, []
        for number, (name, (row, *parts)) in enumerate(rows, start=1):
            values |= {
                metric_names.ap_name(name): row.ap_11_point,
                metric_names.ap_area_name(name): row.ap_area,
                metric_names.curve_name(name): _curve(row),
            }
            plots[_plot_key(number, self._model_name)] = _confusion_matrices(row)
            precisions.append([row.ap_11_point, row.ap_area, *(p.ap_11_point for p in parts)])
        names = [
            metric_names.MAP,
            metric_names.MAP_AREA,
            *map(metric_names.slice_map_name, self._slices),
        ]
        values |= zip(names, map(mean_of_defined, np.array(precisions).T), strict=True)
        if self._with_coco:
            values |= _coco_values(coco.evaluate(boxes))
        return values, plots

    def _draw(
        self, pictures: Matched, boxes: DetectionAccumulator
    ) -> Iterator[tuple[Matched, DetectionAccumulator]]:
        columns = boxes.columns()
        in_both = zip(
            bootstrap.draws(pictures.image_ids), bootstrap.draws(columns.image_ids), strict=True
        )
        for images, same_images in in_both:
            drawn = self.create_accumulator().coco
            drawn.add_columns(take(columns, same_images))
            yield matched.take(pictures, images), drawn


def _pack(accumulator: _Accumulator) -> None:
    if accumulator.single:
        accumulator.parts.append(matched.pack(accumulator.single))
        accumulator.single.clear()


def _coco_values(result: coco.CocoResult) -> dict[str, float]:
    values = {metric: getattr(result, field) for field, metric in metric_names.COCO_NAMES.items()}
    return values | {
        metric_names.coco_ap_name(name): value for name, value in result.class_ap.items()
    }


def _curve(row: ClassResult) -> np.ndarray:
    if not row.positives:
        return np.full(len(metric_names.CURVE_RECALLS), np.nan)
    return interpolated_precision(row.precision, row.recall, metric_names.CURVE_RECALLS)


def _plot_key(class_id: int, model_name: str) -> metric_types.PlotKey:
    return metric_types.PlotKey(
        CONFUSION_MATRIX_PLOT_NAME,
        model_name=model_name,
        sub_key=metric_types.SubKey(class_id=class_id),
        example_weighted=None,
    )


def _confusion_matrices(
    row: ClassResult,
) -> metrics_for_slice_pb2.ConfusionMatrixAtThresholds:
    """Counts of the detections above each score threshold, in the form of TFMA's plots."""
    above = len(row.scores) - np.searchsorted(row.scores[::-1], SCORE_THRESHOLDS, "right")
    found = np.append(0.0, np.cumsum(row.hits))[above]
    matrices = Matrices(
        thresholds=SCORE_THRESHOLDS.tolist(),
        tp=found.tolist(),
        tn=[0.0] * len(above),
        fp=(above - found).tolist(),
        fn=(row.positives - found).tolist(),
    )
    return matrices.to_proto().confusion_matrix_at_thresholds
