"""Writes folders as labelling tools do: five pictures with one box each."""

import json
from pathlib import Path

SPLITS = {"train": ("a", "b", "c"), "valid": ("d",), "test": ("e",)}
IDS = [image_id for ids in SPLITS.values() for image_id in ids]
# In every picture, in pixels from 0 with exclusive right and bottom edges.
BOX = (3, 5, 20, 30)


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _xml(make_xml, image_id: str, counts_from: int, folder: str = "") -> str:
    xmin, ymin, xmax, ymax = BOX
    box = (xmin + counts_from, ymin + counts_from, xmax, ymax)
    return make_xml([("dog", box)], filename=f"{folder}{image_id}.jpg")


def coco(ids, folder: str = "", first: int = 1) -> str:
    xmin, ymin, xmax, ymax = BOX
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
        write(root / f"{image_id}.jpg", jpeg)
        write(root / f"{image_id}.xml", _xml(make_xml, image_id, 1, "C:\\photos\\"))


def _cvat(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        write(root / "JPEGImages" / f"{image_id}.jpg", jpeg)
        xml = _xml(make_xml, image_id, 0).replace("<depth>3</depth>", "<depth/>")
        write(root / "Annotations" / f"{image_id}.xml", xml)
    write(root / "ImageSets" / "Main" / "default.txt", "\n".join(pictures))
    write(root / "ImageSets" / "Main" / "dog_default.txt", "\n".join(f"{i} 1" for i in pictures))
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\n")


def _make_sense(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        write(root / "my-project" / f"{image_id}.jpg", jpeg)
        flags = "<truncated>Unspecified</truncated><difficult>Unspecified</difficult>"
        xml = _xml(make_xml, image_id, 0).replace("<bndbox>", f"{flags}<bndbox>")
        write(root / "my-project" / f"{image_id}.xml", xml)


def _labelme(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        write(root / "data_voc" / "JPEGImages" / f"{image_id}.jpg", jpeg)
        xml = _xml(make_xml, image_id, 0).replace("<size>", "<size/><size>")
        write(root / "data_voc" / "Annotations" / f"{image_id}.xml", xml)
        write(root / "data_voc" / "AnnotationsVisualization" / f"{image_id}.jpg", jpeg)


def _vott(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        write(root / "JPEGImages" / f"{image_id}.jpg", jpeg)
        write(root / "Annotations" / f"{image_id}.xml", _xml(make_xml, image_id, 0))
    for name in ("dog_train", "dog_val"):
        rows = "".join(f"{image_id}.jpg 1\n" for image_id in pictures)
        write(root / "ImageSets" / "Main" / f"{name}.txt", rows)


def _label_studio(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        write(root / "images" / f"{image_id}.jpg", jpeg)
        write(root / "Annotations" / f"{image_id}.xml", _xml(make_xml, image_id, 0))


def _label_studio_coco(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        write(root / "images" / f"{image_id}.jpg", jpeg)
    write(root / "result.json", coco(pictures, "images\\"))


def _cvat_coco(root, pictures, make_xml):
    for image_id, jpeg in pictures.items():
        write(root / "images" / "default" / f"{image_id}.jpg", jpeg)
    write(root / "annotations" / "instances_default.json", coco(pictures))


def _roboflow(root, pictures, make_xml):
    for split, ids in SPLITS.items():
        for image_id in ids:
            write(root / split / f"{image_id}.jpg", pictures[image_id])
            write(root / split / f"{image_id}.xml", _xml(make_xml, image_id, 1))


def _roboflow_coco(root, pictures, make_xml):
    for split, ids in SPLITS.items():
        for image_id in ids:
            write(root / split / f"{image_id}.jpg", pictures[image_id])
        write(root / split / "_annotations.coco.json", coco(ids, first=0))


def coco_2017(root, pictures, make_xml):
    for split, ids in (("train2017", IDS[:4]), ("val2017", IDS[4:])):
        for image_id in ids:
            write(root / split / f"{image_id}.jpg", pictures[image_id])
        write(root / "annotations" / f"instances_{split}.json", coco(ids))
    write(root / "annotations" / "captions_val2017.json", coco(IDS))


def lists(root, pictures, make_xml):
    _label_studio(root / "year", pictures, make_xml)
    for split, ids in (*SPLITS.items(), ("trainval", ("a", "b", "c", "d"))):
        name = {"valid": "val"}.get(split, split)
        write(root / "year" / "ImageSets" / "Main" / f"{name}.txt", "\n".join(ids))


# By their names in the table in docs/annotations.md.
TOOLS = {
    "labelImg (VOC)": _labelimg,
    'CVAT "Pascal VOC"': _cvat,
    'CVAT "COCO", Datumaro': _cvat_coco,
    "make-sense (VOC)": _make_sense,
    "labelme with `labelme2voc.py`": _labelme,
    "VoTT (VOC)": _vott,
    "Label Studio (VOC)": _label_studio,
    "Label Studio (COCO)": _label_studio_coco,
    "Roboflow (VOC)": _roboflow,
    "Roboflow (COCO)": _roboflow_coco,
}
