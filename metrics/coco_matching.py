"""COCO's matching, for all pictures, classes, IoU thresholds and object sizes at once."""

from typing import NamedTuple

import numpy as np

from metrics.accumulator import Columns
from metrics.boxes import box_area, box_iou, intersection_area
from metrics.matching import (
    by_picture_and_class,
    candidate_pairs,
    ranking,
)

DETECTIONS_PER_IMAGE = 100  # per class, as in COCO

# An object that counts always beats one that does not, whatever the overlap. A power of two keeps
# the comparison of overlaps exact.
_COUNTED_WEIGHT = 4.0


class CocoMatches(NamedTuple):
    """Outcomes of the detections COCO considers: the top 100 per picture and class."""

    rows: np.ndarray  # int64 [kept], detection rows in the order of `ranking`
    rank: np.ndarray  # int64 [kept], 0 for the best of its picture and class
    matched: np.ndarray  # bool [sizes, thresholds, kept]
    ignored: np.ndarray  # bool [sizes, thresholds, kept]: neither hit nor false positive
    positives: np.ndarray  # int64 [sizes, classes]: objects to find


def match_coco(
    columns: Columns, num_classes: int, thresholds: np.ndarray, areas: np.ndarray
) -> CocoMatches:
    """Matches as COCO does: by score, each detection takes the best object that is still free.

    Unlike VOC, an overlap of exactly the threshold is enough; if an object is taken, the detection
    may take the next best one; objects that count are preferred to those that do not (crowds,
    difficult ones, those of another size); and a crowd can be matched repeatedly, its overlap being
    the share of the detection inside it. An unmatched detection of another size is ignored.

    thresholds: float64 [thresholds], each more than 0.25.
    areas: float64 [sizes, 2], lowest and highest area of an object of each size.
    """
    rows = ranking(columns)
    group, gt_group = by_picture_and_class(columns, num_classes)
    group = group[rows]
    rank = _rank_in_group(group)
    kept = rank < DETECTIONS_PER_IMAGE
    rows, group, rank = rows[kept], group[kept], rank[kept]

    uncounted = (columns.gt_crowd | columns.gt_difficult) | _outside(columns.gt_area, areas)
    detections, truths, overlap = _overlapping_pairs(
        columns, rows, group, gt_group, thresholds.min()
    )
    best = np.full((len(areas), len(thresholds), len(rows)), -1, np.int32)
    taken = np.zeros((len(areas), len(thresholds), len(gt_group)), bool)
    by_rank = np.argsort(rank[detections], kind="stable")
    cuts = np.searchsorted(rank[detections][by_rank], np.arange(1, DETECTIONS_PER_IMAGE))
    for step in np.split(by_rank, cuts):
        if not len(step):
            continue
        chosen = _choose(
            detections[step], truths[step], overlap[step], columns, uncounted, taken, thresholds
        )
        starts = np.flatnonzero(np.diff(detections[step], prepend=-1))
        best[..., detections[step][starts]] = chosen
        size, threshold, position = np.nonzero(chosen >= 0)
        taken[size, threshold, chosen[size, threshold, position]] = True

    matched = best >= 0
    # An unmatched detection's -1 reads the padded last entry.
    of_uncounted = np.take_along_axis(np.pad(uncounted, ((0, 0), (0, 1)))[:, None], best, axis=2)
    of_other_size = _outside(box_area(columns.det_box[rows]), areas)[:, None]
    ignored = np.where(matched, of_uncounted, of_other_size)
    positives = np.array(
        [np.bincount(columns.gt_class[~size], minlength=num_classes) for size in uncounted]
    )
    return CocoMatches(rows, rank, matched, ignored, positives)


def _rank_in_group(group: np.ndarray) -> np.ndarray:
    """Each entry's position within its group, in the given order."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(starts, append=len(group))
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    return rank


def _outside(area: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """bool [sizes, n]: whether areas [n] are outside the ranges `areas` [sizes, 2]."""
    return (area < areas[:, :1]) | (area > areas[:, 1:])


def _overlapping_pairs(
    columns: Columns, rows: np.ndarray, group: np.ndarray, gt_group: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in `rows`, ground truth rows and overlaps of all pairs that may match.

    Each [pairs], with overlaps of at least `least`.
    """
    pieces = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for detections, truths in candidate_pairs(group, gt_group):
        found, there = columns.det_box[rows[detections]], columns.gt_box[truths]
        area = box_area(found)
        within = intersection_area(found, there) / np.where(area > 0, area, 1)
        overlap = np.where(columns.gt_crowd[truths], within, box_iou(found, there))
        near = overlap >= least
        pieces.append((detections[near], truths[near], overlap[near]))
    detections, truths, overlap = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return detections, truths, overlap


def _choose(
    detections: np.ndarray,
    truths: np.ndarray,
    overlap: np.ndarray,
    columns: Columns,
    uncounted: np.ndarray,
    taken: np.ndarray,
    thresholds: np.ndarray,
) -> np.ndarray:
    """The rows matched at one rank, [sizes, thresholds, distinct detections]; -1 for none.

    Ties go to the last, as in COCO's own loop.

    detections, truths, overlap: [pairs], grouped by detection.
    uncounted: bool [sizes, ground truths].
    taken: bool [sizes, thresholds, ground truths].
    """
    free = ~taken[..., truths] | columns.gt_crowd[truths]
    eligible = free & (overlap >= thresholds[:, None])
    weight = np.where(uncounted[:, None, truths], 1.0, _COUNTED_WEIGHT) * overlap
    value = np.where(eligible, weight, -1.0)
    starts = np.flatnonzero(np.diff(detections, prepend=-1))
    sizes = np.diff(starts, append=len(detections))
    highest = np.maximum.reduceat(value, starts, axis=2)
    is_highest = eligible & (value == np.repeat(highest, sizes, axis=2))
    last = np.maximum.reduceat(np.where(is_highest, np.arange(len(truths)), -1), starts, axis=2)
    return np.where(last >= 0, truths[last], -1)
