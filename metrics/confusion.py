"""Which class is taken for which, at one score threshold."""

from dataclasses import dataclass

import numpy as np

from metrics.accumulator import Columns
from metrics.boxes import box_iou
from metrics.matching import candidate_pairs
from metrics.voc_matching import IOU_THRESHOLD, match_voc


@dataclass(frozen=True)
class Outcomes:
    """What became of objects and detections at a threshold.

    `object_of` int64 [detections]: the ground truth row that a detection stands for, -1 for none;
    `shown` bool [detections]: the score reaches the threshold and no difficult object is meant;
    `found` bool [ground truths]: found under its own class; `detection_of` int64 [ground truths]:
    the inverse of `object_of`; `countable` bool [ground truths]: neither difficult nor a crowd.
    """

    object_of: np.ndarray
    shown: np.ndarray
    detection_of: np.ndarray
    found: np.ndarray
    countable: np.ndarray


def match_at(columns: Columns, num_classes: int, score_threshold: float) -> Outcomes:
    """Gives each object at most one of the detections that reach the score threshold.

    First the detections that VOC's rules call hits; then, surest first, each other detection may
    take an object that is left, of whatever class, with an IoU above `IOU_THRESHOLD`.
    """
    kept = np.flatnonzero(columns.det_score >= score_threshold)
    part = columns._replace(
        det_image=columns.det_image[kept],
        det_class=columns.det_class[kept],
        det_score=columns.det_score[kept],
        det_box=columns.det_box[kept],
    )
    matches = match_voc(part, num_classes, IOU_THRESHOLD)
    object_of = np.where(matches.hit, matches.best, -1)
    free = matches.countable.copy()
    free[object_of[matches.hit]] = False
    for detection, ground_truth in _overlapping(part):
        unmatched = object_of[detection] < 0 and not matches.ignored[detection]
        if unmatched and free[ground_truth]:
            object_of[detection] = ground_truth
            free[ground_truth] = False

    shown = np.zeros(len(columns.det_class), bool)
    shown[kept[~matches.ignored]] = True
    whole = np.full(len(columns.det_class), -1, np.int64)
    whole[kept] = object_of
    detection_of = np.full(len(columns.gt_class), -1, np.int64)
    detection_of[whole[whole >= 0]] = np.flatnonzero(whole >= 0)
    right = detection_of >= 0
    right[right] = columns.det_class[detection_of[right]] == columns.gt_class[right]
    return Outcomes(whole, shown, detection_of, right, matches.countable)


def confusion_matrix(columns: Columns, outcomes: Outcomes, num_classes: int) -> np.ndarray:
    """Counts int64 [num_classes + 1, num_classes + 1]: true class in rows, detected in columns.

    The last column counts objects not found, the last row detections that stand for no object.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    objects = np.flatnonzero(outcomes.countable)
    detected = np.append(columns.det_class, num_classes)[outcomes.detection_of[objects]]
    np.add.at(matrix, (columns.gt_class[objects], detected), 1)
    nothing = outcomes.shown & (outcomes.object_of < 0)
    np.add.at(matrix, (num_classes, columns.det_class[nothing]), 1)
    return matrix


def _overlapping(columns: Columns) -> list[tuple[int, int]]:
    """Pairs of detection and ground truth of a picture that overlap enough, the surest first."""
    pairs = []
    for det_rows, gt_rows in candidate_pairs(columns.det_image, columns.gt_image):
        iou = box_iou(columns.det_box[det_rows], columns.gt_box[gt_rows])
        enough = iou > IOU_THRESHOLD
        rows = zip(-columns.det_score[det_rows], -iou, det_rows, gt_rows, strict=True)
        pairs += [row for row, is_enough in zip(rows, enough, strict=True) if is_enough]
    return [(int(detection), int(ground_truth)) for *_, detection, ground_truth in sorted(pairs)]
