"""Which pictures in COCO files go to which split, and which categories are classes."""

import json
from dataclasses import replace

import pytest

from data.coco import CocoSource, select_coco
from data.errors import DataError
from data.options import ConversionOptions
from tests.data.tool_folders import coco, write


@pytest.fixture
def sources(tmp_path):
    """A file for train and one for test, with different pictures."""

    def source(split, ids):
        folder = tmp_path / split
        write(folder / "labels.json", coco(ids))
        return CocoSource(split, folder / "labels.json", folder)

    return [source("train", "ab"), source("test", "c")]


def test_files_go_to_their_splits(sources, tmp_path):
    selection, _ = select_coco(sources, ConversionOptions())
    assert [picture.split for picture in selection.pictures] == ["train", "train", "test"]
    assert selection.shares is None
    assert selection.data_set == tmp_path.name


def test_some_file_has_to_be_for_training_unless_content_decides(sources):
    held_out = [replace(sources[0], split="eval"), sources[1]]
    with pytest.raises(DataError, match="train=FILE"):
        select_coco(held_out, ConversionOptions())
    select_coco(held_out, ConversionOptions(split="80/10/10"))
    select_coco([replace(sources[0], split="")], ConversionOptions())


def test_shares_apply_to_the_pictures_of_all_files(sources):
    selection, _ = select_coco(sources, ConversionOptions(split="60/20/20"))
    assert [picture.split for picture in selection.pictures] == ["", "", ""]
    assert selection.shares == pytest.approx((0.6, 0.2, 0.2))
    assert not any(selection.lists.values())


def test_voc_lists_are_refused(sources):
    with pytest.raises(DataError, match="--eval is for VOC lists"):
        select_coco(sources, ConversionOptions(eval=("val",)))


def _select(source, **changed):
    document = json.loads(source.annotations.read_text())
    for name, entries in changed.items():
        for entry, values in zip(document[name], entries, strict=True):
            entry.update(values)
    source.annotations.write_text(json.dumps(document))
    return select_coco([source], ConversionOptions())


def test_a_grouping_category_with_objects_is_a_class(sources):
    groups = coco("ab", first=0)
    sources[0].annotations.write_text(groups)
    selection, names = _select(sources[0])
    assert names == ("dog",)
    assert any("pets" in note for note in selection.notes)
    _, names = _select(sources[0], annotations=[{"category_id": 0}, {}])
    assert names == ("pets", "dog")


def test_objects_keep_their_ids_and_image_ids_may_be_spelt_differently(sources):
    annotations = [{"id": 70, "image_id": "1.0"}, {"id": 80, "image_id": 0.0}]
    selection, _ = _select(sources[0], annotations=annotations)
    numbers = [item.number for p in selection.pictures for item in p.annotation.objects]
    assert numbers == [80, 70]


def test_an_annotation_without_a_picture_is_a_problem_of_an_object(sources):
    selection, _ = _select(sources[0], annotations=[{}, {"image_id": 9}])
    (problem,) = selection.loose
    assert (problem.kind, problem.of_object) == ("image", True)
