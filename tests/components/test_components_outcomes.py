"""Scores of pictures matched one by one against those of boxes matched all at once."""

import numpy as np
from hypothesis import given, settings

from components.mean_average_precision import object_slices, outcomes
from components.mean_average_precision.voc import match_voc, score
from tests.components.sliced_pictures import CLASSES, PICTURES, accumulate


def matched(pictures):
    """Each picture by itself, in the other order."""
    parts = [
        outcomes.match(
            accumulate([picture], first=number).columns(), len(CLASSES), 0.5, object_slices.NAMES
        )
        for number, picture in reversed(list(enumerate(pictures)))
    ]
    return outcomes.concatenate(parts)


def assert_equal(found, expected):
    for name in CLASSES:
        for field in ("positives", "detections", "scores", "hits", "ap_11_point", "ap_area"):
            np.testing.assert_array_equal(
                getattr(found.classes[name], field), getattr(expected.classes[name], field)
            )


@given(PICTURES)
@settings(max_examples=100, deadline=None)
def test_matched_apart_scored_together(pictures):
    columns = accumulate(pictures).columns()
    matches = match_voc(columns, len(CLASSES), 0.5)
    found = outcomes.scores(matched(pictures), CLASSES, len(object_slices.NAMES))
    assert_equal(next(found), score(columns, matches, CLASSES))
    for name, result in zip(object_slices.NAMES, found, strict=True):
        part = object_slices.restrict(columns, matches, name)
        assert_equal(result, score(columns, part, CLASSES))


def test_scores_are_never_rounded():
    third = 1 / 3
    above = np.nextafter(third, 1)
    found = [("cat", (0, 0, 40, 40), third), ("cat", (0, 0, 40, 40), above)]
    kept = matched([([], found)]).det_score
    assert set(kept) == {third, above}
    single = [("cat", box, float(np.float32(value))) for _, box, value in found]
    assert matched([([], single)]).det_score.dtype == np.float32


def test_a_detection_takes_8_bytes():
    found = [("cat", (0, 0, 40, 40), 0.5)] * 200
    size = [sum(column.nbytes for column in matched([([], found[:count])])) for count in (100, 200)]
    assert (size[1] - size[0]) / 100 == 8


def test_nothing_scores_as_nothing():
    (whole,) = outcomes.scores(outcomes.concatenate([]), CLASSES)
    assert np.isnan(whole.map_11_point)
    assert not len(whole.classes["cat"].scores)
