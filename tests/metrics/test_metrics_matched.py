"""Pictures matched one by one and packed score the same as matched all at once."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import accumulator, matched, object_slices
from metrics.accumulator import DetectionAccumulator
from metrics.voc import score_classes
from tests.metrics.sliced_pictures import CLASSES, PICTURES, accumulate


def match(pictures, first=0):
    columns = accumulate(pictures, first=first).columns()
    return matched.match(columns, len(CLASSES), 0.5, object_slices.NAMES)


def match_each(pictures):
    """Matches each picture separately."""
    return [match([picture], first=number) for number, picture in enumerate(pictures)]


def packed(*parts):
    return matched.unpack([matched.pack(part) for part in parts])


def assert_equal(found, expected):
    for field in ("positives", "detections", "scores", "hits", "ap_11_point", "ap_area"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))


@given(PICTURES, st.integers(0, 3))
@settings(max_examples=100)
def test_pictures_matched_separately_score_the_same(pictures, cut):
    single = match_each(pictures)[::-1]
    found, expected = (
        list(score_classes(whole, len(CLASSES), len(object_slices.NAMES)))
        for whole in (packed(single[:cut], single[cut:]), match(pictures))
    )
    for results, others in zip(found, expected, strict=True):
        for result, other in zip(results, others, strict=True):
            assert_equal(result, other)


@given(PICTURES, st.data())
@settings(max_examples=100)
def test_taken_pictures_are_scored_as_if_added(pictures, data):
    images = data.draw(st.lists(st.integers(0, len(pictures) - 1), max_size=6))
    single = match_each(pictures)
    drawn = matched.take(packed(single), np.array(images, int))
    added = packed([single[image] for image in images])
    for column, expected in zip(drawn, added, strict=True):
        np.testing.assert_array_equal(column, expected)

    taken = accumulator.take(accumulate(pictures).columns(), np.array(images, int))
    again = DetectionAccumulator(CLASSES)
    for image in images:
        again.add_columns(accumulate([pictures[image]], first=image).columns())
    for column, expected in zip(taken, again.columns(), strict=True):
        np.testing.assert_array_equal(column, expected)


def test_scores_are_never_rounded():
    third = 1 / 3
    above = np.nextafter(third, 1)
    found = [("cat", (0, 0, 40, 40), third), ("cat", (0, 0, 40, 40), above)]
    kept = packed(match_each([([], found)])).det_score
    assert set(kept) == {third, above}
    single = [("cat", box, float(np.float32(value))) for _, box, value in found]
    assert packed(match_each([([], single)])).det_score.dtype == np.float32


def test_a_detection_takes_7_bytes():
    found = [("cat", (0, 0, 40, 40), 0.5)] * 200
    size = [
        sum(column.nbytes for column in packed(match_each([([], found[:count])])))
        for count in (100, 200)
    ]
    assert (size[1] - size[0]) / 100 == 7


def test_no_pictures_have_no_score():
    for ((row,),) in [score_classes(packed(*parts), 1) for parts in ([], [[]])]:
        assert math.isnan(row.ap_11_point)
        assert (row.positives, row.detections, len(row.scores)) == (0, 0, 0)
