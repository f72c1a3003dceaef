import codecs
import re
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.problems import Unusable
from data.voc import read_annotation, read_image_set, relative_boxes


@pytest.fixture
def read(tmp_path):
    def read(xml: str, **options):
        path = tmp_path / "000001.xml"
        path.write_text(xml)
        return read_annotation(path, **options)

    return read


def test_names_boxes_flags_and_sizes_are_read(read, make_xml):
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


def test_tags_are_read_in_any_case_and_namespace(read, make_xml):
    xml = make_xml([("dog", (1, 2, 3, 4), "<difficult>1</difficult>")], 40, 36)
    expected = read(xml)
    shouted = xml.upper().replace("DOG", "dog").replace("A.JPG", "a.jpg")
    assert read(shouted) == expected
    assert read(xml.replace("<annotation>", '<annotation xmlns="http://a/b">')) == expected
    assert expected.objects[0].difficult


@pytest.mark.parametrize(
    ("inner", "where"),
    [
        ("<objects>{object}</objects>", "<object> in <objects>"),
        ("<item>{box}</item>", "<bndbox> in <item>"),
        ("{object}{box}", "<bndbox> in <annotation>"),
        ("{object}<item><xmin>1</xmin></item>", "<xmin> in <item>"),
        ("<object><name>dog</name>{box}{object}</object>", "<object> in <object>"),
    ],
)
def test_misplaced_boxes_are_an_error(read, inner, where):
    filled = inner.format(object=f"<object><name>cat</name>{_BOX}</object>", box=_BOX)
    with pytest.raises(Unusable, match=f"there is a {where}. Move each <object>"):
        read(f"<annotation>{filled}</annotation>")


def test_pixels_from_0(read, make_xml):
    xml = make_xml([("dog", (0, 20.25, 40, 36)), ("cat", (5, 5, 5, 9))])
    annotation = read(xml, pixels_from=0)
    (dog,) = annotation.objects
    assert dog.box_px == (1, 21.25, 40, 36)
    # Counted from 1 it is a pixel wide, counted from 0 it has no width.
    assert [p.text.partition(": ")[2] for p in annotation.problems] == [
        "object 2 (cat): the box has no area: xmin 5 = xmax 5"
    ]
    assert len(read(xml).objects) == 2


@pytest.mark.parametrize(
    ("text", "difficult", "truncated"),
    [
        *[("1", True, True), ("0", False, False), ("1.0", True, True), ("0.0", False, False)],
        *[("true", True, True), ("False", False, False), ("Unspecified", False, False)],
        *[("", False, False), ("0.3", None, True), ("3", None, True), ("-1", None, False)],
        *[("maybe", None, None), ("nan", None, None)],
    ],
)
def test_flags(read, make_xml, text, difficult, truncated):
    for tag, expected in (("difficult", difficult), ("truncated", truncated)):
        annotation = read(make_xml([("dog", (1, 2, 3, 4), f"<{tag}>{text}</{tag}>")]))
        if expected is None:
            assert annotation.objects == ()
            assert [problem.kind for problem in annotation.problems] == ["flag"]
        else:
            assert getattr(annotation.objects[0], tag) is expected


def test_only_the_requested_flags_are_read(read, make_xml):
    xml = make_xml([("dog", (1, 2, 3, 4), "<truncated>maybe</truncated>")])
    assert len(read(xml, flags=["difficult"]).objects) == 1


@pytest.mark.parametrize("side", ["", "0", "-1", "wide", "nan", "1e300"])
def test_an_invalid_side_counts_as_not_stated(read, side):
    size = f"<size><width>{side}</width><height>36.0</height></size>"
    annotation = read(f"<annotation>{size}</annotation>")
    assert (annotation.width, annotation.height) == (0, 36)


@pytest.mark.parametrize(
    ("declared", "actual"),
    [
        *[("gb2312", "gb18030"), ("GBK", "gbk"), ("big5", "big5"), ("windows-1252", "cp1252")],
        # As declared by .NET's text writers.
        *[("utf-16", "utf-8"), ("utf-16", "utf-16")],
    ],
)
def test_encodings(tmp_path, declared, actual):
    name = "für" if actual == "cp1252" else "圖"
    xml = f'<?xml version="1.0" encoding="{declared}"?><annotation><object><name>{name}</name>'
    path = tmp_path / "a.xml"
    path.write_bytes(f"{xml}{_BOX}</object></annotation>".encode(actual))
    assert read_annotation(path).objects[0].name == name


@pytest.mark.parametrize(
    ("start", "declared"),
    # A file saved again as UTF-8, and files written by scripts.
    [(codecs.BOM_UTF8, "gb2312"), (b"\n  ", "utf-8"), (b"\r\n", "gb2312")],
)
def test_bytes_before_the_declaration(tmp_path, start, declared):
    xml = f'<?xml version="1.0" encoding="{declared}"?><annotation><object><name>圖</name>'
    encoding = "gb18030" if declared == "gb2312" and start != codecs.BOM_UTF8 else "utf-8"
    path = tmp_path / "a.xml"
    path.write_bytes(start + f"{xml}{_BOX}</object></annotation>".encode(encoding))
    assert read_annotation(path).objects[0].name == "圖"


