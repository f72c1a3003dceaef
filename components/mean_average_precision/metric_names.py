"""The names of an evaluation's metrics, and the grid of those that are curves."""

import dataclasses

import numpy as np

from data.fields import Fields
from metrics import coco, object_slices

MAP = "mAP"  # VOC2007, 11-point
MAP_AREA = "mAP_area"  # VOC2010 and later

# `tfma_metric.significant_change`. It exists only as a change, which TFMA calls
# mAP_significant_diff.
SIGNIFICANT = "mAP_significant"

# COCO's twelve numbers by their field in `coco.CocoResult`.
COCO_NAMES = {
    field.name: f"coco/{field.name}"
    for field in dataclasses.fields(coco.CocoResult)
    if field.name != "class_ap"
}

# The recalls at which precision is stored. A fixed grid keeps curves comparable between models and
# between bootstrap samples.
CURVE_RECALLS = np.linspace(0.0, 1.0, 101)


def ap_name(class_name: str) -> str:
    """A class's 11-point AP; NaN without objects that count."""
    return f"AP/{class_name}"


def ap_area_name(class_name: str) -> str:
    """A class's area AP; NaN without objects that count."""
    return f"AP_area/{class_name}"


def curve_name(class_name: str) -> str:
    """A class's interpolated precision at `CURVE_RECALLS`, float64 [101]."""
    return f"precision_at_recall/{class_name}"


def coco_ap_name(class_name: str) -> str:
    """COCO's AP of a class."""
    return f"coco/ap/{class_name}"


def slice_map_name(slice_name: str) -> str:
    """The 11-point mAP over a slice of the objects, named as in `slice_names`."""
    return f"mAP/{slice_name}"


def slice_names(fields: Fields) -> tuple[str, ...]:
    """The object slices that records with these fields support."""
    known = ["size", *(flag for flag in ("truncated", "occluded") if getattr(fields, flag))]
    return tuple(name for name in object_slices.NAMES if name.split("=")[0] in known)
