"""Pascal VOC's matching of detections to objects, for all pictures and classes at once."""

from typing import NamedTuple

import numpy as np

from metrics.accumulator import Columns
from metrics.matching import best_ground_truth, by_picture_and_class, ranking

# A hit needs an IoU above this.
IOU_THRESHOLD = 0.5


class VocMatches(NamedTuple):
    """The outcome of each detection, and which objects count; in row order."""

    best: np.ndarray  # int64 [detections], row of the matched object, -1 for none
    hit: np.ndarray  # bool [detections], found an object that counts
    ignored: np.ndarray  # bool [detections], neither hit nor false positive
    countable: np.ndarray  # bool [ground truths], neither difficult nor a crowd


def match_voc(columns: Columns, num_classes: int, iou_threshold: float) -> VocMatches:
    """Matches as the development kit does.

    A detection belongs to the object of its class and picture with the highest IoU, which must
    exceed `iou_threshold`; difficult and already found objects are candidates too. If that object
    is difficult (or a crowd, which VOC does not have), the detection is ignored; if a
    higher-scoring detection found it, this one is a false positive.
    """
    best, iou = best_ground_truth(columns, *by_picture_and_class(columns, num_classes))
    best[iou <= iou_threshold] = -1
    countable = ~(columns.gt_difficult | columns.gt_crowd)
    ignored = lookup(~countable, best)
    order = ranking(columns)
    matched = order[(best >= 0)[order]]
    _, first = np.unique(best[matched], return_index=True)
    hit = np.zeros(len(best), bool)
    hit[matched[first]] = True
    return VocMatches(best, hit & ~ignored, ignored, countable)


def lookup(flags: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Flags bool [n] at rows int64 [m]; False where the row is -1."""
    # -1 reads the appended last entry.
    return np.append(flags, False)[rows]
