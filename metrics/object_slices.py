"""Slices of objects, for VOC scores by size, truncation and occlusion."""

import numpy as np

from metrics.accumulator import Columns
from metrics.boxes import SIZES, box_area
from metrics.voc_matching import VocMatches, lookup

_FLAGS = ("truncated", "occluded")

NAMES = tuple(f"size={size}" for size in SIZES) + tuple(
    f"{flag}={value}" for flag in _FLAGS for value in ("yes", "no")
)


def restrict(columns: Columns, matches: VocMatches, name: str) -> VocMatches:
    """Restricts matches to the objects of one slice.

    Objects outside the slice are ignored like difficult ones, and so are detections of them. A
    detection of nothing is neither truncated nor occluded, so it is a false positive in all of
    those slices; it does have a size, and is a false positive only in slices of that size, as in
    COCO. Slices with few objects therefore score lower: compare a slice across models, not with
    other slices.

    columns: with boxes in pixels, because the sizes are COCO's.
    name: one of `NAMES`.
    """
    kind, value = name.split("=")
    if kind == "size":
        low, high = SIZES[value]
        inside = (columns.gt_area >= low) & (columns.gt_area <= high)
        area = box_area(columns.det_box)
        elsewhere = (area < low) | (area > high)
    else:
        inside = getattr(columns, f"gt_{kind}") == (value == "yes")
        elsewhere = np.zeros(len(columns.det_box), bool)
    countable = matches.countable & inside
    ignored = np.where(matches.best >= 0, lookup(~countable, matches.best), elsewhere)
    return matches._replace(hit=matches.hit & ~ignored, ignored=ignored, countable=countable)
