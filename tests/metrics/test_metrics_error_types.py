"""Kinds of error on constructed pictures with known kinds and costs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.accumulator import DetectionAccumulator
from metrics.error_types import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    ERROR_TYPES,
    HIT,
    IGNORED,
    LOCALISATION,
    MISSED,
    ErrorShare,
    analyse,
)
from metrics.voc import evaluate

CLASSES = ("cat", "dog", "owl")
OBJECT = (0, 0, 10, 10)
SHIFTED = (0, 5, 10, 15)  # IoU 1/3 with OBJECT
FAR = (50, 50, 60, 60)


def accumulate(*pictures):
    """Pictures of [(class, box) or (class, box, difficult)] and [(class, score, box)]."""
    accumulator = DetectionAccumulator(CLASSES)
    for index, (truth, found) in enumerate(pictures):
        truth = [(*item, False)[:3] for item in truth]
        accumulator.add(
            f"p{index:03}",
            [box for _, box, _ in truth],
            [name for name, _, _ in truth],
            [difficult for _, _, difficult in truth],
            [box for _, _, box in found],
            [score for _, score, _ in found],
            [name for name, _, _ in found],
        )
    return accumulator


# One false detection and a true one with a lower score. Costs for cat and dog are computed by hand:
# a true detection ranked below one false one has AP 1/2.
CAT = [("cat", OBJECT)]
TRUE_CAT = ("cat", 0.5, OBJECT)
CASES = {
    "on a dog": (
        [*CAT, ("dog", FAR)],
        [("cat", 0.9, FAR), TRUE_CAT],
        {CLASSIFICATION: (0.5, 1.0)},
    ),
    "badly placed, the cat is found by another": (
        CAT,
        [("cat", 0.9, SHIFTED), TRUE_CAT],
        {LOCALISATION: (0.5, math.nan)},
    ),
    "badly placed on a second cat": (
        [*CAT, ("cat", FAR)],
        [("cat", 0.9, (50, 55, 60, 65)), TRUE_CAT],
        {LOCALISATION: (0.75, math.nan)},
    ),
    "badly placed on a dog": (
        [*CAT, ("dog", FAR)],
        [("cat", 0.9, (50, 55, 60, 65)), TRUE_CAT],
        {BOTH: (0.5, 0.0), MISSED: (0.0, 1.0)},
    ),
    "second detection of the cat": (
        [*CAT, ("cat", FAR)],
        [("cat", 0.9, OBJECT), ("cat", 0.8, OBJECT), ("cat", 0.5, FAR)],
        {DUPLICATE: (1 - (0.5 + 0.5 * 2 / 3), math.nan)},
    ),
    "on nothing": (CAT, [("cat", 0.9, FAR), TRUE_CAT], {BACKGROUND: (0.5, math.nan)}),
    "one of two cats not found": (
        [*CAT, ("cat", FAR)],
        [TRUE_CAT],
        {MISSED: (0.5, math.nan)},
    ),
    "both cats not found": ([*CAT, ("cat", FAR)], [], {MISSED: (1.0, math.nan)}),
    "everything found": (CAT, [TRUE_CAT], {}),
    "on a difficult cat": ([("cat", FAR, True), *CAT], [("cat", 0.9, FAR), TRUE_CAT], {}),
    "difficult cat not found": ([("cat", FAR, True), *CAT], [TRUE_CAT], {}),
    "on a difficult dog": (
        [("dog", FAR, True), *CAT],
        [("cat", 0.9, FAR), TRUE_CAT],
        {BACKGROUND: (0.5, math.nan)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_kind_and_cost_of_constructed_errors(case):
    truth, found, expected = CASES[case]
    accumulator = accumulate((truth, found))
    analysis = analyse(accumulator)
    countable = {name for name, *_, difficult in [(*t, False)[:3] for t in truth] if not difficult}
    for kind in ERROR_TYPES:
        for name, cost in zip(CLASSES, expected.get(kind, (0.0, 0.0)), strict=False):
            cost = cost if name in countable else math.nan
            measured = analysis.classes[name][kind].ap_cost
            assert measured == pytest.approx(cost, abs=1e-12, nan_ok=True), (kind, name)
    false = [kind for kind in expected if kind != MISSED]
    assert sorted(set(analysis.kinds) - {HIT, IGNORED}) == sorted(false)
    assert analysis.missed.any() == (MISSED in expected)


def test_only_the_highest_scoring_error_at_an_object_is_corrected():
    """Two bad boxes on one cat: one becomes the hit, the other is removed."""
    found = [("cat", 0.9, SHIFTED), ("cat", 0.8, SHIFTED)]
    analysis = analyse(accumulate((CAT, found)))
    assert analysis.classes["cat"][LOCALISATION] == ErrorShare(2, 1.0)
    assert analysis.classes["cat"][MISSED] == ErrorShare(0, 0.0)


def test_correcting_a_wrong_class_finds_its_object():
    """An owl detected as cat: cat loses a false positive, owl gains its only object."""
    analysis = analyse(accumulate(([*CAT, ("owl", FAR)], [("cat", 0.9, FAR), TRUE_CAT])))
    assert analysis.classes["cat"][CLASSIFICATION] == ErrorShare(1, 0.5)
    assert analysis.classes["owl"][CLASSIFICATION] == ErrorShare(0, 1.0)
    assert analysis.overall[CLASSIFICATION] == ErrorShare(1, 0.75)


@pytest.mark.parametrize(
    ("width", "kind"), [(0.9, BACKGROUND), (1, LOCALISATION), (5, LOCALISATION), (5.1, HIT)]
)
def test_bounds_between_background_localisation_and_hit(width, kind):
    analysis = analyse(accumulate((CAT, [("cat", 0.9, (0, 0, 10, width))])))
    assert analysis.kinds.tolist() == [kind]


def test_no_pictures_have_no_errors():
    analysis = analyse(accumulate())
    assert len(analysis.kinds) == len(analysis.missed) == 0
    assert all(share.count == 0 for share in analysis.overall.values())
    assert all(math.isnan(share.ap_cost) for share in analysis.overall.values())


BOXES = st.builds(
    lambda y, x, height, width: (y, x, y + height, x + width),
    *[st.integers(0, 4)] * 2,
    *[st.integers(1, 4)] * 2,
)
PICTURES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(CLASSES), BOXES, st.booleans()), max_size=4),
        st.lists(
            st.tuples(st.sampled_from(CLASSES), st.sampled_from([0.2, 0.5, 0.8]), BOXES),
            max_size=6,
        ),
    ),
    max_size=5,
)


@given(PICTURES)
@settings(max_examples=150)
def test_every_error_has_one_kind_and_no_correction_hurts(pictures):
    accumulator = accumulate(*pictures)
    analysis = analyse(accumulator)
    columns = accumulator.columns()
    result = evaluate(accumulator)
    for index, name in enumerate(CLASSES):
        own = analysis.kinds[columns.det_class == index]
        row = result.classes[name]
        assert (own == HIT).sum() == row.hits.sum()
        assert (own == IGNORED).sum() == row.detections - len(row.hits)
        for kind, share in analysis.classes[name].items():
            if kind != MISSED:
                assert share.count == (own == kind).sum()
            if row.positives:
                assert -1e-12 <= share.ap_cost <= 1 - row.ap_area + 1e-12
            else:
                assert math.isnan(share.ap_cost)
    counts = sum(share.count for kind, share in analysis.overall.items() if kind != MISSED)
    assert (
        counts
        == np.isin(analysis.kinds, ERROR_TYPES).sum()
        == sum((~row.hits).sum() for row in result.classes.values())
    )
    assert not (analysis.missed & columns.gt_difficult).any()
