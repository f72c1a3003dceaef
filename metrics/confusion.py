"""Which classes are mistaken for which, at one score threshold."""

from dataclasses import dataclass

import numpy as np

from metrics.accumulator import Columns
from metrics.boxes import box_iou
from metrics.matching import candidate_pairs
from metrics.voc_matching import IOU_THRESHOLD, match_voc


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of objects and detections at a score threshold."""

    object_of: np.ndarray  # int64 [detections], the matched ground truth row, -1 for none
    shown: np.ndarray  # bool [detections], reaches the threshold and hits no difficult object
    detection_of: np.ndarray  # int64 [ground truths], the inverse of object_of
    found: np.ndarray  # bool [ground truths], found under its own class
    countable: np.ndarray  # bool [ground truths], neither difficult nor a crowd


def match_at(columns: Columns, num_classes: int, score_threshold: float) -> Outcomes:
    """Matches each object with at most one detection that reaches the score threshold.

    VOC's hits come first. Then, by score, each remaining detection may take a remaining object of
    another class with an IoU above `IOU_THRESHOLD`. For its own class, VOC's rule is final.
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
        confused = part.det_class[detection] != part.gt_class[ground_truth]
        if unmatched and confused and free[ground_truth]:
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
    """Counts int64 [num_classes + 1, num_classes + 1]: true classes by detected classes.

    The last column counts missed objects, the last row detections without an object.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    objects = np.flatnonzero(outcomes.countable)
    detected = np.append(columns.det_class, num_classes)[outcomes.detection_of[objects]]
    np.add.at(matrix, (columns.gt_class[objects], detected), 1)
    nothing = outcomes.shown & (outcomes.object_of < 0)
    np.add.at(matrix[num_classes], columns.det_class[nothing], 1)
    return matrix


def _overlapping(columns: Columns) -> list[tuple[int, int]]:
    """(detection row, ground truth row) pairs that overlap enough, by descending score."""
    pairs = []
    for det_rows, gt_rows in candidate_pairs(columns.det_image, columns.gt_image):
        iou = box_iou(columns.det_box[det_rows], columns.gt_box[gt_rows])
        enough = iou > IOU_THRESHOLD
        rows = zip(-columns.det_score[det_rows], -iou, det_rows, gt_rows, strict=True)
        pairs += [row for row, is_enough in zip(rows, enough, strict=True) if is_enough]
    return [(int(detection), int(ground_truth)) for *_, detection, ground_truth in sorted(pairs)]
