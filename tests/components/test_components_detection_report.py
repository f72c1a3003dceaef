"""The facts behind the report."""

import base64
import io
import math
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.detection_report import charts, detections, gallery
from components.detection_report.report import analyse
from components.detection_report.statistics import read_split
from components.detection_report.training_curves import read_curves
from metrics import confusion, voc
from metrics.accumulator import DetectionAccumulator
from metrics.score_thresholds import (
    SCORE_THRESHOLDS,
    best_f1,
    counts_above,
    sum_counts,
)
from tests.components.tfma_replay import CLASSES, PICTURES, accumulate

LEFT, MIDDLE, RIGHT = (0, 0, 10, 10), (0, 100, 10, 110), (0, 200, 30, 230)
CAT, DOG = 0, 1


def collect(*pictures):
    """pictures: (objects of (box, class, difficult), detections of (box, class, score))."""
    accumulator = DetectionAccumulator(("cat", "dog"))
    for number, (objects, found) in enumerate(pictures):
        accumulator.add(
            f"p{number}",
            [box for box, _, _ in objects],
            [name for _, name, _ in objects],
            [difficult for _, _, difficult in objects],
            [box for box, _, _ in found],
            [score for _, _, score in found],
            [name for _, name, _ in found],
        )
    return accumulator


def matrix_of(accumulator, threshold=0.5):
    columns = accumulator.columns()
    outcomes = confusion.match_at(columns, 2, threshold)
    return confusion.confusion_matrix(columns, outcomes, 2).tolist()


def test_confusion_of_hit_mix_up_miss_and_nothing_there():
    objects = [(LEFT, CAT, False), (MIDDLE, CAT, False), (RIGHT, DOG, False)]
    found = [(LEFT, CAT, 0.9), (MIDDLE, DOG, 0.8), ((50, 50, 60, 60), DOG, 0.7)]
    assert matrix_of(collect((objects, found))) == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_a_hit_keeps_its_object_from_a_surer_mix_up():
    found = [(LEFT, DOG, 0.99), (LEFT, CAT, 0.6)]
    assert matrix_of(collect(([(LEFT, CAT, False)], found))) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_below_the_threshold_nothing_is_shown_and_difficult_objects_do_not_count():
    objects = [(LEFT, CAT, False), (MIDDLE, DOG, True)]
    found = [(LEFT, CAT, 0.49), (MIDDLE, DOG, 0.9)]
    assert matrix_of(collect((objects, found))) == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("accumulator", [collect(), collect(([], []))], ids=["none", "empty"])
def test_confusion_without_anything(accumulator):
    assert matrix_of(accumulator) == [[0] * 3] * 3


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
@settings(max_examples=25, deadline=None)
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


def test_counts_above_each_threshold_are_those_of_counting():
    result = voc.evaluate(accumulate(PICTURES))
    for row in result.classes.values():
        counts = counts_above(row)
        assert counts["objects"] == row.positives
        for index in range(0, 101, 5):
            above = row.scores >= SCORE_THRESHOLDS[index]
            assert counts["found"][index] == np.sum(row.hits & above)
            assert counts["wrong"][index] == np.sum(~row.hits & above)


def test_best_f1_is_the_highest_and_its_lowest_threshold():
    counts = {"objects": 4, "found": [3, 3, 2] + [0] * 98, "wrong": [5, 1, 1] + [0] * 98}
    best = best_f1(counts)
    assert (best["threshold"], best["precision"], best["recall"]) == (0.01, 0.75, 0.75)
    assert best["f1"] == pytest.approx(0.75)
    assert best_f1({"objects": 0, "found": [0] * 101, "wrong": [1] * 101}) is None
    assert best_f1(sum_counts([counts, counts])) == best


def test_galleries_choose_by_area_by_score_and_by_the_usual_score():
    accumulator = collect(
        ([(LEFT, CAT, False)], []),
        ([(RIGHT, DOG, False), (LEFT, CAT, False)], []),
        ([(LEFT, CAT, False)], [(LEFT, CAT, 0.9), (RIGHT, CAT, 0.6)]),
        ([(LEFT, CAT, False)], [(LEFT, DOG, 0.8)]),
        ([(LEFT, CAT, False)], [(LEFT, CAT, 0.95)]),
        ([(LEFT, CAT, False)], [(LEFT, CAT, 0.7)]),
        ([(LEFT, CAT, False)], [(LEFT, CAT, 0.65)]),
        ([(LEFT, CAT, True)], []),
        ([], []),
    )
    columns = accumulator.columns()
    outcomes = confusion.match_at(columns, 2, 0.5)
    kinds = analyse(accumulator)["errors"].kinds
    misses = gallery.worst_misses(columns, outcomes, 5)
    assert [entry["picture"] for entry in misses] == [1, 0], "the larger one first, once a picture"
    assert columns.gt_class[misses[0]["focus"]] == DOG
    mistakes = gallery.surest_mistakes(columns, outcomes, kinds, 5)
    assert [entry["picture"] for entry in mistakes] == [3, 2]
    assert [kinds[entry["focus"]] for entry in mistakes] == ["classification", "background"]
    hits = gallery.typical_hits(columns, outcomes, 2)
    assert [entry["picture"] for entry in hits] == [5, 6], "0.7 is the median of the scores"
    assert gallery.worst_misses(columns, outcomes, 1) == misses[:1]


