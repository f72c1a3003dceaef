"""Reading a picture's ground truth and detections from records and answers."""

import math

import numpy as np
import pytest

from data.errors import DataError
from data.fields import COMMON
from metrics.accumulator import DetectionAccumulator
from metrics.picture_reader import as_columns, read_detections, read_ground_truth
from tests.metrics.one_picture import answer, record

CLASSES = ("cat", "dog")


def test_boxes_are_in_pixels_and_padding_is_cut():
    flags = {f"image/object/{name}": np.array([1]) for name in ("truncated", "is_crowd")}
    names = {"image/filename": np.array([b"7.jpg"])}
    truth = read_ground_truth(record(**flags, **names), COMMON)
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0), (0, 0, 0, 0)]
    found = read_detections(answer(boxes, [1, 0, 0], ["dog", "cat", ""], count=2), truth)
    columns = as_columns(DetectionAccumulator(CLASSES), truth, found)
    np.testing.assert_allclose(columns.gt_box, [[20, 30, 100, 150]], rtol=1e-6)
    assert columns.det_box.tolist() == [[0, 0, 100, 150], [100, 150, 200, 300]]
    assert columns.det_class.tolist() == [1, 0]
    assert columns.image_ids.tolist() == ["p7"]
    found_flags = {name: getattr(columns, f"gt_{name}").tolist() for name in
                   ("difficult", "truncated", "occluded", "crowd")}  # fmt: skip
    assert found_flags == {
        "difficult": [False], "truncated": [True], "occluded": [False], "crowd": [True]
    }  # fmt: skip


def test_a_record_without_an_id_goes_by_its_file():
    features = {"image/source_id": None, "image/filename": np.array([b"7.jpg"])}
    assert read_ground_truth(record(**features), COMMON).image_id == "7.jpg"


@pytest.mark.parametrize(
    ("features", "predictions", "message"),
    [
        ({}, {"scores": [1]}, "p7: the model's answer lacks detection_boxes, .*it has scores"),
        ({}, None, "p7: the model's answer lacks detection_boxes, .*it has nothing"),
        ({}, answer(count=2), "p7: num_detections is 2 with 0 rows"),
        ({}, answer([(0, 0, 1, 1)], [0.5], ["cow"]), "p7: detection 0: unknown class b'cow'"),
        ({}, answer([(0, 0, 1, 1)], [math.nan], ["cat"]), r"p7: detection 0: score nan is not in"),
        ({}, answer([(0, 0, 1, 1)], [1.5], ["cat"]), r"p7: detection 0: score 1.5 is not in"),
        ({}, answer([(0, 0, 1, 1)], [-0.5], ["cat"]), r"p7: detection 0: score -0.5 is not in"),
        ({}, answer([(0, 1, 1, 0)], [0.5], ["cat"]), r"p7: detection 0: invalid box \["),
        ({}, answer([(0, 0, 1, math.nan)], [0.5], ["cat"]), r"p7: detection 0: invalid box .*nan"),
        ({"image/object/bbox/ymin": np.array([0.9])}, answer(), "p7: ground truth 0: invalid box"),
        (
            {"image/object/class/text": np.array([b"cow"])},
            answer(),
            "truth 0: unknown class b'cow'",
        ),
        ({"image/height": None}, answer(), r"p7: image/height is \[\] and image/width is \[300\]"),
        ({"image/width": np.array([0])}, answer(), r"image/width is \[0\]"),
        ({"image/object/bbox/ymin": None}, answer(), "p7: 1 names .* but 0, 1, 1, 1 values"),
        ({"image/source_id": None}, answer(), "neither image/source_id nor image/filename"),
    ],
)
def test_bad_records_and_answers_are_named(features, predictions, message):
    with pytest.raises(DataError, match=message):
        truth = read_ground_truth(record(**features), COMMON)
        as_columns(DetectionAccumulator(CLASSES), truth, read_detections(predictions, truth))
