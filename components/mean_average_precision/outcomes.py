"""What the VOC score needs of matched pictures, without their boxes.

A detection takes 52 bytes with its box, 8 without. TFMA holds the pictures once for each sample of
its bootstrap and Beam copies them between stages, so with 200 detections in each that decides
whether a picture takes a megabyte of memory.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from components.mean_average_precision import object_slices
from components.mean_average_precision.accumulator import Columns
from components.mean_average_precision.matching import ranking
from components.mean_average_precision.voc import VocMatches, VocResult, match_voc, score


class Outcomes(NamedTuple):
    """Matched pictures, one row an object, pictures one after another.

    Bit 0 of `gt_countable` and `det_ignored` is for all objects, bit i + 1 for slice i.
    """

    image_ids: np.ndarray  # str [images]
    det_count: np.ndarray  # int32 [images]
    gt_class: np.ndarray  # uint16 [ground truths]
    gt_countable: np.ndarray  # uint8 [ground truths], bits
    det_class: np.ndarray  # uint16 [detections]
    det_score: np.ndarray  # float [detections]
    det_hit: np.ndarray  # bool [detections], found an object that counts unless ignored
    det_ignored: np.ndarray  # uint8 [detections], bits

    @property
    def det_image(self) -> np.ndarray:
        """The picture of each detection, int64 [detections]."""
        return np.repeat(np.arange(len(self.image_ids)), self.det_count)


def match(
    columns: Columns, num_classes: int, iou_threshold: float, slices: Sequence[str]
) -> Outcomes:
    """Matches pictures (`voc.match_voc`), for all objects and for slices of them.

    slices: at most 7 of `object_slices.NAMES`.
    """
    matches = match_voc(columns, num_classes, iou_threshold)
    parts = [matches, *(object_slices.restrict(columns, matches, name) for name in slices)]
    single = columns.det_score.astype(np.float32)
    return Outcomes(
        image_ids=columns.image_ids,
        det_count=np.bincount(columns.det_image, minlength=len(columns.image_ids)).astype(np.int32),
        gt_class=columns.gt_class.astype(np.uint16),
        gt_countable=_as_bits([part.countable for part in parts]),
        det_class=columns.det_class.astype(np.uint16),
        # A model's scores are float32, and have to be compared as they are.
        det_score=single if (single == columns.det_score).all() else columns.det_score,
        det_hit=matches.hit,
        det_ignored=_as_bits([part.ignored for part in parts]),
    )


def concatenate(parts: Sequence[Outcomes]) -> Outcomes:
    """Outcomes of other pictures as one; of none, an empty one."""
    return Outcomes(*(np.concatenate(arrays) for arrays in zip(*(parts or [_EMPTY]), strict=True)))


def scores(
    outcomes: Outcomes, class_names: Sequence[str], num_slices: int = 0
) -> Iterator[VocResult]:
    """The score of all objects, then one by one those of the slices that were matched for."""
    outcomes = outcomes._replace(det_score=outcomes.det_score.astype(np.float64))
    order = ranking(outcomes)
    for bit in range(1 + num_slices):
        ignored = _bit(outcomes.det_ignored, bit)
        matches = VocMatches(
            best=None,  # of no use for a score
            hit=outcomes.det_hit & ~ignored,
            ignored=ignored,
            countable=_bit(outcomes.gt_countable, bit),
            order=order,
        )
        yield score(outcomes, matches, class_names)


def _as_bits(flags: Sequence[np.ndarray]) -> np.ndarray:
    """Bit i of row n is row n of flags[i], of which there are at most 8."""
    (bits,) = np.packbits(np.array(flags), axis=0, bitorder="little")
    return bits


def _bit(bits: np.ndarray, number: int) -> np.ndarray:
    return (bits >> number & 1).astype(bool)


_EMPTY = Outcomes(
    image_ids=np.zeros(0, str),
    det_count=np.zeros(0, np.int32),
    gt_class=np.zeros(0, np.uint16),
    gt_countable=np.zeros(0, np.uint8),
    det_class=np.zeros(0, np.uint16),
    det_score=np.zeros(0, np.float32),
    det_hit=np.zeros(0, bool),
    det_ignored=np.zeros(0, np.uint8),
)
