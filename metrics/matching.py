"""Pairs detections with ground truth and ranks them, for all pictures and classes at once."""

from collections.abc import Callable, Iterator

import numpy as np

from metrics.accumulator import Columns
from metrics.boxes import box_iou

# Pairs compared at once: limits memory for a crowded data set to some 200 MB, yet hides numpy's
# overhead per call.
_PAIRS_AT_ONCE = 1_000_000


def candidate_pairs(
    det_group: np.ndarray, gt_group: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs every detection with every ground truth of its group, in chunks of limited size.

    det_group, gt_group: int64 [detections] and [ground truths], such as one number per picture and
        class.
    Yields (detection rows, ground truth rows), int64 [pairs] each. All pairs of a detection are
    consecutive in one chunk, with ground truths in row order.
    """
    gt_order = np.argsort(gt_group, kind="stable")
    sorted_groups = gt_group[gt_order]
    first = np.searchsorted(sorted_groups, det_group, "left")
    count = np.searchsorted(sorted_groups, det_group, "right") - first
    detections = np.flatnonzero(count)
    ends = np.cumsum(count[detections])
    start = done = 0
    while start < len(detections):
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, "right")))
        piece = detections[start:stop]
        det_rows = np.repeat(piece, count[piece])
        position = (
            np.arange(len(det_rows))
            + done
            - np.repeat(ends[start:stop] - count[piece], count[piece])
        )
        yield det_rows, gt_order[first[det_rows] + position]
        done, start = int(ends[stop - 1]), stop


def best_ground_truth(
    columns: Columns,
    det_group: np.ndarray,
    gt_group: np.ndarray,
    is_candidate: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the ground truth with the highest IoU in each detection's group; the first of ties.

    det_group, gt_group: as in `candidate_pairs`.
    is_candidate: maps detection rows and ground truth rows, int64 [pairs] each, to whether to
        consider each pair, bool [pairs]; by default all pairs of a group.
    Returns (ground truth rows int64 [detections], IoUs float64 [detections]): -1 and 0 for a
    detection without a candidate.
    """
    best = np.full(len(columns.det_class), -1, np.int64)
    best_iou = np.zeros(len(columns.det_class))
    for det_rows, gt_rows in candidate_pairs(det_group, gt_group):
        if is_candidate:
            kept = is_candidate(det_rows, gt_rows)
            det_rows, gt_rows = det_rows[kept], gt_rows[kept]
        if not len(det_rows):
            continue
        iou = box_iou(columns.det_box[det_rows], columns.gt_box[gt_rows])
        starts = np.flatnonzero(np.diff(det_rows, prepend=-1))
        best_iou[det_rows[starts]] = np.maximum.reduceat(iou, starts)
        highest = np.flatnonzero(iou == best_iou[det_rows])
        # The last assignment to a repeated index wins; in reverse order, that is the first pair.
        best[det_rows[highest[::-1]]] = gt_rows[highest[::-1]]
    return best, best_iou


def ranking(columns: Columns) -> np.ndarray:
    """Detection rows, int64 [detections], by class, descending score, image id and row.

    With the id, the result does not depend on the order in which pictures were added.
    """
    _, id_rank = np.unique(columns.image_ids, return_inverse=True)
    return np.lexsort((id_rank[columns.det_image], -columns.det_score, columns.det_class))


def by_picture_and_class(columns: Columns, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups for `candidate_pairs`, int64 [detections] and [ground truths]: picture and class."""
    return (
        columns.det_image * num_classes + columns.det_class,
        columns.gt_image * num_classes + columns.gt_class,
    )
