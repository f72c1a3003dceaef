import hashlib

import pytest
import tensorflow as tf

from data.jpeg import read_header
from data.record_builder import build_example
from data.voc import read_annotation


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
            read_header(jpeg),
            filename="a.jpg",
            source_id="VOC2007/a",
            class_ids={"cat": 1, "dog": 2},
        )
        return jpeg, _values(example)

    return build


def test_a_record_holds_the_unchanged_jpeg_and_the_common_fields(build):
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


def test_a_record_without_objects_has_empty_lists(build):
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
