"""The confusion matrix of constructed pictures, and its sums on random ones."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metrics import confusion, voc
from tests.metrics.cats_and_dogs import CAT, DOG, LEFT, MIDDLE, RIGHT, collect


def matrix_of(accumulator, threshold=0.5):
    columns = accumulator.columns()
    outcomes = confusion.match_at(columns, 2, threshold)
    return confusion.confusion_matrix(columns, outcomes, 2).tolist()


def test_confusion_of_hit_mix_up_miss_and_background():
    objects = [(LEFT, CAT, False), (MIDDLE, CAT, False), (RIGHT, DOG, False)]
    found = [(LEFT, CAT, 0.9), (MIDDLE, DOG, 0.8), ((50, 50, 60, 60), DOG, 0.7)]
    assert matrix_of(collect((objects, found))) == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_a_hit_beats_a_higher_scoring_mix_up():
    found = [(LEFT, DOG, 0.99), (LEFT, CAT, 0.6)]
    assert matrix_of(collect(([(LEFT, CAT, False)], found))) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_below_the_threshold_nothing_is_shown_and_difficult_objects_do_not_count():
    objects = [(LEFT, CAT, False), (MIDDLE, DOG, True)]
    found = [(LEFT, CAT, 0.49), (MIDDLE, DOG, 0.9)]
    assert matrix_of(collect((objects, found))) == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_a_score_at_the_threshold_is_shown_and_an_iou_at_it_is_too_little():
    (y, x, bottom, right), at_threshold = LEFT, 0.5
    truth = [(LEFT, CAT, False)]
    half = (y, x, bottom, (x + right) / 2)
    shown = [(LEFT, CAT, at_threshold)]
    assert matrix_of(collect((truth, shown)), at_threshold) == [[1, 0, 0], [0] * 3, [0] * 3]
    found = [(half, DOG, 0.9)]
    assert matrix_of(collect((truth, found))) == [[0, 0, 1], [0] * 3, [0, 1, 0]]


def test_the_surest_mix_up_takes_the_object():
    columns = collect(([(LEFT, CAT, False)], [(LEFT, DOG, 0.6), (LEFT, DOG, 0.9)])).columns()
    assert confusion.match_at(columns, 2, 0.5).object_of.tolist() == [-1, 0]


@pytest.mark.parametrize("accumulator", [collect(), collect(([], []))], ids=["none", "empty"])
def test_an_empty_confusion_matrix(accumulator):
    assert matrix_of(accumulator) == [[0] * 3] * 3


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
# A detection whose best object is taken also overlaps another one of its class.
@example(576, 0.0)
@settings(max_examples=25)
def test_every_object_and_detection_is_in_the_matrix_once(seed, threshold):
    random = np.random.default_rng(seed)

    def boxes(count):
        start = random.uniform(0, 5, (count, 2))
        return np.hstack([start, start + random.uniform(1, 6, (count, 2))])

    pictures = []
    for _ in range(3):
        objects = [(b, int(random.integers(2)), False) for b in boxes(random.integers(5))]
        found = [
            (b, int(random.integers(2)), float(random.random())) for b in boxes(random.integers(8))
        ]
        pictures.append((objects, found))
    accumulator = collect(*pictures)
    matrix = np.array(matrix_of(accumulator, threshold))
    columns = accumulator.columns()
    assert matrix[:2].sum(axis=1).tolist() == np.bincount(columns.gt_class, minlength=2).tolist()
    shown = columns.det_class[columns.det_score >= threshold]
    assert matrix[:, :2].sum(axis=0).tolist() == np.bincount(shown, minlength=2).tolist()
    result = voc.evaluate(accumulator)
    for index, row in enumerate(result.classes.values()):
        assert matrix[index, index] == np.sum(row.hits[row.scores >= threshold]), "VOC's hits"
