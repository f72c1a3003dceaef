"""VOC scoring, compared with a plain loop over fractions and published numbers; invariances."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from metrics import matching
from metrics.accumulator import DetectionAccumulator
from metrics.voc import evaluate

CLASSES = ("cat", "dog", "owl")


@dataclasses.dataclass
class Picture:
    image_id: str
    truth: list  # (class, difficult, box)
    found: list  # (class, score, box)


def box_strategy(corners, sides):
    return st.builds(
        lambda y, x, height, width: (y, x, y + height, x + width),
        *[st.integers(0, corners)] * 2,
        *[st.integers(0, sides)] * 2,
    )


BOXES = box_strategy(1, 2) | box_strategy(6, 5)

# Coarse grids and few scores, so that equal IoUs, equal scores and IoUs of exactly 0.5 are common.
PICTURES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(CLASSES), st.booleans(), BOXES), max_size=5),
        st.lists(
            st.tuples(st.sampled_from(CLASSES), st.sampled_from([0.1, 0.5, 0.9]), BOXES),
            max_size=8,
        ),
    ),
    max_size=6,
).map(lambda pictures: [Picture(f"p{i}", *picture) for i, picture in enumerate(pictures)])


def accumulate(pictures, classes=CLASSES):
    accumulator = DetectionAccumulator(classes)
    for picture in pictures:
        accumulator.add(
            picture.image_id,
            [box for _, _, box in picture.truth],
            [name for name, _, _ in picture.truth],
            [difficult for _, difficult, _ in picture.truth],
            [box for _, _, box in picture.found],
            [score for _, score, _ in picture.found],
            [name for name, _, _ in picture.found],
        )
    return accumulator


def exact_iou(a, b):
    height = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    width = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in (a, b)) - height * width
    return Fraction(height * width, union) if union else Fraction(0)


def loop_marks(pictures, name, threshold):
    """Hits by descending score and the number of objects, by VOC's rule one detection at a time."""
    truths = {
        p.image_id: [(box, hard) for kind, hard, box in p.truth if kind == name] for p in pictures
    }
    ranked = sorted(
        (-score, p.image_id, row, box)
        for p in pictures
        for row, (kind, score, box) in enumerate(p.found)
        if kind == name
    )
    taken, hits = set(), []
    for _, image_id, _, box in ranked:
        best, best_iou = None, Fraction(-1)
        for row, (truth, _) in enumerate(truths[image_id]):
            if exact_iou(box, truth) > best_iou:
                best, best_iou = row, exact_iou(box, truth)
        if best_iou <= threshold:
            hits.append(False)
        elif not truths[image_id][best][1]:
            hits.append((image_id, best) not in taken)
            taken.add((image_id, best))
    return hits, sum(not hard for rows in truths.values() for _, hard in rows)


def loop_ap(hits, positives):
    """11-point and area AP from their definitions, precision in fractions."""
    found = [sum(hits[: i + 1]) for i in range(len(hits))]
    curve = [(count / positives, Fraction(count, i + 1)) for i, count in enumerate(found)]
    at = [max([p for r, p in curve if r >= k * 0.1], default=Fraction(0)) for k in range(11)]
    area = sum(
        Fraction(1, positives) * max(p for _, p in curve[i:]) for i, hit in enumerate(hits) if hit
    )
    return float(sum(at) / 11), float(area)


@pytest.mark.slow
@given(PICTURES, st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)]))
@settings(max_examples=200)
def test_agrees_with_a_loop_over_fractions(pictures, threshold):
    result = evaluate(accumulate(pictures), float(threshold))
    means = []
    for name in CLASSES:
        hits, positives = loop_marks(pictures, name, threshold)
        mine = result.classes[name]
        assert (mine.hits.tolist(), mine.positives) == (hits, positives)
        assert mine.detections == sum(kind == name for p in pictures for kind, _, _ in p.found)
        if positives:
            means.append(loop_ap(hits, positives))
            assert (mine.ap_11_point, mine.ap_area) == pytest.approx(means[-1], abs=1e-12)
        else:
            assert math.isnan(mine.ap_11_point) and math.isnan(mine.ap_area)
            assert np.isnan(mine.precision).all() and np.isnan(mine.recall).all()
    if means:
        expected = np.mean(means, axis=0)
        assert (result.map_11_point, result.map_area) == pytest.approx(expected, abs=1e-12)
    else:
        assert math.isnan(result.map_11_point) and math.isnan(result.map_area)


@given(PICTURES, st.randoms(use_true_random=False), st.integers(1, 4))
@settings(max_examples=100)
def test_any_order_and_any_partition_give_the_same_number(pictures, randomness, parts):
    expected = evaluate(accumulate(pictures))
    shuffled = randomness.sample(pictures, len(pictures))
    accumulators = [accumulate(shuffled[part::parts]) for part in range(parts)]
    randomness.choice(accumulators).columns()
    merged = accumulate([])
    merged.merge(accumulators)
    again = evaluate(merged)
    for name in CLASSES:
        for field in dataclasses.fields(expected.classes[name]):
            np.testing.assert_array_equal(
                getattr(again.classes[name], field.name),
                getattr(expected.classes[name], field.name),
            )


