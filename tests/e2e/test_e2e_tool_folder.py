"""From a labelling tool's folder to a pushed model, with the command in the README."""

import json
import re

import pytest

from data.voc import read_annotation

pytestmark = pytest.mark.e2e

_PICTURES = {"train": 24, "valid": 4, "test": 4}


@pytest.fixture(scope="module")
def folder(voc_fixtures, tmp_path_factory):
    """Real pictures in Roboflow's COCO export: equal file names, a category that groups others."""
    year = voc_fixtures / "voc2007_300" / "VOCdevkit" / "VOC2007"
    found = (read_annotation(path) for path in sorted((year / "Annotations").glob("*.xml")))
    persons = (item for item in found if any(o.name == "person" for o in item.objects))
    root = tmp_path_factory.mktemp("roboflow")
    for split, count in _PICTURES.items():
        (root / split).mkdir()
        images, boxes = [], []
        for number in range(count):
            annotation = next(persons)
            name = f"{number}_jpg.rf.0a1b.jpg"
            picture = year / "JPEGImages" / annotation.filename
            (root / split / name).symlink_to(picture)
            size = {"width": annotation.width, "height": annotation.height}
            images.append({"id": number, "file_name": name, **size})
            for item in annotation.objects:
                xmin, ymin, xmax, ymax = item.box_px
                box = [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]
                category = 1 if item.name == "person" else 2
                boxes.append({"image_id": number, "category_id": category, "bbox": box})
        categories = [
            {"id": 0, "name": "things", "supercategory": "none"},
            {"id": 1, "name": "person", "supercategory": "things"},
            {"id": 2, "name": "thing", "supercategory": "things"},
        ]
        document = {"images": images, "annotations": boxes, "categories": categories}
        (root / split / "_annotations.coco.json").write_text(json.dumps(document))
    return root


def test_one_command_turns_a_tools_folder_into_a_model(folder, run_python, tmp_path):
    settings = ("data.classes=auto", "trainer.epochs=1", "trainer.batch_size=4")
    words = [word for setting in settings for word in ("--set", setting)]
    done = run_python(
        *("local_runner.py", "--preset", "light", "--data", folder, "--output", tmp_path, *words)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "category 0 (things) only groups others and is left out" in done.stdout
    for split, count in zip(("train", "eval", "test"), _PICTURES.values(), strict=True):
        assert re.search(rf"^  {split}: {count} pictures, \d+ objects: ", done.stdout, re.M)
    assert f"AP on {folder.name}, test (11-point" in done.stdout
    assert re.search(r"│ person +│", done.stdout)
    assert re.search(rf"^pushed:  {tmp_path}/serving/ssd/\d+$", done.stdout, re.M)
