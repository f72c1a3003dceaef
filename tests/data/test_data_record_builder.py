import hashlib
import re

import pytest
import tensorflow as tf

from data.jpeg import JpegHeader
from data.record_builder import build_example, find_problems, find_voc_box_problems
from data.voc import read_annotation

_CLASSES = ("cat", "dog")


@pytest.fixture
def annotate(tmp_path, make_xml):
    def annotate(*objects, **size):
        path = tmp_path / "a.xml"
        path.write_text(make_xml(objects, **size))
        return read_annotation(path)

    return annotate


def _values(example):
    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in example.features.feature.items()
    }


@pytest.fixture
def build(annotate, make_jpeg):
    def build(*objects, mode="RGB"):
        jpeg = make_jpeg(mode=mode)
        example = build_example(
            annotate(*objects),
            jpeg,
            filename="a.jpg",
            source_id="VOC2007/a",
            class_ids={"cat": 1, "dog": 2},
        )
        return jpeg, _values(example)

    return build


def test_record_holds_the_untouched_jpeg_and_the_common_fields(build):
    flags = "<truncated>1</truncated><difficult>1</difficult>"
    jpeg, values = build(("dog", (1, 1, 40, 36)), ("cat", (11, 10, 20, 27), flags))
    assert values == {
        "image/encoded": [jpeg],
        "image/format": [b"jpeg"],
        "image/filename": [b"a.jpg"],
        "image/source_id": [b"VOC2007/a"],
        "image/key/sha256": [hashlib.sha256(jpeg).hexdigest().encode()],
        "image/height": [36],
        "image/width": [40],
        "image/object/bbox/ymin": pytest.approx([0, 0.25]),
        "image/object/bbox/xmin": pytest.approx([0, 0.25]),
        "image/object/bbox/ymax": pytest.approx([1, 0.75]),
        "image/object/bbox/xmax": pytest.approx([1, 0.5]),
        "image/object/class/text": [b"dog", b"cat"],
        "image/object/class/label": [2, 1],
        "image/object/difficult": [0, 1],
        "image/object/truncated": [0, 1],
        "image/object/occluded": [0, 0],
    }


def test_record_without_objects_has_empty_lists(build):
    _, values = build()
    assert values["image/object/bbox/xmin"] == []
    assert values["image/object/class/text"] == []


def test_grey_pictures_are_decodable(build):
    jpeg, _ = build(mode="L")
    assert tf.io.decode_jpeg(jpeg, channels=3).shape == (36, 40, 3)


def test_fractions_at_the_border_are_clipped(build):
    _, values = build(("dog", (0.4, 0.6, 40.5, 36.9)))
    edges = [values[f"image/object/bbox/{edge}"][0] for edge in ("ymin", "xmin", "ymax", "xmax")]
    assert edges == [0, 0, 1, 1]


@pytest.mark.parametrize("box", [(1, 1, 40, 36), (0.4, 1, 40.5, 36.9), (1, 1, 2, 2)])
def test_boxes_up_to_the_border_are_fine(annotate, box):
    assert find_voc_box_problems(annotate(("dog", box)), JpegHeader(40, 36, 3)) == []


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 1, 9, 9), "reaches out of the picture: xmin 0, .* in 40 x 36 pixels"),
        ((1, -3, 9, 9), "reaches out of the picture"),
        ((1, 1, 41, 9), "reaches out of the picture"),
        ((1, 1, 9, 37), "reaches out of the picture"),
        ((9, 1, 9, 9), "has no area: xmin 9 >= xmax 9"),
        ((1, 9, 9, 8.5), "has no area: ymin 9 >= ymax 8.5"),
    ],
)
def test_bad_boxes_name_file_object_and_class(annotate, box, message):
    annotation = annotate(("cat", (1, 1, 9, 9)), ("dog", box))
    (problem,) = find_voc_box_problems(annotation, JpegHeader(40, 36, 3))
    assert problem.startswith(f"{annotation.source}: object 2 (dog): ")
    assert re.search(message, problem)
    assert "Correct" in problem


def test_all_problems_are_listed(annotate):
    annotation = annotate(("dgo", (1, 1, 9, 9)), ("dog", (30, 30, 90, 20)))
    header = JpegHeader(36, 40, 3)
    problems = [
        *find_problems(annotation, header, _CLASSES),
        *find_voc_box_problems(annotation, header),
    ]
    assert len(problems) == 4
    assert (
        "the size is 40 x 36, but the JPEG has 36 x 40 pixels. The sides are swapped" in problems[0]
    )
    assert "object 1 (dgo): not one of the 2 classes (did you mean dog?)" in problems[1]
    assert "--classes" in problems[1]
    assert "ymin 30 >= ymax 20" in problems[2]
    assert "reaches out" in problems[3]


def test_other_size_without_swap(annotate):
    (problem,) = find_problems(annotate(width=0, height=0), JpegHeader(36, 40, 3), _CLASSES)
    assert "the size is 0 x 0, but the JPEG has 36 x 40 pixels" in problem
    assert "swapped" not in problem
