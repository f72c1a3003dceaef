"""The pictures of a COCO file: possible values of `file_name`, and the files found for them."""

import json

import pytest

from data.coco import CocoSource, _side, select_coco
from data.errors import DataError
from data.options import ConversionOptions
from data.settled import settle


@pytest.fixture
def select(tmp_path, make_jpeg):
    """Writes a COCO file and some picture files; returns the selected pictures."""

    def select(names, files=(), ids=None, encoding="utf-8"):
        for number, file in enumerate(files):
            path = tmp_path / "img" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_jpeg(seed=number))
        ids = ids or range(1, len(names) + 1)
        document = {
            "images": [{"id": i, "file_name": n} for i, n in zip(ids, names, strict=True)],
            "annotations": [
                {"id": n, "image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4]}
                for n, i in enumerate(dict.fromkeys(ids))
            ],
            "categories": [{"id": 1, "name": "Kätzchen"}],
        }
        path = tmp_path / "c.json"
        path.write_bytes(json.dumps(document, ensure_ascii=False).encode(encoding))
        (tmp_path / "img").mkdir(exist_ok=True)
        source = CocoSource("train", path, tmp_path / "img")
        return select_coco([source], ConversionOptions())[0].pictures

    return select


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("https://host.com/bucket/a.jpg?sig=1", "a.jpg"),
        ("s3://bucket/a.jpg", "a.jpg"),
        ("/data/local-files/?d=img/a.jpg", "a.jpg"),
        ("/home/me/a.jpg", "a.jpg"),
        ("D:\\img\\a.jpg", "a.jpg"),
        # Relative to where the tool ran.
        ("img/a.jpg", "a.jpg"),
        ("train\\img\\a.jpg", "a.jpg"),
        ("Sub/a.jpg", "sub/a.jpg"),
        ("a", "a.jpg"),
        ("a", "a.PNG"),
    ],
)
def test_file_names_as_tools_write_them(select, name, file):
    (picture,) = select([name], [file])
    settled = settle(picture, ConversionOptions(), None)
    assert settled.problems == ()
    assert settled.filename == file.rpartition("/")[2]


def test_a_file_stands_for_one_picture_only(select):
    pictures = select(["x/a.jpg", "y/a.jpg", "y/b.jpg"], ["a.jpg", "b.jpg"])
    found = [settle(picture, ConversionOptions(), None) for picture in pictures]
    assert [settled.filename for settled in found] == ["", "", "b.jpg"]
    assert found[0].problems[0].kind == "missing"


def test_a_file_with_another_extension_is_mentioned_but_not_used(select):
    (picture,) = select(["a.png"], ["a.jpg"])
    (problem,) = settle(picture, ConversionOptions(), None).problems
    assert problem.text.endswith("no such picture, but there is a.jpg")


def test_an_image_listed_twice_counts_once(select):
    assert len(select(["a.jpg", "b.jpg", "a.jpg"], ids=[1, 2, 1])) == 2
    with pytest.raises(DataError, match="image 1 is both a.jpg and b.jpg"):
        select(["a.jpg", "b.jpg"], ids=[1, 1])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(select, encoding):
    (picture,) = select(["a.jpg"], encoding=encoding)
    assert picture.annotation.objects[0].name == "Kätzchen"


def test_other_encodings_are_refused(select):
    with pytest.raises(DataError, match="not UTF-8, as JSON must be"):
        select(["a.jpg"], encoding="latin-1")


def test_a_side_that_no_picture_has_is_not_stated():
    assert [_side(value) for value in (40, "36", 2**31 - 1)] == [40, 36, 2**31 - 1]
    assert {_side(value) for value in (0, -1, 2**31, float("inf"), "wide", None)} == {0}
