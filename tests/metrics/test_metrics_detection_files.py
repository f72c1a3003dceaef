"""Writing detections in Pascal VOC's format."""

import pytest

from data.errors import DataError
from metrics.accumulator import DetectionAccumulator
from metrics.detection_files import format_line, read_detections, write_detections


def test_a_line_counts_pixels_from_1():
    line = format_line("a", 0.123456789, (1, 2, 30, 40))
    assert line == "a 0.123456789 3.000000 2.000000 40.000000 30.000000\n"


def test_ids_with_spaces_are_refused():
    with pytest.raises(DataError, match="'a b': .*comp4"):
        format_line("a b", 0.5, (1, 2, 3, 4))


def test_each_class_has_a_file_of_its_detections(tmp_path):
    accumulator = DetectionAccumulator(["cat", "dog", "emu"])
    boxes = [(0, 0, 10, 20), (5, 6, 7, 8)]
    accumulator.add("a", [], [], [], boxes, [0.9, 0.5], ["dog", "cat"])
    accumulator.add("b", [], [], [], boxes[:1], [0.25], ["dog"])
    write_detections(accumulator, tmp_path / "new" / "found")
    found = read_detections(tmp_path / "new" / "found")
    assert {name: (rows.image_ids, rows.scores.tolist()) for name, rows in found.items()} == {
        "cat": (["a"], [0.5]),
        "dog": (["a", "b"], [0.9, 0.25]),
        "emu": ([], []),
    }
    assert found["cat"].boxes_px.tolist() == [[7, 6, 8, 7]]
