"""Scores by the rules of COCO's detection challenge."""

import math
from dataclasses import dataclass

import numpy as np

from metrics.accumulator import DetectionAccumulator
from metrics.average_precision import (
    interpolated_precision,
    mean_of_defined,
    precision_recall,
)
from metrics.boxes import SIZES
from metrics.coco_matching import DETECTIONS_PER_IMAGE, match_coco

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_AREAS = np.array([(0, math.inf), *SIZES.values()], np.float64)
_LIMITS = (1, 10, DETECTIONS_PER_IMAGE)
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)


@dataclass(frozen=True)
class CocoResult:
    """COCO's twelve numbers and each class's AP; NaN without objects to find.

    AP is the mean over IoU 0.50, 0.55 ... 0.95 (or at one of them), 101 recalls and the classes. AR
    is the recall with 1, 10 or 100 detections per class and picture, averaged over these IoUs and
    the classes. Sizes are of objects (`boxes.SIZES`).
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    class_ap: dict[str, float]


def evaluate(accumulator: DetectionAccumulator) -> CocoResult:
    """Scores an accumulator whose boxes (and areas) are in pixels.

    Crowds and difficult objects are ignored: missing or finding them costs nothing.
    """
    columns = accumulator.columns()
    num_classes = len(accumulator.class_names)
    matches = match_coco(columns, num_classes, _THRESHOLDS, _AREAS)
    bounds = np.searchsorted(columns.det_class[matches.rows], np.arange(num_classes + 1))
    precision = np.full((len(_AREAS), num_classes, len(_THRESHOLDS)), math.nan)
    recall = np.full((len(_LIMITS), *precision.shape), math.nan)
    for size, index in np.argwhere(matches.positives):
        rows = slice(bounds[index], bounds[index + 1])
        counted = ~matches.ignored[size, :, rows]
        hits = matches.matched[size, :, rows] & counted
        positives = int(matches.positives[size, index])
        for limit, most in enumerate(_LIMITS):
            within = matches.rank[rows] < most
            recall[limit, size, index] = hits[:, within].sum(axis=1) / positives
        precision[size, index] = [
            interpolated_precision(*precision_recall(hit[count], positives), _RECALLS).mean()
            for hit, count in zip(hits, counted, strict=True)
        ]
    return CocoResult(
        ap=mean_of_defined(precision[_ALL]),
        ap50=mean_of_defined(precision[_ALL, :, 0]),
        ap75=mean_of_defined(precision[_ALL, :, 5]),
        ap_small=mean_of_defined(precision[_SMALL]),
        ap_medium=mean_of_defined(precision[_MEDIUM]),
        ap_large=mean_of_defined(precision[_LARGE]),
        ar_1=mean_of_defined(recall[0, _ALL]),
        ar_10=mean_of_defined(recall[1, _ALL]),
        ar_100=mean_of_defined(recall[2, _ALL]),
        ar_small=mean_of_defined(recall[2, _SMALL]),
        ar_medium=mean_of_defined(recall[2, _MEDIUM]),
        ar_large=mean_of_defined(recall[2, _LARGE]),
        class_ap={
            name: mean_of_defined(row)
            for name, row in zip(accumulator.class_names, precision[_ALL], strict=True)
        },
    )