@pytest.mark.parametrize("declared", ["", "utf-8", "ascii"])
def test_text_in_another_encoding_than_declared(tmp_path, declared):
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    xml = f"{head}<annotation><object><name>für</name>{_BOX}</object></annotation>"
    path = tmp_path / "a.xml"
    path.write_bytes(xml.encode("latin-1"))
    with pytest.raises(Unusable, match=f"not text in {declared or 'utf-8'}.*declare the encoding"):
        read_annotation(path)


def test_blank_lines_before_a_declaration_without_encoding(read, make_xml):
    assert read(f'\n<?xml version="1.0"?>{make_xml()}').objects[0].name == "dog"


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
        (_BOMB, r"entities \(<!DOCTYPE>\)"),
        (_FILE_THIEF, r"entities \(<!DOCTYPE>\)"),
        ("<html/>", "root element is <html>"),
    ],
)
def test_errors_in_annotations_name_the_file(read, xml, message):
    with pytest.raises(Unusable, match=rf"000001\.xml: .*{message}"):
        read(xml)


@pytest.mark.parametrize(
    ("xml", "kind", "message"),
    [
        (_with_dog(_BOX), "name", "object 2: there is no <name>"),
        (_with_dog("<name>dog</name>"), "box", r"object 2 \(dog\): it has no box"),
        (_with_dog("<name>dog</name>" + _BOX * 2), "box", r"object 2 \(dog\): it has 2 boxes"),
        (
            _with_dog("<name>dog</name>" + _BOX.replace("bndbox", "box")),
            "box",
            r"\(dog\): its box is in <box>, not in <bndbox>",
        ),
        (_with_dog("<name>dog</name><robndbox/>"), "box", "a rotated box"),
        (
            _with_dog("<name>dog</name><bndbox><xmin>1</xmin></bndbox>"),
            "box",
            r"2 \(dog\): <ymin> is ''",
        ),
        (_with_dog("<name>dog</name>" + _BOX.replace("9", "nan")), "box", "<xmax> is 'nan'"),
        (_with_dog("<name>dog</name>" + _BOX.replace("9", "a")), "box", "<xmax> is 'a'"),
        (_with_dog("<name>dog</name>" + _BOX.replace("9", "0")), "box", "no area: xmin 1 > xmax 0"),
    ],
)
def test_bad_objects_are_problems_and_the_others_are_read(read, xml, kind, message):
    annotation = read(xml)
    assert [(item.name, item.number) for item in annotation.objects] == [("cat", 1)]
    (problem,) = annotation.problems
    assert (problem.kind, problem.of_object) == (kind, True)
    assert re.search(rf"000001\.xml: .*{message}", problem.text)


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
        (b"000001\n../000002\n", "line 2: id '../000002' points outside"),
        (b"..\n", "line 1: id '..' points outside"),
        (b"000001\n000002\n000001\n", "000001 is on line 1 and again on line 3"),
        (b"a photo\n", "line 1 is 'a photo'.*an id with spaces needs an annotation"),
        (b"/a\n", "line 1: id '/a' points outside"),
        (b"C:\\a\n", "line 1: id 'C:/a' points outside"),
        (b"\xff\xd8\xff", "not a UTF-8 text file"),
        ("für\n".encode("latin-1"), "not a UTF-8 text file"),
    ],
)
def test_bad_image_set(tmp_path, content, message):
    path = tmp_path / "test.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"test\.txt: {message}"):
        read_image_set(path)


def test_ids_as_tools_write_them(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text('a photo\n"b photo"\nsub/c\nsub\\d\ne.jpg\nf.jpg\ng.v2\n')
    existing = {"a photo", "b photo", "f.jpg"}
    assert read_image_set(path, existing.__contains__) == [
        *["a photo", "b photo", "sub/c", "sub/d", "e", "f.jpg", "g.v2"]
    ]


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
def test_plain_iou_of_relative_boxes_equals_that_of_the_devkit(first, second):
    def devkit_area(box):
        return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)

    common = devkit_area((*np.maximum(first[:2], second[:2]), *np.minimum(first[2:], second[2:])))
    expected = common / (devkit_area(first) + devkit_area(second) - common)

    a, b = relative_boxes([first, second], 500, 500).astype(float)
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
    assert np.prod(sides) / (areas - np.prod(sides)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_every_voc2007_annotation_parses(voc_fixtures, tmp_path):
    with tarfile.open(voc_fixtures / "oracles/voc2007_test/annotations_and_lists.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    year = tmp_path / "VOC2007"
    annotations = {path.stem: read_annotation(path) for path in (year / "Annotations").iterdir()}
    assert len(annotations) == 9963

    test_ids = read_image_set(year / "ImageSets" / "Main" / "test.txt")
    difficult = [item.difficult for i in test_ids for item in annotations[i].objects]
    assert len(test_ids) == 4952
    assert (difficult.count(False), difficult.count(True)) == (12032, 2944)
