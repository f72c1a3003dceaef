"""What the VOC score needs of matched pictures, without their boxes.

A detection takes 52 bytes with its box, 7 without. TFMA collects the pictures in three stages of
Beam, which holds them several times in each.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from metrics import object_slices
from metrics.accumulator import Columns
from metrics.bootstrap import rows_of
from metrics.voc import ClassResult, class_result, match_voc


class Outcomes(NamedTuple):
    """Matched pictures, one row an object, pictures one after another.

    Bit 0 of `gt_countable` and `det_ignored` is for all objects, bit i + 1 for slice i.
    """

    image_ids: np.ndarray  # UTF-8 bytes [images], which sort as the text does
    gt_count: np.ndarray  # int32 [images]
    det_count: np.ndarray  # int32 [images]
    gt_class: np.ndarray  # uint8 or more [ground truths]
    gt_countable: np.ndarray  # uint8 [ground truths], bits
    det_class: np.ndarray  # uint8 or more [detections]
    det_score: np.ndarray  # float [detections]
    det_hit: np.ndarray  # bool [detections], found an object that counts unless ignored
    det_ignored: np.ndarray  # uint8 [detections], bits


# The columns of Outcomes, each as type and compressed bytes.
Packed = tuple[tuple[str, bytes], ...]


def match(
    columns: Columns, num_classes: int, iou_threshold: float, slices: Sequence[str]
) -> Outcomes:
    """Matches pictures (`voc.match_voc`), for all objects and for slices of them.

    slices: at most 7 of `object_slices.NAMES`.
    """
    matches = match_voc(columns, num_classes, iou_threshold)
    parts = [matches, *(object_slices.restrict(columns, matches, name) for name in slices)]
    single = columns.det_score.astype(np.float32)
    images = len(columns.image_ids)
    class_type = np.min_scalar_type(num_classes - 1)
    return Outcomes(
        image_ids=np.char.encode(columns.image_ids, "utf-8"),
        gt_count=np.bincount(columns.gt_image, minlength=images).astype(np.int32),
        det_count=np.bincount(columns.det_image, minlength=images).astype(np.int32),
        gt_class=columns.gt_class.astype(class_type),
        gt_countable=_as_bits([part.countable for part in parts]),
        det_class=columns.det_class.astype(class_type),
        # A model's scores are float32, and have to be compared as they are.
        det_score=single if (single == columns.det_score).all() else columns.det_score,
        det_hit=matches.hit,
        det_ignored=_as_bits([part.ignored for part in parts]),
    )


def pack(pictures: Iterable[Outcomes]) -> Packed:
    """Outcomes of pictures as compressed bytes, two thirds of their size."""
    columns = [np.concatenate(arrays) for arrays in zip(_EMPTY, *pictures, strict=True)]
    return tuple((column.dtype.str, zlib.compress(column.tobytes(), 1)) for column in columns)


def unpack(parts: Iterable[Packed]) -> Outcomes:
    """The outcomes in packed parts."""
    return Outcomes(*map(_unpacked_column, zip(pack([]), *parts, strict=True)))


def _unpacked_column(parts: Iterable[tuple[str, bytes]]) -> np.ndarray:
    return np.concatenate([np.frombuffer(zlib.decompress(data), dtype) for dtype, data in parts])


def take(outcomes: Outcomes, images: np.ndarray) -> Outcomes:
    """Some of the pictures, each as often as its index is in `images`."""
    gt_rows = rows_of(images, outcomes.gt_count)
    det_rows = rows_of(images, outcomes.det_count)
    return Outcomes(
        *(column[images] for column in outcomes[:3]),
        *(column[gt_rows] for column in outcomes[3:5]),
        *(column[det_rows] for column in outcomes[5:]),
    )


def scores(
    outcomes: Outcomes, num_classes: int, num_slices: int = 0
) -> Iterator[tuple[ClassResult, ...]]:
    """The score of each class: of all objects, then of those in each slice that was matched for.

    Class by class, for ranking and scoring take several times the memory of what they work on.
    """
    _, id_rank = np.unique(outcomes.image_ids, return_inverse=True)
    ends = np.cumsum(outcomes.det_count)
    for index in range(num_classes):
        countable = outcomes.gt_countable[outcomes.gt_class == index]
        rows = np.flatnonzero(outcomes.det_class == index)
        # As `matching.ranking`.
        rank = id_rank[np.searchsorted(ends, rows, "right")]
        rows = rows[np.lexsort((rank, -outcomes.det_score[rows]))]
        yield tuple(_score(outcomes, rows, countable, bit) for bit in range(1 + num_slices))


def _score(outcomes: Outcomes, rows: np.ndarray, countable: np.ndarray, bit: int) -> ClassResult:
    counted = rows[~_bit(outcomes.det_ignored[rows], bit)]
    positives = int(_bit(countable, bit).sum())
    return class_result(
        outcomes.det_score[counted], outcomes.det_hit[counted], positives, len(rows)
    )


def _as_bits(flags: Sequence[np.ndarray]) -> np.ndarray:
    """Bit i of row n is row n of flags[i], of which there are at most 8."""
    (bits,) = np.packbits(np.array(flags), axis=0, bitorder="little")
    return bits


def _bit(bits: np.ndarray, number: int) -> np.ndarray:
    return (bits >> number & 1).astype(bool)


_EMPTY = Outcomes(
    image_ids=np.zeros(0, "S1"),
    gt_count=np.zeros(0, np.int32),
    det_count=np.zeros(0, np.int32),
    gt_class=np.zeros(0, np.uint8),
    gt_countable=np.zeros(0, np.uint8),
    det_class=np.zeros(0, np.uint8),
    det_score=np.zeros(0, np.float32),
    det_hit=np.zeros(0, bool),
    det_ignored=np.zeros(0, np.uint8),
)
