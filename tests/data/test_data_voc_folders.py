"""Finding annotations and pictures in VOC folders, however they are named."""

import pytest

from data.voc_folders import find_voc_folders


def _write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize("below", ["", "set/"])
@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [
        ("Annotations", "JPEGImages"),
        ("annotations", "images"),
        ("annotations", "imgs"),
        ("labels", "images"),
        ("xmls", "photos"),
        ("Annotations", "."),
        ("Annotations", "Annotations"),
        (".", "images"),
        (".", "."),
    ],
)
def test_folders_of_any_name(tmp_path, below, annotations, pictures):
    root = tmp_path / below
    _write(root, f"{annotations}/a.xml", f"{pictures}/a.jpg", "README.md", "notes/a.txt")
    (folder,) = find_voc_folders(tmp_path)
    assert (folder.annotations, folder.pictures) == (root / annotations, root / pictures)
    assert folder.name == root.name


@pytest.mark.parametrize("other", ["more/b.jpg", "more/b.xml"])
def test_with_three_folders_none_is_guessed(tmp_path, other):
    _write(tmp_path, "xmls/a.xml", "photos/a.jpg", other)
    found = {folder.name: folder for folder in find_voc_folders(tmp_path)}
    assert found["xmls"].annotations == found["xmls"].pictures == tmp_path / "xmls"


def test_with_two_folders_of_pictures_none_is_guessed(tmp_path):
    _write(tmp_path, "Annotations/a.xml", "photos/a.jpg", "more/b.jpg")
    (folder,) = find_voc_folders(tmp_path)
    assert folder.pictures == folder.annotations == tmp_path / "Annotations"


def test_splits_with_pictures_and_annotations_side_by_side(tmp_path):
    _write(tmp_path, "train/a.xml", "train/a.jpg", "valid/b.xml", "valid/b.jpg", "thumbs/a.jpg")
    names = [folder.name for folder in find_voc_folders(tmp_path)]
    assert names == ["train", "valid"]


@pytest.mark.parametrize(
    ("annotations", "pictures"), [("annotations", "images"), ("labels", "images"), ("xml", "jpg")]
)
def test_splits_in_separate_folders_of_annotations_and_pictures(tmp_path, annotations, pictures):
    for split in ("train", "val"):
        _write(tmp_path, f"{annotations}/{split}/a.xml", f"{pictures}/{split}/a.jpg")
    found = {folder.name: folder for folder in find_voc_folders(tmp_path)}
    assert found.keys() == {"train", "val"}
    assert found["val"].annotations == tmp_path / annotations / "val"
    assert found["val"].pictures == tmp_path / pictures / "val"
    assert found["val"].annotated_ids() == ["a"]


def test_lists_take_precedence_over_folders(tmp_path):
    _write(tmp_path, "Annotations/train/a.xml", "images/train/a.jpg", "ImageSets/Main/all.txt")
    (folder,) = find_voc_folders(tmp_path)
    assert folder.name == tmp_path.name
    assert folder.annotated_ids() == ["train/a"]


def test_lists_without_annotations(tmp_path):
    _write(tmp_path, "VOC2007/ImageSets/Main/train.txt", "VOC2007/JPEGImages/a.jpg")
    (folder,) = find_voc_folders(tmp_path)
    assert list(folder.lists()) == ["VOC2007/train"]


def test_folders_without_matching_picture_folders_are_part_of_the_ids(tmp_path):
    _write(tmp_path, "annotations/sub/a.xml", "images/sub/a.jpg", "annotations/b.xml")
    (folder,) = find_voc_folders(tmp_path)
    assert folder.annotated_ids() == ["b", "sub/a"]
    _write(tmp_path / "flat", "annotations/sub/a.xml", "images/a.jpg")
    (folder,) = find_voc_folders(tmp_path / "flat")
    assert folder.annotated_ids() == ["sub/a"]


def test_parts_with_equal_names_get_longer_names(tmp_path):
    for day in ("mon", "tue"):
        _write(tmp_path / day, "labels/train/a.xml", "images/train/a.jpg")
    names = [folder.name for folder in find_voc_folders(tmp_path)]
    assert names == ["mon-train", "tue-train"]
