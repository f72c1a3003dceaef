"""The VOC metric for TensorFlow Model Analysis.

Put `metric_config(...)` into a `tfma.MetricsSpec`, and bounds on `MAP`, `MAP_AREA`, `ap_name(...)`
or `ap_area_name(...)` into its `thresholds`. (Not into `MetricConfig.threshold`: TFMA looks such a
bound up under the name of the metric only, and this one reports many.)
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types
from tensorflow_model_analysis.metrics.binary_confusion_matrices import Matrices
from tensorflow_model_analysis.metrics.confusion_matrix_plot import CONFUSION_MATRIX_PLOT_NAME

from components.mean_average_precision.accumulator import DetectionAccumulator
from components.mean_average_precision.average_precision import interpolated_precision
from components.mean_average_precision.voc import ClassResult, VocResult, evaluate
from data.errors import DataError
from data.fields import Fields

MAP = "mAP"  # VOC2007, 11-point
MAP_AREA = "mAP_area"  # VOC2010 and later

# The recalls at which precision is stored. A fixed grid keeps the curves of two models, and those
# of the samples behind a confidence interval, comparable.
CURVE_RECALLS = np.linspace(0.0, 1.0, 101)
_SCORE_THRESHOLDS = np.linspace(0.0, 1.0, 101)

_BOXES = "detection_boxes"
_SCORES = "detection_scores"
_CLASS_NAMES = "detection_class_names"
_COUNT = "num_detections"


def ap_name(class_name: str) -> str:
    """Metric with the 11-point AP of a class; NaN without objects that are not difficult."""
    return f"AP/{class_name}"


def ap_area_name(class_name: str) -> str:
    """Metric with the area AP of a class; NaN without objects that are not difficult."""
    return f"AP_area/{class_name}"


def curve_name(class_name: str) -> str:
    """Metric with the interpolated precision of a class, float64 [101], at `CURVE_RECALLS`."""
    return f"precision_at_recall/{class_name}"


def metric_config(
    class_names: Sequence[str], fields: Fields, code_version: str = ""
) -> tfma.MetricConfig:
    """Configures the metric.

    class_names: every class that records and model can name, in the order of their ids 1..N.
    fields: the names of the records' features.
    code_version: names the metric's source, so that a cached evaluation is not used after a change.
    """
    config = {
        "class_names": list(class_names),
        "fields": dataclasses.asdict(fields),
        "code_version": code_version,
    }
    return tfma.MetricConfig(
        class_name=MeanAveragePrecision.__name__, module=__name__, config=json.dumps(config)
    )


class MeanAveragePrecision(metric_types.Metric):
    """mAP and AP of each class by the Pascal VOC rules (`voc.evaluate`), IoU above 0.5.

    Ground truth comes from the features of the raw `tf.Example`, detections from the model's
    answer: `detection_boxes` [n, 4], `detection_scores` [n], `detection_class_names` [n] and
    `num_detections`, rows after which are padding. A record without object features is a picture
    without objects; one without difficult flags has no difficult objects.

    Beside the metrics it makes TFMA's own confusion matrix plots, one for each class under its id
    1..N, for `tfma.view.render_plot`. There is no true negative in detection: it is always 0.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        fields: dict[str, str | None],
        code_version: str = "",
        name: str = MAP,
    ):
        del code_version  # part of the configuration only
        super().__init__(
            _computations, class_names=list(class_names), fields=dict(fields), name=name
        )


def _computations(
    class_names: list[str],
    fields: dict[str, str | None],
    name: str,
    model_names: Iterable[str] | None = None,
) -> list[metric_types.MetricComputation]:
    del name  # the keys have their own
    record = Fields(**fields)
    features = [record.source_id, record.filename, record.text, record.difficult]
    features += [record.ymin, record.xmin, record.ymax, record.xmax]
    return [
        metric_types.MetricComputation(
            keys=_keys(class_names, model),
            preprocessors=[
                metric_types.FeaturePreprocessor(
                    feature_keys=[feature for feature in features if feature],
                    model_names=[model] if model else None,
                )
            ],
            combiner=_AccumulateDetections(class_names, record, model),
        )
        for model in model_names or [""]
    ]


