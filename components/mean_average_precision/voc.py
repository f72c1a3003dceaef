"""Scores by the rules of the Pascal VOC development kit."""

import math
from dataclasses import dataclass

import numpy as np

from components.mean_average_precision.accumulator import DetectionAccumulator
from components.mean_average_precision.average_precision import (
    ap_11_point,
    ap_area,
    mean_of_defined,
    precision_recall,
)
from components.mean_average_precision.matching import best_ground_truth, ranking


@dataclass(frozen=True)
class ClassResult:
    """One class. Arrays have a row for each detection that counts, by falling score.

    Without objects that are not difficult, precision, recall and AP are undefined: NaN.
    """

    positives: int  # objects that are not difficult
    detections: int  # all of them, also those of difficult objects
    scores: np.ndarray  # float64 [counted detections]
    hits: np.ndarray  # bool [counted detections]
    precision: np.ndarray  # float64 [counted detections]
    recall: np.ndarray  # float64 [counted detections]
    ap_11_point: float
    ap_area: float


@dataclass(frozen=True)
class VocResult:
    """All classes by name, also those without ground truth, which the means leave out."""

    classes: dict[str, ClassResult]

    @property
    def map_11_point(self) -> float:
        """mAP as VOC2007 defines it; NaN when no class has ground truth."""
        return mean_of_defined(np.array([result.ap_11_point for result in self.classes.values()]))

    @property
    def map_area(self) -> float:
        """mAP as VOC2010 and later define it; NaN when no class has ground truth."""
        return mean_of_defined(np.array([result.ap_area for result in self.classes.values()]))


def evaluate(accumulator: DetectionAccumulator, iou_threshold: float = 0.5) -> VocResult:
    """AP of every class.

    A detection belongs to the object of its class and picture with the highest IoU, which must be
    greater than `iou_threshold`. If that object is difficult (or a crowd, which VOC does not know)
    it counts neither way; if a detection of higher score has taken it, it is a false positive.
    """
    columns = accumulator.columns()
    best, iou = best_ground_truth(columns, len(accumulator.class_names))
    order = ranking(columns)
    best = np.where(iou > iou_threshold, best, -1)[order]
    scores = columns.det_score[order]

    matched = np.flatnonzero(best >= 0)
    ignored = np.zeros(len(order), bool)
    uncounted = columns.gt_difficult | columns.gt_crowd
    ignored[matched] = uncounted[best[matched]]
    hits = np.zeros(len(order), bool)
    _, first = np.unique(best[matched], return_index=True)
    hits[matched[first]] = True

    num_classes = len(accumulator.class_names)
    positives = np.bincount(columns.gt_class[~uncounted], minlength=num_classes)
    bounds = np.searchsorted(columns.det_class[order], np.arange(num_classes + 1))
    classes = {}
    for index, name in enumerate(accumulator.class_names):
        rows = slice(bounds[index], bounds[index + 1])
        counted = ~ignored[rows]
        classes[name] = _class_result(
            scores[rows][counted], hits[rows][counted], int(positives[index]), len(counted)
        )
    return VocResult(classes)


def _class_result(
    scores: np.ndarray, hits: np.ndarray, positives: int, detections: int
) -> ClassResult:
    if not positives:
        undefined = np.full(len(scores), math.nan)
        return ClassResult(
            positives, detections, scores, hits, undefined, undefined, math.nan, math.nan
        )
    precision, recall = precision_recall(hits, positives)
    return ClassResult(
        positives,
        detections,
        scores,
        hits,
        precision,
        recall,
        ap_11_point(precision, recall),
        ap_area(precision, recall),
    )
