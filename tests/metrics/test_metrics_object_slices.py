"""Object slices, compared with evaluations in which everything else is difficult or removed."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import object_slices
from metrics.boxes import box_iou
from metrics.matched import match
from metrics.voc import VocResult, evaluate, score_classes
from metrics.voc_matching import match_voc
from tests.metrics.sliced_pictures import CLASSES, PICTURES, accumulate


def sliced(pictures, name):
    matched = match(accumulate(pictures).columns(), len(CLASSES), 0.5, [name])
    rows = score_classes(matched, len(CLASSES), 1)
    return VocResult({kind: row for kind, (_, row) in zip(CLASSES, rows, strict=True)})


def is_inside(item, name):
    _, (ymin, xmin, ymax, xmax), _, truncated, occluded = item
    kind, value = name.split("=")
    if kind == "size":
        low, high = {"small": (0, 1024), "medium": (1024, 9216), "large": (9216, 1e9)}[value]
        return low <= (ymax - ymin) * (xmax - xmin) <= high
    return {"truncated": truncated, "occluded": occluded}[kind] == (value == "yes")


def on_an_object(found, truth):
    name, box, _ = found
    ious = [
        box_iou(np.array([box], float), np.array([other], float))[0]
        for other_name, other, *_ in truth
        if other_name == name
    ]
    return max(ious, default=0) > 0.5


@given(PICTURES, st.sampled_from(object_slices.NAMES))
@settings(max_examples=150)
def test_objects_outside_a_slice_count_as_difficult(pictures, name):
    changed = []
    for truth, found in pictures:
        kept = [
            item
            for item in found
            if on_an_object(item, truth)
            or not name.startswith("size")
            or is_inside((*item[:2], None, None, None), name)
        ]
        outside = [
            (kind, box, hard or not is_inside((kind, box, hard, *flags), name), *flags)
            for kind, box, hard, *flags in truth
        ]
        changed.append((outside, kept))
    expected, found = evaluate(accumulate(changed)), sliced(pictures, name)
    for class_name in CLASSES:
        for field in ("positives", "scores", "hits", "ap_11_point", "ap_area"):
            np.testing.assert_array_equal(
                getattr(found.classes[class_name], field),
                getattr(expected.classes[class_name], field),
            )


SMALL, LARGE = (0, 0, 20, 20), (100, 100, 300, 300)


@pytest.mark.parametrize(
    ("name", "ap"),
    [("size=small", 1.0), ("size=large", 0.0), ("truncated=yes", 0.0), ("truncated=no", 1.0)],
)
def test_a_small_cat_found_and_a_large_truncated_one_missed(name, ap):
    truth = [("cat", SMALL, False, False, False), ("cat", LARGE, False, True, False)]
    result = sliced([(truth, [("cat", SMALL, 0.9)])], name)
    assert (result.classes["cat"].positives, result.classes["cat"].ap_area) == (1, ap)
    assert result.classes["dog"].positives == 0


def test_a_detection_of_nothing_is_false_in_its_size_and_all_flags():
    truth = [("cat", box, False, True, True) for box in (SMALL, LARGE)]
    found = [("cat", (50, 50, 60, 60), 0.95), ("cat", SMALL, 0.9), ("cat", LARGE, 0.8)]
    result = {name: sliced([(truth, found)], name).classes["cat"] for name in object_slices.NAMES}
    assert result["size=small"].ap_area == 0.5
    assert result["size=large"].ap_area == 1.0
    assert result["truncated=yes"].ap_area == pytest.approx(2 / 3)
    assert result["truncated=no"].positives == 0


def test_slicing_does_not_change_the_matches():
    accumulator = accumulate([([("cat", SMALL, False, True, False)], [("cat", SMALL, 0.9)])])
    columns = accumulator.columns()
    matches = match_voc(columns, len(CLASSES), 0.5)
    before = [np.copy(array) for array in matches]
    for name in object_slices.NAMES:
        object_slices.restrict(columns, matches, name)
    for array, copy in zip(matches, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert dataclasses.is_dataclass(evaluate(accumulator))
