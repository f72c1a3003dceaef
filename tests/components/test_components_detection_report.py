"""The facts behind the report."""

import base64
import io
import math
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.detection_report import charts, gallery
from components.detection_report.pictures import encoded_pictures
from components.detection_report.report import (
    analyse,
    build_report,
    draw_galleries,
    render,
)
from components.detection_report.statistics import read_split
from components.detection_report.training_curves import read_curves
from components.evaluator.answers import answer_extractors, answers_kept_in, read_answers
from data.errors import DataError
from data.fields import COMMON
from data.palette import class_colour
from metrics import confusion
from tests.components.tfma_replay import CLASSES, PICTURES, accumulate
from tests.metrics.cats_and_dogs import CAT, DOG, LEFT, RIGHT, collect


def test_galleries_choose_by_area_by_score_and_by_f1():
    accumulator = collect(
        ([(LEFT, CAT, False)], []),
        ([(RIGHT, DOG, False), (LEFT, CAT, False)], []),
        ([(LEFT, CAT, False)], [(LEFT, CAT, 0.9), (RIGHT, CAT, 0.6)]),
        ([(LEFT, CAT, False)], [(LEFT, DOG, 0.8)]),
        ([(LEFT, CAT, False)], [(LEFT, CAT, 0.99)]),
        ([(LEFT, CAT, False)], [(LEFT, CAT, 0.75)]),
        ([(LEFT, CAT, False)], [(LEFT, CAT, 0.65)]),
        ([(LEFT, CAT, True)], []),
        ([], []),
    )
    columns = accumulator.columns()
    outcomes = confusion.match_at(columns, 2, 0.5)
    kinds = analyse(accumulator)["errors"].kinds
    misses = gallery.worst_misses(columns, outcomes, 5)
    assert [entry["picture"] for entry in misses] == [1, 0], (
        "the larger one first, each picture once"
    )
    assert columns.gt_class[misses[0]["focus"]] == DOG
    mistakes = gallery.most_confident_mistakes(columns, outcomes, kinds, 5)
    assert [entry["picture"] for entry in mistakes] == [3, 2]
    assert [kinds[entry["focus"]] for entry in mistakes] == ["classification", "background"]
    hits = gallery.typical_hits(columns, outcomes, 5)
    usual = "without an error, those near the median score of 0.825 first; then with one"
    assert [entry["picture"] for entry in hits] == [5, 4, 6, 2], usual
    assert gallery.worst_misses(columns, outcomes, 1) == misses[:1]


def test_crowded_pictures_can_be_typical_despite_errors():
    places = [(0, 20 * number, 10, 20 * number + 10) for number in range(15)]
    objects = [(place, CAT, False) for place in places]

    def picture(found, wrong):
        right = [(place, CAT, 0.9) for place in places[:found]]
        return objects, [*right, *[((50, 20 * n, 60, 20 * n + 10), CAT, 0.6) for n in range(wrong)]]

    accumulator = collect(picture(10, 0), picture(14, 1), picture(0, 3))
    columns = accumulator.columns()
    outcomes = confusion.match_at(columns, 2, 0.5)
    hits = gallery.typical_hits(columns, outcomes, 12)
    assert [entry["picture"] for entry in hits] == [1, 0], "no hit without a find"
    buffer = io.BytesIO()
    Image.new("RGB", (300, 100)).save(buffer, "PNG")
    drawn = gallery.draw(1, buffer.getvalue(), columns, outcomes, ["cat", "dog"])
    assert gallery.summary(drawn) == "14 of 15 found, 1 wrong"
    drawn = gallery.draw(0, buffer.getvalue(), columns, outcomes, ["cat", "dog"])
    assert gallery.summary(drawn) == "10 of 15 found"


def test_without_an_object_there_is_a_threshold_all_the_same():
    assert analyse(collect(([], [(LEFT, CAT, 0.6)])))["threshold"] == 0.5


def test_each_gallery_shows_twelve_pictures_of_its_own(report_sources):
    accumulator = read_answers(report_sources.evaluation, list(CLASSES))
    found = analyse(accumulator)
    shards = sorted(tf.io.gfile.glob(f"{report_sources.examples}/*"))
    shown = draw_galleries(accumulator, found, shards)
    given = accumulator.columns(), found["outcomes"]
    kinds = found["errors"].kinds
    expected = {
        "misses": gallery.worst_misses(*given, 12),
        "mistakes": gallery.most_confident_mistakes(*given, kinds, 12),
        "hits": gallery.typical_hits(*given, 12),
    }
    ids = given[0].image_ids
    assert {
        row: [(entry["id"], entry["focus"]) for entry in entries] for row, entries in shown.items()
    } == {
        row: [(ids[entry["picture"]], entry["focus"]) for entry in entries]
        for row, entries in expected.items()
    }
    assert max(map(len, shown.values())) == 12
    captions = {row: entries[0]["caption"] for row, entries in shown.items()}
    assert captions["misses"].endswith(" not found")
    assert re.fullmatch(r"(cat|dog|owl) \d\.\d\d: \w+", captions["mistakes"])
    assert re.match(r"\d of \d found", captions["hits"])