@given(PICTURES)
@settings(max_examples=50)
def test_small_chunks_of_pairs_give_the_same(pictures):
    columns = accumulate(pictures).columns()
    groups = matching.by_picture_and_class(columns, len(CLASSES))
    whole = matching.best_ground_truth(columns, *groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_PAIRS_AT_ONCE", 2)
        pieces = matching.best_ground_truth(columns, *groups)
    np.testing.assert_array_equal(whole, pieces)


def test_merging_does_not_change_the_other_accumulator():
    picture = Picture("a", [("cat", False, (0, 0, 4, 4))], [("cat", 0.9, (0, 0, 4, 4))])
    other = accumulate([picture])
    merged = accumulate([])
    merged.merge([other, other])
    assert evaluate(merged).classes["cat"].positives == 2
    assert evaluate(other).classes["cat"].positives == 1


def test_a_repeated_picture_counts_each_time():
    picture = Picture("a", [("cat", False, (0, 0, 4, 4))], [("cat", 0.9, (0, 0, 4, 4))])
    result = evaluate(accumulate([picture] * 3)).classes["cat"]
    assert result.hits.tolist() == [True] * 3
    assert (result.positives, result.ap_area) == (3, 1.0)


def test_iou_of_exactly_the_threshold_is_a_miss():
    half = Picture("a", [("cat", False, (0, 0, 4, 4))], [("cat", 0.9, (0, 0, 4, 2))])
    assert evaluate(accumulate([half]), 0.5).map_area == 0.0
    assert evaluate(accumulate([half]), 0.49).map_area == 1.0


def test_detections_of_difficult_objects_are_ignored():
    picture = Picture(
        "a",
        [("cat", True, (0, 0, 4, 4)), ("cat", False, (8, 8, 12, 12))],
        [("cat", 0.9, (0, 0, 4, 4)), ("cat", 0.8, (0, 0, 4, 4)), ("cat", 0.7, (8, 8, 12, 12))],
    )
    result = evaluate(accumulate([picture])).classes["cat"]
    assert (result.scores.tolist(), result.detections) == ([0.7], 3)
    assert (result.ap_11_point, result.ap_area) == (1.0, 1.0)


@pytest.mark.parametrize("first_is_difficult", [True, False])
def test_the_first_of_two_equal_boxes_is_matched(first_is_difficult):
    box = (0, 0, 4, 4)
    truth = [("cat", first_is_difficult, box), ("cat", not first_is_difficult, box)]
    picture = Picture("a", truth, [("cat", 0.9, box)])
    hits = evaluate(accumulate([picture])).classes["cat"].hits
    assert hits.tolist() == ([] if first_is_difficult else [True])


def test_crowds_are_ignored():
    accumulator = DetectionAccumulator(CLASSES)
    box = [(0, 0, 4, 4)]
    accumulator.add("a", box, ["cat"], [False], box * 2, [0.9, 0.8], ["cat"] * 2, gt_crowd=[True])
    result = evaluate(accumulator).classes["cat"]
    assert (result.positives, result.detections, len(result.hits)) == (0, 2, 0)


def test_classes_without_countable_objects_are_excluded_from_the_mean():
    picture = Picture(
        "a",
        [("cat", False, (0, 0, 4, 4)), ("dog", True, (0, 0, 4, 4))],
        [("cat", 0.9, (0, 0, 4, 4)), ("dog", 0.9, (0, 0, 4, 4)), ("owl", 0.9, (0, 0, 4, 4))],
    )
    result = evaluate(accumulate([picture]))
    assert (result.map_11_point, result.map_area) == (1.0, 1.0)
    assert math.isnan(result.classes["dog"].ap_area)
    assert math.isnan(result.classes["owl"].ap_area)
    assert result.classes["owl"].detections == 1


def test_no_detections_is_zero_and_no_ground_truth_is_undefined():
    truth_only = Picture("a", [("cat", False, (0, 0, 4, 4))], [])
    found_only = Picture("a", [], [("cat", 0.9, (0, 0, 4, 4))])
    assert evaluate(accumulate([truth_only])).map_11_point == 0.0
    for pictures in ([], [found_only], [Picture("a", [("cat", True, (0, 0, 4, 4))], [])]):
        assert math.isnan(evaluate(accumulate(pictures)).map_11_point)


def test_names_bytes_and_indices_mean_the_same_class():
    box = [(0, 0, 4, 4)]
    accumulator = DetectionAccumulator(CLASSES)
    accumulator.add("a", box, ["dog"], [0], box, [0.9], [b"dog"])
    accumulator.add("b", box, [1], [0], box, [0.9], np.array(["dog"]))
    accumulator.add("c", box, np.array([b"dog"], object), [0], box, [0.9], np.array([1]))
    assert evaluate(accumulator).classes["dog"].hits.tolist() == [True] * 3


def test_float32_boxes_give_the_same_as_float64():
    side = np.float32(1 / 3)
    truth = np.array([[0, 0, side, side]], np.float32)
    found = np.array([[0, 0, side, side / 2]], np.float32)
    accumulator = DetectionAccumulator(["cat"])
    accumulator.add("a", truth, ["cat"], [False], found, [0.5], ["cat"])
    assert evaluate(accumulator).map_area == 0.0
    assert accumulator.columns().det_box.dtype == np.float64


GOOD = {
    "image_id": "picture7",
    "gt_boxes": [(0, 0, 1, 1), (0, 0, 1, 1)],
    "gt_classes": ["cat", "cat"],
    "gt_difficult": [False, False],
    "det_boxes": [(0, 0, 1, 1), (0, 0, 1, 1)],
    "det_scores": [0.5, 0.4],
    "det_classes": ["cat", "cat"],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"det_scores": [0.5, math.nan]}, "picture7: detection 1: score nan"),
        ({"det_scores": [math.inf, 0.5]}, "picture7: detection 0: score inf"),
        ({"det_scores": [0.5]}, "picture7: 1 scores for 2 detections"),
        ({"det_boxes": [(0, 0, 1, 1), (0, 0, math.nan, 1)]}, "picture7: detection 1: invalid box"),
        ({"det_boxes": [(0, 0, math.inf, 1), (0, 0, 1, 1)]}, "picture7: detection 0: invalid box"),
        ({"det_boxes": [(0, 0, 1, 1), (1, 0, 0, 1)]}, "picture7: detection 1: invalid box"),
        ({"gt_boxes": [(0, 1, 1, 0), (0, 0, 1, 1)]}, "picture7: ground truth 0: invalid box"),
        ({"gt_boxes": [(0, 0, 1, 1)]}, r"picture7: ground truth boxes have shape \(1, 4\)"),
        ({"gt_boxes": [], "gt_difficult": []}, r"ground truth boxes have shape \(0,\)"),
        ({"gt_difficult": [True]}, "picture7: 1 difficult flags for 2"),
        ({"gt_crowd": [True]}, "picture7: 1 crowd flags for 2"),
        ({"gt_area": [1.0, math.nan]}, r"picture7: areas \[1.0, nan\] for 2"),
        ({"gt_area": [1.0]}, r"picture7: areas \[1.0\] for 2"),
        ({"gt_classes": ["cat", "cow"]}, "picture7: ground truth 1: unknown class 'cow'"),
        ({"det_classes": ["", "cat"]}, "picture7: detection 0: unknown class ''"),
        ({"det_classes": [0, 3]}, "picture7: detection 1: unknown class 3"),
        ({"det_classes": [0, -1]}, "picture7: detection 1: unknown class -1"),
    ],
)
def test_bad_input_names_picture_and_row(change, message):
    accumulator = DetectionAccumulator(CLASSES)
    accumulator.add(**GOOD)
    with pytest.raises(DataError, match=message):
        accumulator.add(**GOOD | change)
    assert len(accumulator.columns().image_ids) == 1


