"""Box checks, and a box's best anchor compared with trying all anchors."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from components.data_gate.objects import AnchorGrid, box_problems, repeated_objects
from trainer import anchors
from trainer.boxes import iou, to_corners

SPECS = {
    name: getattr(anchors, name)
    for name in ("SSD300", "SSD300_CLIPPED", "SSD300_HIKAPOK", "SSD512", "SSD300_COARSE", "SSD128")
}


def random_boxes(count):
    random = np.random.default_rng(0)
    size = np.exp(random.uniform(np.log(0.01), 0, (count, 2)))
    start = random.uniform(0, 1, (count, 2)) * (1 - size)
    return np.hstack([start, start + size])


@pytest.mark.parametrize("name", SPECS)
def test_best_iou_is_the_best_of_all_anchors(name):
    boxes = random_boxes(60)
    everything = to_corners(anchors.anchor_boxes(SPECS[name]).astype(np.float64))
    expected = np.asarray(iou(boxes, everything)).max(axis=1)
    np.testing.assert_allclose(AnchorGrid(SPECS[name]).best_iou(boxes), expected, atol=1e-6)


def test_an_anchor_matches_itself_and_boxes_may_be_empty():
    grid = AnchorGrid(anchors.SSD128)
    boxes = np.asarray(to_corners(anchors.anchor_boxes(anchors.SSD128).astype(np.float64)))
    np.testing.assert_allclose(grid.best_iou(boxes[::7]), 1.0, atol=1e-6)
    assert grid.best_iou(np.zeros((0, 4))).shape == (0,)


@pytest.mark.parametrize(
    ("height", "width", "kind"),
    [
        (0.04, 0.04, "too small"),
        (0.02, 0.08, "too small"),
        (0.9, 0.04, "too tall"),
        (0.04, 0.9, "too wide"),
        (1.0, 1.0, "too large"),
        (0.2, 0.2, "between two anchors"),
    ],
)
def test_unmatched_boxes_get_a_reason(height, width, kind):
    spec = dataclasses.replace(
        anchors.SSD300,
        max_sizes=(60, 111, 162, 180, 190, 200),
        min_sizes=(30, 60, 111, 162, 180, 190),
    )
    box = np.array([(0.0, 0.0, height, width)])
    assert AnchorGrid(spec).misfits(box, 0.5) == [kind]
    assert AnchorGrid(spec).misfits(box[:0], 0.5) == []


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((0.0, 0.0, 1.0, 1.0), None),
        ((0.2, 0.2, 0.2001, 0.9), None),
        ((-1e-7, 0.0, 1.0 + 1e-7, 1.0), None),  # a rounding error
        ((-0.01, 0.0, 1.0, 1.0), "reaches outside the picture"),
        ((0.0, 0.0, 1.0, 1.2), "reaches outside the picture"),
        ((0.5, 0.2, 0.5, 0.9), "has no area"),
        ((0.5, 0.9, 0.6, 0.2), "has no area"),
        ((0.5, 0.2, float("nan"), 0.9), "has no area"),
        ((0.5, 0.2, float("inf"), 0.9), "has no area"),
    ],
)
def test_invalid_boxes_are_named(box, problem):
    found = box_problems(np.array([(0.1, 0.1, 0.2, 0.2), box]), ["cat", "dog"])
    assert bool(found) == bool(problem)
    if problem:
        assert found[0].startswith("object 2 (dog): box [") and found[0].endswith(problem)


def test_a_duplicate_object_is_named():
    box, hair = (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.505)
    boxes = np.array([box, hair, box, (0.1, 0.1, 0.5, 0.6)])
    assert repeated_objects(boxes, ["cat", "cat", "dog", "cat"]) == [
        "objects 1 and 2 (cat): IoU 0.988"
    ]
    assert repeated_objects(np.zeros((0, 4)), []) == []


SIDES = st.floats(-2, 2, width=32) | st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf, 1e30])


@given(hypothesis_numpy.arrays(float, (4, 4), elements=SIDES))
@settings(max_examples=100)
def test_a_box_is_valid_if_clipping_does_not_change_it(boxes):
    names = ["cat"] * len(boxes)
    with np.errstate(all="ignore"):
        problems = box_problems(boxes, names)
        repeated_objects(boxes, names)  # takes any numbers
    for index, box in enumerate(boxes):
        fine = np.allclose(np.clip(box, 0, 1), box, rtol=0, atol=1e-6) and (box[:2] < box[2:]).all()
        assert fine != any(text.startswith(f"object {index + 1} ") for text in problems)