def test_a_drawn_picture_is_small_and_its_boxes_are_scaled_with_it():
    accumulator = collect(([(RIGHT, DOG, False), (LEFT, CAT, True)], [(RIGHT, DOG, 0.8)]))
    columns = accumulator.columns()
    outcomes = confusion.match_at(columns, 2, 0.5)
    buffer = io.BytesIO()
    Image.new("RGB", (960, 480), "gray").save(buffer, "PNG")
    drawn = gallery.draw(0, buffer.getvalue(), columns, outcomes, ["cat", "dog"])
    assert (drawn["width"], drawn["height"]) == (480, 240)
    small = Image.open(io.BytesIO(base64.b64decode(drawn["jpeg"])))
    assert (small.format, small.size) == ("JPEG", (480, 240))
    dog, cat = drawn["objects"]
    assert [dog[key] for key in ("x", "y", "width", "height", "kind")] == [100, 0, 15, 15, "found"]
    assert cat["kind"] == "difficult"
    (hit,) = drawn["detections"]
    assert (hit["label"], hit["kind"], hit["x"]) == ("dog 0.80", "hit", 100)


def test_detections_of_a_split_are_those_that_the_evaluator_measures(report_sources, model_facts):
    shards = sorted(tf.io.gfile.glob(f"{report_sources.examples}/*"))
    accumulator = detections.detect_split(report_sources.model, shards, list(CLASSES))
    found, expected = accumulator.columns(), accumulate(PICTURES).columns()
    for name in ("image_ids", "gt_class", "gt_difficult", "gt_truncated", "det_class"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.det_box, expected.det_box, rtol=1e-6)
    reported = model_facts["evaluation"]["map"]["value"]
    assert analyse(accumulator)["map"] == pytest.approx(reported, abs=1e-9)
    pictures = detections.encoded_pictures(shards, {0, 13})
    assert list(pictures) == [0, 13]
    assert all(Image.open(io.BytesIO(encoded)).size == (800, 240) for encoded in pictures.values())
    assert detections.encoded_pictures(shards, set()) == {}


def test_training_curves_keep_the_last_value_of_a_step(tmp_path):
    for values in ({1: 5.0, 2: 4.0}, {2: 3.0, 3: 2.0}):
        with tf.summary.create_file_writer(str(tmp_path)).as_default():
            for step, value in values.items():
                tf.summary.scalar("loss/total", value, step)
    assert read_curves(str(tmp_path)) == {"loss/total": [(1, 5.0), (2, 3.0), (3, 2.0)]}


def test_training_curves_are_thinned_to_what_a_chart_can_show(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        for step in range(1000):
            tf.summary.scalar("rate", step, step)
    points = read_curves(str(tmp_path))["rate"]
    assert len(points) == 400
    assert points[0] == (0, 0.0) and points[-1] == (999, 999.0)
    assert read_curves(str(tmp_path / "nothing")) == {}


def test_numeric_features_of_the_statistics(report_sources):
    assert read_split(report_sources.statistics, "test") == {
        "image/height": {"examples": 23, "min": 100.0, "mean": 120.5, "max": 140.0}
    }


def test_a_chart_places_its_points_between_its_axes():
    values = [(0, 2.0), (50, math.nan), (100, 4.0)]
    svg = charts.line_chart("a<b", [charts.Series("x", "s0", values)], "step", (0, 100), (0, 4))
    assert "a&lt;b" in svg and "a<b" not in svg
    bottom, right = charts.HEIGHT - charts.BOTTOM, charts.WIDTH - charts.RIGHT
    middle = (charts.TOP + bottom) / 2
    (points,) = re.findall(r'points="([^"]*)"', svg)
    assert points == f"{charts.LEFT:.1f},{middle} {right:.1f},{charts.TOP:.1f}"
    charts.line_chart("empty", [charts.Series("x", "s0", [])], "step")
    charts.line_chart("flat", [charts.Series("x", "s0", [(3, 0.0)])], "step")