@pytest.mark.parametrize("names", [(), ("cat", "cat")])
def test_class_names_must_be_distinct_and_not_empty(names):
    with pytest.raises(DataError, match="class names must be distinct"):
        DetectionAccumulator(names)


def test_accumulators_of_different_classes_do_not_merge():
    with pytest.raises(DataError, match="cannot merge"):
        DetectionAccumulator(["cat"]).merge([DetectionAccumulator(["dog"])])


def test_published_numbers_of_the_review_toy(voc_fixtures):
    folder = voc_fixtures / "oracles" / "review_toy"

    def edges(rows):  # x y w h in pixels; the last pixel is x + w, hence the devkit's + 1
        x, y, width, height = np.array(rows, float).T
        return np.stack([y, x, y + height + 1, x + width + 1], axis=1)

    accumulator = DetectionAccumulator(["object"])
    for path in (folder / "gts").glob("*.txt"):
        truth = [line.split() for line in path.read_text().splitlines() if line]
        found = [line.split() for line in (folder / "dets" / path.name).read_text().splitlines()]
        accumulator.add(
            path.stem,
            edges([row[1:] for row in truth]),
            [row[0] for row in truth],
            [False] * len(truth),
            edges([row[2:] for row in found]),
            np.array([row[1] for row in found], float),
            [row[0] for row in found],
        )
    for threshold, eleven_point, area in [
        (0.1, 0.3333333333, 0.3371980676),
        (0.3, 0.2683982683, 0.2456866804),
        (0.5, 0.0303030303, 0.0222222222),
        (0.75, 0.0, 0.0),
    ]:
        result = evaluate(accumulator, threshold).classes["object"]
        assert (result.positives, result.detections) == (15, 24)
        assert result.ap_11_point == pytest.approx(eleven_point, abs=1e-10)
        assert result.ap_area == pytest.approx(area, abs=1e-10)
