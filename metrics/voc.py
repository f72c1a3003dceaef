"""Average precision by the rules of the Pascal VOC development kit."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from metrics.accumulator import DetectionAccumulator
from metrics.average_precision import (
    ap_11_point,
    ap_area,
    mean_of_defined,
    precision_recall,
)
from metrics.matched import Matched, match
from metrics.voc_matching import IOU_THRESHOLD


@dataclass(frozen=True)
class ClassResult:
    """The score of one class. Arrays have a row per detection that counts, by descending score.

    Without objects that count, precision, recall and AP are undefined: NaN.
    """

    positives: int  # objects that count: neither difficult nor a crowd
    detections: int  # all, including those of difficult objects
    scores: np.ndarray  # float64 [counted detections]
    hits: np.ndarray  # bool [counted detections]
    ap_11_point: float
    ap_area: float

    # Not stored: they would take twice the memory of the rest.
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
    """All classes by name; the means exclude those without objects that count."""

    classes: dict[str, ClassResult]

    @property
    def map_11_point(self) -> float:
        """mAP as defined by VOC2007; NaN if no class has an object that counts."""
        return mean_of_defined(np.array([result.ap_11_point for result in self.classes.values()]))

    @property
    def map_area(self) -> float:
        """mAP as defined since VOC2010; NaN if no class has an object that counts."""
        return mean_of_defined(np.array([result.ap_area for result in self.classes.values()]))


def evaluate(accumulator: DetectionAccumulator, iou_threshold: float = IOU_THRESHOLD) -> VocResult:
    """Scores every class; a hit needs an IoU of more than `iou_threshold` (`match_voc`)."""
    names = accumulator.class_names
    matched = match(accumulator.columns(), len(names), iou_threshold)
    rows = score_classes(matched, len(names))
    return VocResult({name: row for name, (row,) in zip(names, rows, strict=True)})


def score_classes(
    matched: Matched, num_classes: int, num_slices: int = 0
) -> Iterator[tuple[ClassResult, ...]]:
    """Scores each class in turn: over all objects, then over those of each slice.

    Yields class by class, because ranking and scoring take several times their input's memory.

    num_slices: how many slices the pictures were matched for.
    """
    _, id_rank = np.unique(matched.image_ids, return_inverse=True)
    ends = np.cumsum(matched.det_count)
    for index in range(num_classes):
        countable = matched.gt_countable[matched.gt_class == index]
        rows = np.flatnonzero(matched.det_class == index)
        # The order of `matching.ranking`.
        rank = id_rank[np.searchsorted(ends, rows, "right")]
        rows = rows[np.lexsort((rank, -matched.det_score[rows]))]
        yield tuple(_score(matched, rows, countable, bit) for bit in range(1 + num_slices))


def _score(matched: Matched, rows: np.ndarray, countable: np.ndarray, bit: int) -> ClassResult:
    """rows: int64 [detections of the class], ranked; countable: bits [objects of the class]."""
    counted = rows[~_flag(matched.det_ignored[rows], bit)]
    positives = int(_flag(countable, bit).sum())
    hits = matched.det_hit[counted]
    precision, recall = _precision_recall(hits, positives)
    return ClassResult(
        positives,
        len(rows),
        matched.det_score[counted].astype(np.float64),
        hits,
        ap_11_point(precision, recall) if positives else math.nan,
        ap_area(precision, recall) if positives else math.nan,
    )


def _flag(bits: np.ndarray, number: int) -> np.ndarray:
    return (bits >> number & 1).astype(bool)


def _precision_recall(hits: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    if positives:
        return precision_recall(hits, positives)
    undefined = np.full(len(hits), math.nan)
    return undefined, undefined
