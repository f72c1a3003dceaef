"""The kinds of error a detector makes, and the AP that each kind costs.

After TIDE (Bolya et al., ECCV 2020), on VOC's matching: false positives are sorted into kinds, and
the cost of a kind is the AP gained by correcting it alone.
"""

from dataclasses import dataclass

import numpy as np

from metrics.accumulator import Columns, DetectionAccumulator
from metrics.average_precision import mean_of_defined
from metrics.matched import Matched, compact
from metrics.matching import (
    best_ground_truth,
    by_picture_and_class,
    ranking,
)
from metrics.voc import score_classes
from metrics.voc_matching import IOU_THRESHOLD, match_voc

CLASSIFICATION = "classification"  # hits an object of another class
LOCALISATION = "localisation"  # near an object of its class, with too little overlap
BOTH = "both"  # near an object of another class, with too little overlap
DUPLICATE = "duplicate"  # hits an object that a higher-scoring detection found
BACKGROUND = "background"  # near no object
MISSED = "missed"  # an object without a detection, not even with a wrong class or a bad box
ERROR_TYPES = (CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED)

HIT = "hit"
IGNORED = "ignored"

# Below this overlap a detection is not near an object.
_BACKGROUND_IOU = 0.1


@dataclass(frozen=True)
class ErrorShare:
    """The number of errors of one kind, and the area AP they cost (NaN without objects)."""

    count: int
    ap_cost: float


@dataclass(frozen=True)
class ErrorAnalysis:
    """Errors by kind, for each class and overall; the overall cost is in mAP.

    An error counts towards the detection's class, a missed object towards its own. The cost for a
    class is what correcting all errors of the kind would add to its AP.
    """

    classes: dict[str, dict[str, ErrorShare]]
    overall: dict[str, ErrorShare]
    kinds: np.ndarray  # str [detections], in the row order of `accumulator.columns()`
    missed: np.ndarray  # bool [ground truths], likewise


def analyse(accumulator: DetectionAccumulator) -> ErrorAnalysis:
    """Sorts every false positive and every missed object into one kind.

    A false positive gets the first kind that fits: localisation (an IoU from `_BACKGROUND_IOU` to
    `IOU_THRESHOLD` with an object of its class), classification (more than `IOU_THRESHOLD` with an
    object of another class), duplicate, background (less than `_BACKGROUND_IOU` with every object),
    both.
    Difficult objects are ignored.
    """
    columns = accumulator.columns()
    num_classes = len(accumulator.class_names)
    matches = match_voc(columns, num_classes, IOU_THRESHOLD)
    same, same_iou = best_ground_truth(
        columns,
        *by_picture_and_class(columns, num_classes),
        lambda _, gt_rows: matches.countable[gt_rows],
    )
    other, other_iou = best_ground_truth(
        columns,
        columns.det_image,
        columns.gt_image,
        lambda det_rows, gt_rows: (
            matches.countable[gt_rows] & (columns.gt_class[gt_rows] != columns.det_class[det_rows])
        ),
    )
    kinds = np.select(
        [
            matches.hit,
            matches.ignored,
            (same_iou >= _BACKGROUND_IOU) & (same_iou <= IOU_THRESHOLD),
            other_iou > IOU_THRESHOLD,
            matches.best >= 0,
            np.maximum(same_iou, other_iou) < _BACKGROUND_IOU,
        ],
        [HIT, IGNORED, LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
        BOTH,
    )
    targets = {LOCALISATION: same, CLASSIFICATION: other}
    found = np.zeros(len(columns.gt_class), bool)
    found[matches.best[matches.hit]] = True
    missed = matches.countable & ~found
    for kind, target in targets.items():
        missed[target[kinds == kind]] = False

    table = compact(columns, num_classes, [matches])
    before = _average_precisions(table, num_classes)
    shares = {}
    for kind in ERROR_TYPES:
        if kind == MISSED:
            counts = np.bincount(columns.gt_class[missed], minlength=num_classes)
            corrected = table._replace(gt_countable=np.where(missed, 0, table.gt_countable))
        else:
            rows = np.flatnonzero(kinds == kind)
            counts = np.bincount(columns.det_class[rows], minlength=num_classes)
            corrected = _corrected(columns, table, rows, targets.get(kind), found)
        left = np.bincount(corrected.gt_class[corrected.gt_countable > 0], minlength=num_classes)
        # A class with nothing left to find has AP 1.
        after = np.where(left, _average_precisions(corrected, num_classes), 1.0)
        shares[kind] = (counts, after - before)
    return ErrorAnalysis(
        classes={
            name: {
                kind: ErrorShare(int(counts[index]), float(costs[index]))
                for kind, (counts, costs) in shares.items()
            }
            for index, name in enumerate(accumulator.class_names)
        },
        overall={
            kind: ErrorShare(int(counts.sum()), mean_of_defined(costs))
            for kind, (counts, costs) in shares.items()
        },
        kinds=kinds,
        missed=missed,
    )


def _corrected(
    columns: Columns,
    table: Matched,
    rows: np.ndarray,
    target: np.ndarray | None,
    found: np.ndarray,
) -> Matched:
    """The table without the errors in `rows`.

    With targets, the highest-scoring error at each unfound object becomes a hit on it; all other
    errors are removed.

    rows: int64 [errors], detection rows.
    target: int64 [detections], the ground truth row each detection should have hit.
    found: bool [ground truths].
    """
    ignored = table.det_ignored.copy()
    ignored[rows] = 1
    if target is None:
        return table._replace(det_ignored=ignored)
    by_score = ranking(columns._replace(det_class=np.zeros_like(columns.det_class)))
    rows = by_score[np.isin(by_score, rows)]
    rows = rows[~found[target[rows]]]
    objects, first = np.unique(target[rows], return_index=True)
    hit, det_class = table.det_hit.copy(), table.det_class.copy()
    ignored[rows[first]] = 0
    hit[rows[first]] = True
    det_class[rows[first]] = table.gt_class[objects]
    return table._replace(det_class=det_class, det_hit=hit, det_ignored=ignored)


def _average_precisions(table: Matched, num_classes: int) -> np.ndarray:
    """Area AP float64 [classes]; NaN without objects."""
    return np.array([row.ap_area for (row,) in score_classes(table, num_classes)])
