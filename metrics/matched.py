"""Matched pictures without their boxes, in the few bytes that the VOC score needs.

A detection takes 52 bytes with its box and 7 without. TFMA collects the pictures in three Beam
stages, each of which holds several copies.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from metrics import object_slices
from metrics.accumulator import Columns, rows_of
from metrics.voc_matching import VocMatches, match_voc


class Matched(NamedTuple):
    """Matched pictures, one row per object or detection, grouped by picture.

    Bit 0 of `gt_countable` and `det_ignored` is for all objects, bit i + 1 for slice i.
    """

    image_ids: np.ndarray  # UTF-8 bytes [images], which sort like the text
    gt_count: np.ndarray  # int32 [images]
    det_count: np.ndarray  # int32 [images]
    gt_class: np.ndarray  # uint8 or wider [ground truths]
    gt_countable: np.ndarray  # uint8 [ground truths], bits
    det_class: np.ndarray  # uint8 or wider [detections]
    det_score: np.ndarray  # float [detections]
    det_hit: np.ndarray  # bool [detections], found an object that counts (unless ignored)
    det_ignored: np.ndarray  # uint8 [detections], bits


# The columns of Matched, each as (type, compressed bytes).
Packed = tuple[tuple[str, bytes], ...]


def match(
    columns: Columns, num_classes: int, iou_threshold: float, slices: Sequence[str] = ()
) -> Matched:
    """Matches pictures (`match_voc`), for all objects and for slices of them.

    slices: at most 7 of `object_slices.NAMES`.
    """
    matches = match_voc(columns, num_classes, iou_threshold)
    parts = [object_slices.restrict(columns, matches, name) for name in slices]
    return compact(columns, num_classes, [matches, *parts])


def compact(columns: Columns, num_classes: int, parts: Sequence[VocMatches]) -> Matched:
    """The columns without boxes.

    parts: at most 8, of the same detections; the first for all objects, the others for slices.
    """
    single = columns.det_score.astype(np.float32)
    images = len(columns.image_ids)
    class_type = np.min_scalar_type(num_classes - 1)
    return Matched(
        image_ids=np.char.encode(columns.image_ids, "utf-8"),
        gt_count=np.bincount(columns.gt_image, minlength=images).astype(np.int32),
        det_count=np.bincount(columns.det_image, minlength=images).astype(np.int32),
        gt_class=columns.gt_class.astype(class_type),
        gt_countable=_as_bits([part.countable for part in parts]),
        det_class=columns.det_class.astype(class_type),
        # A model's scores are float32 and must be compared exactly.
        det_score=single if (single == columns.det_score).all() else columns.det_score,
        det_hit=parts[0].hit,
        det_ignored=_as_bits([part.ignored for part in parts]),
    )


def pack(pictures: Iterable[Matched]) -> Packed:
    """Compresses matched pictures to two thirds of their size."""
    columns = [np.concatenate(arrays) for arrays in zip(_EMPTY, *pictures, strict=True)]
    return tuple((column.dtype.str, zlib.compress(column.tobytes(), 1)) for column in columns)


def unpack(parts: Iterable[Packed]) -> Matched:
    """The pictures of all packed parts."""
    return Matched(*map(_unpacked_column, zip(pack([]), *parts, strict=True)))


def _unpacked_column(parts: Iterable[tuple[str, bytes]]) -> np.ndarray:
    return np.concatenate([np.frombuffer(zlib.decompress(data), dtype) for dtype, data in parts])


def take(matched: Matched, images: np.ndarray) -> Matched:
    """Selects pictures, each as often as its index is in `images`, int64 [taken]."""
    gt_rows = rows_of(images, matched.gt_count)
    det_rows = rows_of(images, matched.det_count)
    return Matched(
        *(column[images] for column in matched[:3]),
        *(column[gt_rows] for column in matched[3:5]),
        *(column[det_rows] for column in matched[5:]),
    )


def _as_bits(flags: Sequence[np.ndarray]) -> np.ndarray:
    """Bit i of row n is flags[i][n], for at most 8 flags."""
    (bits,) = np.packbits(np.array(flags), axis=0, bitorder="little")
    return bits


_EMPTY = Matched(
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
