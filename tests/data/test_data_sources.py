"""Annotated pictures in a folder, found and converted."""

import json

import pytest

from data.options import ConversionOptions
from data.sources import find_source
from tests.data.converting import sources_of
from tests.data.tool_folders import IDS, SPLITS, coco, coco_2017, write


@pytest.fixture(scope="module")
def pictures(make_jpeg) -> dict[str, bytes]:
    return {image_id: make_jpeg(seed=ord(image_id)) for image_id in IDS}


def test_the_val_split_of_coco_is_used_for_test(tmp_path, pictures, make_xml):
    coco_2017(tmp_path, pictures, make_xml)
    sources = {source.split: source for source in find_source(tmp_path).coco}
    assert sources.keys() == {"train", "test"}
    assert sources["test"].annotations.name == "instances_val2017.json"
    assert sources["test"].images == tmp_path / "val2017"


def test_equal_names_in_the_folders_of_splits(tmp_path, make_jpeg):
    for number, split in enumerate(SPLITS):
        write(tmp_path / split / "images" / "a.jpg", make_jpeg(seed=number))
        write(tmp_path / split / "_annotations.coco.json", coco("a"))
    find_source(tmp_path).convert(tmp_path / "records", ConversionOptions())
    found = {split: sources_of(tmp_path / "records" / split) for split in ("train", "eval", "test")}
    assert found == {
        "train": ["train-images/a.jpg"],
        "eval": ["valid-images/a.jpg"],
        "test": ["test-images/a.jpg"],
    }


def test_a_folder_without_annotations_is_not_a_source(tmp_path):
    for name in ("train", "eval", "test"):
        write(tmp_path / name / "a.tfrecord.gz", b"")
    write(tmp_path / "report.json", json.dumps({"splits": {"train": {"images": 3}}}))
    assert find_source(tmp_path) is None
