"""Folders as labelling tools lay them out, from annotations to records."""

import json
from pathlib import Path

import pytest
import tensorflow as tf

from data.fields import COMMON
from data.options import ConversionOptions
from data.sources import find_source
from tests.data.converting import sources_of

_SPLITS = {"train": ("a", "b", "c"), "valid": ("d",), "test": ("e",)}
_IDS = [image_id for ids in _SPLITS.values() for image_id in ids]
# Of every picture here, in pixels from 0 with exclusive right and bottom edges.
_BOX = (3, 5, 20, 30)


@pytest.fixture(scope="module")
def pictures(make_jpeg) -> dict[str, bytes]:
    return {image_id: make_jpeg(seed=ord(image_id)) for image_id in _IDS}


def _write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _xml(make_xml, image_id: str, counts_from: int, folder: str = "") -> str:
    xmin, ymin, xmax, ymax = _BOX
    box = (xmin + counts_from, ymin + counts_from, xmax, ymax)
    return make_xml([("dog", box)], filename=f"{folder}{image_id}.jpg")


def _coco(ids, folder: str = "", first: int = 1) -> str:
    xmin, ymin, xmax, ymax = _BOX
    return json.dumps(
        {
            "info": {},
            "images": [
                {"id": n, "file_name": f"{folder}{i}.jpg", "width": 40, "height": 36}
                for n, i in enumerate(ids)
            ],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "bbox": [xmin, ymin, xmax - xmin, 25]}
                for n, _ in enumerate(ids)
            ],
            "categories": [
                {"id": 0, "name": "pets", "supercategory": "none"},
                {"id": 1, "name": "dog", "supercategory": "pets"},
            ][first:],
        }
    )


