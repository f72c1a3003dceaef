"""Counts at score thresholds, compared with counting one by one."""

import numpy as np
import pytest

from metrics import voc
from metrics.score_thresholds import SCORE_THRESHOLDS, best_f1, counts_above, sum_counts
from tests.metrics.cats_and_dogs import CAT, DOG, LEFT, RIGHT, collect


def test_counts_above_each_threshold_equal_plain_counting():
    random = np.random.default_rng(0)
    places = (LEFT, RIGHT, (50, 50, 60, 60), (70, 0, 80, 10))
    pictures = [
        (
            [(LEFT, CAT, False), (RIGHT, DOG, number % 3 == 0)],
            [(box, int(random.integers(2)), random.choice([0.05, 0.3, 0.31, 1])) for box in places],
        )
        for number in range(9)
    ]
    for row in voc.evaluate(collect(*pictures)).classes.values():
        assert set(row.hits) == {True, False}
        counts = counts_above(row)
        assert counts["objects"] == row.positives
        for index in range(0, 101, 5):
            above = row.scores >= SCORE_THRESHOLDS[index]
            assert counts["found"][index] == np.sum(row.hits & above)
            assert counts["wrong"][index] == np.sum(~row.hits & above)


def test_best_f1_is_the_highest_and_its_lowest_threshold():
    counts = {"objects": 4, "found": [3, 3, 3, 2] + [0] * 97, "wrong": [5, 1, 1, 1] + [0] * 97}
    best = best_f1(counts)
    assert (best["threshold"], best["precision"], best["recall"]) == (0.01, 0.75, 0.75)
    assert best["f1"] == pytest.approx(0.75)
    assert best_f1({"objects": 0, "found": [0] * 101, "wrong": [1] * 101}) is None
    assert best_f1(sum_counts([counts, counts])) == best
