import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.voc import read_annotation, read_image_set, relative_boxes


@pytest.fixture
def read(tmp_path):
    def read(xml: str):
        path = tmp_path / "000001.xml"
        path.write_text(xml)
        return read_annotation(path)

    return read


def test_reads_what_the_file_says(read, make_xml):
    flags = "<truncated>1</truncated><difficult>1</difficult><occluded>0</occluded>"
    xml = make_xml([("dog", (1, 2, 30.5, 36), flags), ("cat", (5, 6, 7, 8))], 40, 36, "000001.jpg")

    annotation = read(xml)

    assert (annotation.width, annotation.height) == (40, 36)
    assert annotation.filename == "000001.jpg"
    dog, cat = annotation.objects
    assert dog.name == "dog"
    assert dog.box_px == (1, 2, 30.5, 36)
    assert (dog.difficult, dog.truncated, dog.occluded) == (True, True, False)
    assert (cat.difficult, cat.truncated, cat.occluded) == (False, False, False)


def test_body_parts_are_not_objects(read, make_xml):
    part = (
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax></bndbox></part>"
    )
    (person,) = read(make_xml([("person", (5, 6, 7, 8), part)])).objects
    assert person.name == "person"
    assert person.box_px == (5, 6, 7, 8)


def test_annotation_without_objects_or_size(read):
    annotation = read("<annotation/>")
    assert annotation.objects == ()
    assert (annotation.width, annotation.height) == (0, 0)


def _with_dog(inner: str) -> str:
    return (
        f"<annotation><object><name>cat</name>{_BOX}</object><object>{inner}</object></annotation>"
    )


_BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
_BOMB = (
    '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]>'
    "<annotation><filename>&y;</filename></annotation>"
)
_FILE_THIEF = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    "<annotation><filename>&x;</filename></annotation>"
)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not XML"),
        ("\x89PNG not XML at all", "not XML"),
        ("<annotation><object></annotation>", "not XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not XML"),
        (_BOMB, "entities.*Remove the DOCTYPE"),
        (_FILE_THIEF, "entities.*Remove the DOCTYPE"),
        ("<html/>", "root element is <html>"),
        ("<annotation><filename>../../a.jpg</filename></annotation>", r"'\.\./\.\./a\.jpg'.*leads"),
        ("<annotation><filename>C:\\a.jpg</filename></annotation>", "leads out"),
        ("<annotation><filename>..</filename></annotation>", "leads out"),
        (
            "<annotation><size><width>-4</width></size></annotation>",
            "<width> of the picture is '-4'",
        ),
        (_with_dog(_BOX), "object 2 has no class"),
        (_with_dog("<name>dog</name>"), r"object 2 \(dog\) has no box"),
        (_with_dog("<name>dog</name><bndbox><xmin>1</xmin></bndbox>"), r"2 \(dog\): <ymin> is ''"),
        (_with_dog("<name>dog</name>" + _BOX.replace("9", "nan")), r"2 \(dog\): <xmax> is 'nan'"),
        (_with_dog("<name>dog</name>" + _BOX.replace("9", "a")), r"2 \(dog\): <xmax> is 'a'"),
        (
            _with_dog(f"<name>dog</name><difficult>maybe</difficult>{_BOX}"),
            r"object 2 \(dog\): <difficult> is 'maybe'",
        ),
    ],
)
def test_bad_annotation_names_file_and_object(read, xml, message):
    with pytest.raises(DataError, match=rf"000001\.xml: .*{message}"):
        read(xml)


def test_missing_annotation(tmp_path):
    with pytest.raises(DataError, match=r"7\.xml: the annotation does not exist"):
        read_annotation(tmp_path / "7.xml")


def test_image_set_keeps_order_and_skips_blank_lines(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text("000007\n\n2008_000001  \n000002\n")
    assert read_image_set(path) == ["000007", "2008_000001", "000002"]


def test_image_set_from_windows(tmp_path):
    path = tmp_path / "test.txt"
    path.write_bytes(b"\xef\xbb\xbf000007\r\n\r\n000002\r\n")
    assert read_image_set(path) == ["000007", "000002"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"000001  1\n000002 -1\n", "line 1 is '000001  1'.*list of one class"),
        (b"000001\n../000002\n", "line 2: id '../000002' leads out"),
        (b"..\n", "line 1: id '..' leads out"),
        (b"000001\n000002\n000001\n", "000001 is on line 1 and again on line 3"),
        (b"a photo\n", "line 1 is 'a photo'.*ids have no spaces"),
        (b"\xff\xd8\xff", "not a text file in UTF-8"),
        ("000001\n".encode("utf-16"), "not a text file in UTF-8"),
    ],
)
def test_bad_image_set(tmp_path, content, message):
    path = tmp_path / "test.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"test\.txt: {message}"):
        read_image_set(path)


def test_missing_image_set(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: cannot read the image list"):
        read_image_set(tmp_path / "none.txt")


def test_box_of_the_whole_picture_is_the_unit_square():
    np.testing.assert_array_equal(relative_boxes([(1, 1, 500, 375)], 500, 375), [[0, 0, 1, 1]])


def test_no_boxes_keep_their_shape():
    boxes = relative_boxes([], 500, 375)
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32


_edge = st.integers(1, 500)
_box = st.tuples(_edge, _edge, _edge, _edge).map(
    lambda e: (min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]), max(e[1], e[3]))
)


@given(_box, _box)
def test_plain_iou_of_relative_boxes_is_the_devkits(first, second):
    def devkit_area(box):
        return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)

    common = devkit_area((*np.maximum(first[:2], second[:2]), *np.minimum(first[2:], second[2:])))
    expected = common / (devkit_area(first) + devkit_area(second) - common)

    a, b = relative_boxes([first, second], 500, 500).astype(float)
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
    assert np.prod(sides) / (areas - np.prod(sides)) == pytest.approx(expected, abs=1e-3)


def test_every_voc2007_annotation_parses(voc_fixtures, tmp_path):
    with tarfile.open(voc_fixtures / "oracles/voc2007_test/annotations_and_lists.tar.xz") as tar:
        tar.extractall(tmp_path)
    year = tmp_path / "VOC2007"
    annotations = {path.stem: read_annotation(path) for path in (year / "Annotations").iterdir()}
    assert len(annotations) == 9963

    test_ids = read_image_set(year / "ImageSets" / "Main" / "test.txt")
    difficult = [item.difficult for i in test_ids for item in annotations[i].objects]
    assert len(test_ids) == 4952
    assert (difficult.count(False), difficult.count(True)) == (12032, 2944)
