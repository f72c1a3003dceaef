"""The origin of records, as read from their folder."""

import json

import pytest

from data.convert import convert
from data.errors import DataError
from data.options import ConversionOptions
from data.origin import Origin, read_origin


def test_without_a_report_the_folder_gives_the_name(tmp_path):
    assert read_origin(str(tmp_path / "pets")) == Origin("pets")


def test_pictures_and_objects_left_out_are_counted(tmp_path, voc_root, voc_year, make_xml):
    far = ("dog", (1, 1, 99, 9))
    voc_year.add("000001", make_xml([("dog", (1, 1, 9, 9)), far, ("cow", (1, 1, 9, 9))]))
    for on_error, counted in (("skip", "1 of "), ("skip-object", "0 of ")):
        options = ConversionOptions(
            eval=("VOC2007/val",), classes=("cat", "dog"), on_error=on_error
        )
        report = convert(voc_root, tmp_path / on_error, options)
        origin = read_origin(str(tmp_path / on_error))
        assert origin.name == voc_root.name
        assert origin.left_out.startswith(f"{counted}{report.pictures} pictures")
        assert "the box extends outside the picture (1)" in origin.left_out
        assert "the class is not in the list of classes (1)" in origin.left_out
        assert ("and objects of others" in origin.left_out) == (on_error == "skip-object")


def test_a_damaged_report_is_named(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"pictures": 3}))
    with pytest.raises(DataError, match="report.json: damaged .*Convert the data again"):
        read_origin(str(tmp_path))
