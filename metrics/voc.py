"""Scores by the rules of the Pascal VOC development kit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from metrics.accumulator import Columns, DetectionAccumulator
from metrics.average_precision import (
    ap_11_point,
    ap_area,
    mean_of_defined,
    precision_recall,
)
from metrics.matching import (
    best_ground_truth,
    by_picture_and_class,
    ranking,
)

# A detection hits with more overlap than this.
IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class ClassResult:
    """One class. Arrays have a row for each detection that counts, by falling score.

    Without objects that are not difficult, precision, recall and AP are undefined: NaN.
    """

    positives: int  # objects that are not difficult
    detections: int  # all of them, also those of difficult objects
    scores: np.ndarray  # float [counted detections]
    hits: np.ndarray  # bool [counted detections]
    ap_11_point: float
    ap_area: float

    # Not stored: they would take twice as much as the rest, of each class at once.
    @property
    def precision(self) -> np.ndarray:
        """float64 [counted detections]."""
        return _precision_recall(self.hits, self.positives)[0]

    @property
    def recall(self) -> np.ndarray:
        """float64 [counted detections]."""
        return _precision_recall(self.hits, self.positives)[1]


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


class VocMatches(NamedTuple):
    """What became of the detections, and which objects count."""

    best: np.ndarray  # int64 [detections], the ground truth row matched, -1 for none
    hit: np.ndarray  # bool [detections], found an object that counts
    ignored: np.ndarray  # bool [detections], counts neither way
    countable: np.ndarray  # bool [ground truths], neither difficult nor a crowd
    order: np.ndarray  # int64 [detections], `ranking`


def match_voc(columns: Columns, num_classes: int, iou_threshold: float) -> VocMatches:
    """Matches as the development kit does; arrays are in row order.

    A detection belongs to the object of its class and picture with the highest IoU, which must be
    greater than `iou_threshold`; difficult and taken objects are candidates like all others. If
    that object is difficult (or a crowd, which VOC does not know) it counts neither way; if a
    detection of higher score has taken it, it is a false positive.
    """
    best, iou = best_ground_truth(columns, *by_picture_and_class(columns, num_classes))
    best[iou <= iou_threshold] = -1
    order = ranking(columns)
    countable = ~(columns.gt_difficult | columns.gt_crowd)
    # The -1 of a detection without a match reads the added last entry.
    ignored = np.append(~countable, False)[best]
    matched = order[(best >= 0)[order]]
    _, first = np.unique(best[matched], return_index=True)
    hit = np.zeros(len(best), bool)
    hit[matched[first]] = True
    return VocMatches(best, hit & ~ignored, ignored, countable, order)


def evaluate(accumulator: DetectionAccumulator, iou_threshold: float = IOU_THRESHOLD) -> VocResult:
    """AP of every class, with an IoU of more than `iou_threshold` for a hit (`match_voc`)."""
    columns = accumulator.columns()
    matches = match_voc(columns, len(accumulator.class_names), iou_threshold)
    return score(columns, matches, accumulator.class_names)


def score(columns: Columns, matches: VocMatches, class_names: Sequence[str]) -> VocResult:
    """AP of every class of matched detections."""
    num_classes = len(class_names)
    positives = np.bincount(columns.gt_class[matches.countable], minlength=num_classes)
    bounds = np.searchsorted(columns.det_class[matches.order], np.arange(num_classes + 1))
    classes = {}
    for index, name in enumerate(class_names):
        rows = matches.order[bounds[index] : bounds[index + 1]]
        counted = rows[~matches.ignored[rows]]
        classes[name] = class_result(
            columns.det_score[counted], matches.hit[counted], int(positives[index]), len(rows)
        )
    return VocResult(classes)


def class_result(
    scores: np.ndarray, hits: np.ndarray, positives: int, detections: int
) -> ClassResult:
    """AP of a class from its ranked detections; the arguments are fields of the result."""
    precision, recall = _precision_recall(hits, positives)
    return ClassResult(
        positives,
        detections,
        scores,
        hits,
        ap_11_point(precision, recall) if positives else math.nan,
        ap_area(precision, recall) if positives else math.nan,
    )


def _precision_recall(hits: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    if positives:
        return precision_recall(hits, positives)
    undefined = np.full(len(hits), math.nan)
    return undefined, undefined