class _AccumulateDetections(beam.CombineFn):
    """Collects the pictures of a slice and scores them at the end."""

    def __init__(self, class_names: Sequence[str], fields: Fields, model_name: str):
        self._class_names = tuple(class_names)
        self._fields = fields
        self._model_name = model_name

    def create_accumulator(self) -> DetectionAccumulator:
        return DetectionAccumulator(self._class_names)

    def add_input(
        self, accumulator: DetectionAccumulator, inputs: metric_types.StandardMetricInputs
    ) -> DetectionAccumulator:
        image_id, *truth = _ground_truth(inputs.get_features() or {}, self._fields)
        answer = inputs.get_predictions(self._model_name or None)
        accumulator.add(image_id, *truth, *_detections(answer, image_id))
        return accumulator

    def merge_accumulators(
        self, accumulators: Iterable[DetectionAccumulator]
    ) -> DetectionAccumulator:
        # Always a new one: the jackknife merges the same accumulators several times.
        merged = self.create_accumulator()
        merged.merge(accumulators)
        return merged

    def compact(self, accumulator: DetectionAccumulator) -> DetectionAccumulator:
        accumulator.columns()
        return accumulator

    def extract_output(
        self, accumulator: DetectionAccumulator
    ) -> dict[metric_types.MetricKey, float | np.ndarray]:
        values = _values(evaluate(accumulator))
        keys = _keys(self._class_names, self._model_name)
        return dict(zip(keys, values, strict=True))


def _keys(class_names: Sequence[str], model_name: str) -> list[metric_types.MetricKey]:
    names = [MAP, MAP_AREA]
    for class_name in class_names:
        names += [ap_name(class_name), ap_area_name(class_name), curve_name(class_name)]
    # TFMA finds the bounds of MetricsSpec.thresholds only under keys that leave it open whether
    # examples are weighted.
    keys = [
        metric_types.MetricKey(name, model_name=model_name, example_weighted=None) for name in names
    ]
    plots = [
        metric_types.PlotKey(
            CONFUSION_MATRIX_PLOT_NAME,
            model_name=model_name,
            sub_key=metric_types.SubKey(class_id=class_id),
            example_weighted=None,
        )
        for class_id in range(1, len(class_names) + 1)
    ]
    return keys + plots


def _values(result: VocResult) -> list[Any]:
    """The values of `_keys`, in the same order."""
    values: list[Any] = [result.map_11_point, result.map_area]
    for row in result.classes.values():
        values += [row.ap_11_point, row.ap_area, _curve(row)]
    return values + [_confusion_matrices(row) for row in result.classes.values()]


def _curve(row: ClassResult) -> np.ndarray:
    if not row.positives:
        return np.full(len(CURVE_RECALLS), np.nan)
    return interpolated_precision(row.precision, row.recall, CURVE_RECALLS)


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


def _ground_truth(
    features: dict[str, Any], fields: Fields
) -> tuple[str, np.ndarray, list[bytes], list[bool]]:
    """Image id, boxes [n, 4], class names and difficult flags of a record."""
    ids = [_flat(features.get(name)) for name in (fields.source_id, fields.filename) if name]
    image_id = next((values[0].decode() for values in ids if values and values[0]), None)
    if image_id is None:
        raise DataError(
            f"a record has neither {fields.source_id or 'an id'} nor {fields.filename}; detections "
            "of equal score are ranked by it. Write the records with `python -m data.convert`"
        )
    classes = _flat(features.get(fields.text))
    edges = [
        _flat(features.get(name)) for name in (fields.ymin, fields.xmin, fields.ymax, fields.xmax)
    ]
    if any(len(edge) != len(classes) for edge in edges):
        raise DataError(
            f"{image_id}: {len(classes)} names in {fields.text}, but "
            f"{', '.join(str(len(edge)) for edge in edges)} values of ymin, xmin, ymax, xmax"
        )
    difficult = _flat(features.get(fields.difficult)) or [False] * len(classes)
    return image_id, np.array(edges, np.float64).T, classes, difficult


def _detections(answer: Any, image_id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [k, 4], scores [k] and class names [k] of a model's answer, without its padding."""
    missing = [key for key in (_BOXES, _SCORES, _CLASS_NAMES, _COUNT) if key not in (answer or {})]
    if missing:
        raise DataError(
            f"{image_id}: the model's answer lacks {', '.join(missing)}; it has "
            f"{', '.join(sorted(answer or {})) or 'nothing'}. Evaluate the signature that answers "
            "with detections"
        )
    scores = np.reshape(answer[_SCORES], -1)
    count = int(np.reshape(answer[_COUNT], -1)[0])
    if not 0 <= count <= len(scores):
        raise DataError(f"{image_id}: {_COUNT} is {count} with {len(scores)} rows of detections")
    return (
        np.reshape(answer[_BOXES], (-1, 4))[:count],
        scores[:count],
        np.reshape(answer[_CLASS_NAMES], -1)[:count],
    )


def _flat(value: Any) -> list[Any]:
    """The values of a feature: TFMA delivers it dense, sparse, ragged, as None or not at all."""
    if value is None:
        return []
    values = np.reshape(getattr(value, "values", value), -1).tolist()
    return [entry for entry in values if entry is not None]
