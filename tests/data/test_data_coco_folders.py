import json
from pathlib import Path

import pytest

from data.coco_folders import find_coco_sources


def _write(root: Path, file: str, names=("a.jpg",)) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))


def _add(root: Path, *pictures: str) -> None:
    for picture in pictures:
        (root / picture).parent.mkdir(parents=True, exist_ok=True)
        (root / picture).write_bytes(b"")


@pytest.mark.parametrize("folder", ["images", "Images", "img", "photos/2024", "data"])
def test_pictures_in_a_folder_of_any_name(tmp_path, folder):
    _write(tmp_path, "labels.json")
    _add(tmp_path, f"{folder}/a.jpg")
    (source,) = find_coco_sources(tmp_path)
    assert source.images == tmp_path / folder


def test_the_folder_of_another_split_is_not_used(tmp_path):
    for split in ("train", "val"):
        _write(tmp_path, f"annotations/instances_{split}.json")
        _add(tmp_path, f"{split}/pictures/a.jpg")
    found = {source.annotations.stem: source.images for source in find_coco_sources(tmp_path)}
    assert found == {
        "instances_train": tmp_path / "train" / "pictures",
        "instances_val": tmp_path / "val" / "pictures",
    }


def test_the_folder_is_found_by_the_file_names_of_its_pictures(tmp_path):
    _write(tmp_path, "labels.json", ["C:\\work\\train\\a.jpg", "s3://bucket/b.jpg"])
    _add(tmp_path, "img/b.jpg")
    assert find_coco_sources(tmp_path)[0].images == tmp_path / "img"
    _write(tmp_path, "labels.json", ["work/train/b.jpg"])
    assert find_coco_sources(tmp_path)[0].images == tmp_path / "img"


def test_the_folder_is_found_even_if_the_extension_is_wrong(tmp_path):
    # So that the conversion can name the file with the other extension.
    _write(tmp_path, "labels.json", ["a.png"])
    _add(tmp_path, "img/a.jpg")
    assert find_coco_sources(tmp_path)[0].images == tmp_path / "img"


def test_without_pictures_it_is_the_root(tmp_path):
    _write(tmp_path, "labels.json")
    assert find_coco_sources(tmp_path)[0].images == tmp_path