def _labelimg(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        _write(root / f"{image_id}.jpg", jpeg)
        _write(root / f"{image_id}.xml", _xml(make_xml, image_id, 1, "C:\\photos\\"))


def _cvat(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        _write(root / "JPEGImages" / f"{image_id}.jpg", jpeg)
        xml = _xml(make_xml, image_id, 0).replace("<depth>3</depth>", "<depth/>")
        _write(root / "Annotations" / f"{image_id}.xml", xml)
    _write(root / "ImageSets" / "Main" / "default.txt", "\n".join(pictures))
    _write(root / "ImageSets" / "Main" / "dog_default.txt", "\n".join(f"{i} 1" for i in pictures))
    _write(root / "labelmap.txt", "# label:color_rgb:parts:actions\n")


def _make_sense(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        _write(root / "my-project" / f"{image_id}.jpg", jpeg)
        flags = "<truncated>Unspecified</truncated><difficult>Unspecified</difficult>"
        xml = _xml(make_xml, image_id, 0).replace("<bndbox>", f"{flags}<bndbox>")
        _write(root / "my-project" / f"{image_id}.xml", xml)


def _labelme(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        _write(root / "data_voc" / "JPEGImages" / f"{image_id}.jpg", jpeg)
        xml = _xml(make_xml, image_id, 0).replace("<size>", "<size/><size>")
        _write(root / "data_voc" / "Annotations" / f"{image_id}.xml", xml)
        _write(root / "data_voc" / "AnnotationsVisualization" / f"{image_id}.jpg", jpeg)


def _vott(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        _write(root / "JPEGImages" / f"{image_id}.jpg", jpeg)
        _write(root / "Annotations" / f"{image_id}.xml", _xml(make_xml, image_id, 0))
    for name in ("dog_train", "dog_val"):
        rows = "".join(f"{image_id}.jpg 1\n" for image_id in pictures)
        _write(root / "ImageSets" / "Main" / f"{name}.txt", rows)


def _label_studio(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        _write(root / "images" / f"{image_id}.jpg", jpeg)
        _write(root / "Annotations" / f"{image_id}.xml", _xml(make_xml, image_id, 1))


def _label_studio_coco(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        _write(root / "images" / f"{image_id}.jpg", jpeg)
    _write(root / "result.json", _coco(pictures, "images\\"))


def _cvat_coco(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        _write(root / "images" / "default" / f"{image_id}.jpg", jpeg)
    _write(root / "annotations" / "instances_default.json", _coco(pictures))


def _roboflow(root, pictures, make_xml):
    for split, ids in _SPLITS.items():
        for image_id in ids:
            _write(root / split / f"{image_id}.jpg", pictures[image_id])
            _write(root / split / f"{image_id}.xml", _xml(make_xml, image_id, 1))


def _roboflow_coco(root, pictures, make_xml):
    for split, ids in _SPLITS.items():
        for image_id in ids:
            _write(root / split / f"{image_id}.jpg", pictures[image_id])
        _write(root / split / "_annotations.coco.json", _coco(ids, first=0))


def _coco_2017(root, pictures, make_xml):
    for split, ids in (("train2017", _IDS[:4]), ("val2017", _IDS[4:])):
        for image_id in ids:
            _write(root / split / f"{image_id}.jpg", pictures[image_id])
        _write(root / "annotations" / f"instances_{split}.json", _coco(ids))
    _write(root / "annotations" / "captions_val2017.json", _coco(_IDS))


def _lists(root, pictures, make_xml):
    _label_studio(root / "year", pictures, make_xml)
    for split, ids in (*_SPLITS.items(), ("trainval", ("a", "b", "c", "d"))):
        name = {"valid": "val"}.get(split, split)
        _write(root / "year" / "ImageSets" / "Main" / f"{name}.txt", "\n".join(ids))


_ZERO = {"pixels_from": 0}
_DEALT, _GIVEN = None, {"train": {"a", "b", "c"}, "eval": {"d"}, "test": {"e"}}
_TOOLS = {
    "labelImg": (_labelimg, {}, _DEALT),
    "CVAT": (_cvat, _ZERO, _DEALT),
    "make-sense": (_make_sense, _ZERO, _DEALT),
    "labelme": (_labelme, _ZERO, _DEALT),
    "VoTT": (_vott, _ZERO, _DEALT),
    "Label Studio": (_label_studio, {}, _DEALT),
    "Label Studio COCO": (_label_studio_coco, {}, _DEALT),
    "CVAT COCO": (_cvat_coco, {}, _DEALT),
    "Roboflow": (_roboflow, {}, _GIVEN),
    "Roboflow COCO": (_roboflow_coco, {}, _GIVEN),
    "lists": (_lists, {}, _GIVEN),
    "lists left aside": (_lists, {"split": "60/20/20"}, _DEALT),
}


def _read(folder: Path) -> dict[str, set[str]]:
    """The pictures of each split; the box of each is checked."""
    found = {}
    for path in folder.glob("*/*.gz"):
        for record in tf.data.TFRecordDataset(str(path), "GZIP"):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            sides = [
                feature[name].float_list.value[0] * size
                for name, size in zip(
                    (COMMON.xmin, COMMON.ymin, COMMON.xmax, COMMON.ymax), (40, 36) * 2, strict=True
                )
            ]
            assert sides == pytest.approx(_BOX, abs=1e-4)
            name = feature[COMMON.filename].bytes_list.value[0].decode()
            found.setdefault(path.parent.name, set()).add(name.removesuffix(".jpg"))
    return found


@pytest.mark.parametrize("tool", _TOOLS)
def test_from_a_tools_folder_to_records(tool, tmp_path, pictures, make_xml):
    lay_out, options, splits = _TOOLS[tool]
    lay_out(tmp_path / "set", pictures, make_xml)
    source = find_source(tmp_path / "set")
    report = source.convert(tmp_path / "records", ConversionOptions(classes=("auto",), **options))
    found = _read(tmp_path / "records")
    assert found.keys() == {"train", "eval", "test"}
    assert sorted(image_id for ids in found.values() for image_id in ids) == _IDS
    assert splits is None or found == splits
    assert (splits is None) == any("by content" in note for note in report.notes)
    assert report.rejected == 0
    assert source.last_picture().suffix == ".jpg"
    files = {path.name for path in source.files()}
    assert {f"{image_id}.jpg" for image_id in _IDS} <= files


def test_cocos_own_folder_measures_on_val(tmp_path, pictures, make_xml):
    _coco_2017(tmp_path, pictures, make_xml)
    sources = {source.split: source for source in find_source(tmp_path).coco}
    assert sources.keys() == {"train", "test"}
    assert sources["test"].annotations.name == "instances_val2017.json"
    assert sources["test"].images == tmp_path / "val2017"


def test_equal_names_in_the_folders_of_splits(tmp_path, make_jpeg):
    for number, split in enumerate(_SPLITS):
        _write(tmp_path / split / "images" / "a.jpg", make_jpeg(seed=number))
        _write(tmp_path / split / "_annotations.coco.json", _coco("a"))
    find_source(tmp_path).convert(tmp_path / "records", ConversionOptions())
    found = {split: sources_of(tmp_path / "records" / split) for split in ("train", "eval", "test")}
    assert found == {
        "train": ["train-images/a.jpg"],
        "eval": ["valid-images/a.jpg"],
        "test": ["test-images/a.jpg"],
    }


def test_folders_without_annotations_are_none(tmp_path):
    for name in ("train", "eval", "test"):
        _write(tmp_path / name / "a.tfrecord.gz", b"")
    _write(tmp_path / "report.json", json.dumps({"splits": {"train": {"images": 3}}}))
    assert find_source(tmp_path) is None