def test_a_drawn_picture_and_its_boxes_are_scaled_down():
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
    assert dog["colour"] == hit["colour"] == class_colour(2)
    assert cat["colour"] == class_colour(1)


@pytest.mark.slow
def test_the_evaluation_keeps_the_measured_detections(report_sources, model_facts):
    accumulator = read_answers(report_sources.evaluation, list(CLASSES))
    found, expected = accumulator.columns(), accumulate(PICTURES).columns()
    for name in ("image_ids", "gt_class", "gt_difficult", "gt_truncated", "det_class"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.det_box, expected.det_box, rtol=1e-6)
    reported = model_facts["evaluation"]["map"]["value"]
    assert analyse(accumulator)["map"] == pytest.approx(reported, abs=1e-9)


def test_pictures_are_found_by_id(report_sources):
    shards = sorted(tf.io.gfile.glob(f"{report_sources.examples}/*"))
    wanted = {PICTURES[0][0], PICTURES[-1][0]}
    found = encoded_pictures(shards, wanted)
    assert found.keys() == wanted
    assert all(Image.open(io.BytesIO(encoded)).size == (800, 240) for encoded in found.values())
    assert encoded_pictures(shards, set()) == {}


def test_an_evaluation_without_answers_is_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}: no answers.*--from Evaluator"):
        read_answers(str(tmp_path), ["cat"])


def test_answers_are_kept_only_on_request():
    assert answer_extractors(COMMON) == []
    with answers_kept_in("/folder"):
        assert len(answer_extractors(COMMON)) == 1
    assert answer_extractors(COMMON) == []


def test_training_curves_keep_the_last_value_of_a_step(tmp_path):
    for values in ({1: 5.0, 2: 4.0}, {2: 3.0, 3: 2.0}):
        with tf.summary.create_file_writer(str(tmp_path)).as_default():
            for step, value in values.items():
                tf.summary.scalar("loss/total", value, step)
    assert read_curves(str(tmp_path)) == {"loss/total": [(1, 5.0), (2, 3.0), (3, 2.0)]}


def test_training_curves_are_thinned_to_a_charts_resolution(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        for step in range(1000):
            tf.summary.scalar("rate", step, step)
    points = read_curves(str(tmp_path))["rate"]
    assert len(points) == 400
    assert points[0] == (0, 0.0) and points[-1] == (999, 999.0)
    assert read_curves(str(tmp_path / "nothing")) == {}


def test_numeric_features_of_the_statistics(report_sources):
    assert read_split(report_sources.statistics, "test") == {
        "image/height": {"min": 100.0, "mean": 120.5, "max": 140.0}
    }


def test_the_report_has_all_that_a_run_has_left(report_sources):
    html = build_report(report_sources)
    for part in (
        *("/models/ssd/17", "Model 3", "/runs/model/3"),
        *("peaked at 611 MB", 'aria-label="loss"', 'aria-label="learning_rate"', "image/height"),
    ):
        assert part in html, part


def test_a_class_name_ends_no_script(plain):
    found = analyse(accumulate(PICTURES)) | {"explorer": {"</script><b>": {}}}
    rows = dict.fromkeys(("misses", "mistakes", "hits"), ())
    html = render(plain(), found, rows, curves={}, features={})
    assert "\\u003c/script>" in html and "</script><b>" not in html


def test_an_interval_chart_has_a_dot_and_a_whisker_for_each_score():
    scores = [{"value": 0.5, "low": 0.25, "high": 0.75}, {"value": 1.0, "low": None, "high": None}]
    svg = charts.interval_chart(list(zip(("new", "old"), scores, strict=True)))
    assert re.findall(r'class="dot (s\d)" cx="([\d.]+)"', svg) == [("s0", "294.0"), ("s1", "468.0")]
    assert re.findall(r'class="whisker (s\d)" x1="([\d.]+)" x2="([\d.]+)"', svg) == [
        ("s0", "207.0", "381.0")
    ]
    assert 'aria-label="new 0.500; old 1.000"' in svg


def test_a_charts_points_are_within_its_axes():
    values = [(0, 2.0), (50, math.nan), (100, 4.0)]
    svg = charts.line_chart("a<b", [charts.Series("x", "s0", values)], "step", (0, 100), (0, 4))
    assert "a&lt;b" in svg and "a<b" not in svg
    bottom, right = charts.HEIGHT - charts.BOTTOM, charts.WIDTH - charts.RIGHT
    middle = (charts.TOP + bottom) / 2
    (points,) = re.findall(r'points="([^"]*)"', svg)
    assert points == f"{charts.LEFT:.1f},{middle} {right:.1f},{charts.TOP:.1f}"
    charts.line_chart("empty", [charts.Series("x", "s0", [])], "step")
    charts.line_chart("flat", [charts.Series("x", "s0", [(3, 0.0)])], "step")
