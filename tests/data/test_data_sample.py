import re
import shlex

import numpy as np
import pytest

from data import convert as command_line
from data.convert import convert
from data.errors import DataError
from data.options import ConversionOptions
from data.sample import SPLIT_LISTS, draw_sample, main
from data.schema import SAMPLE_SCHEMA, class_names, read_schema
from data.shapes import draw_scene
from data.textures import draw_background
from data.voc import read_annotation, read_image_set


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "out"
    draw_sample(folder, images=110, seed=3)
    return folder


def test_same_seed_same_bytes(tmp_path, sample):
    draw_sample(tmp_path / "again", images=110, seed=3)
    assert _files(tmp_path / "again") == _files(sample)


def test_other_seed_other_pictures(tmp_path, sample):
    draw_sample(tmp_path / "other", images=110, seed=4)
    jpeg = "VOCdevkit/VOC2007/JPEGImages/000001.jpg"
    assert (tmp_path / "other" / jpeg).read_bytes() != (sample / jpeg).read_bytes()


def test_lists_share_no_picture(sample):
    main_folder = sample / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    lists = {path.stem: read_image_set(path) for path in main_folder.iterdir()}
    assert {name: len(ids) for name, ids in lists.items()} == {
        "train": 80,
        "val": 10,
        "trainval": 90,
        "test": 20,
    }
    assert lists["trainval"] == lists["train"] + lists["val"]
    assert len({*lists["trainval"], *lists["test"]}) == 110


def test_some_objects_are_difficult_truncated_or_occluded(sample):
    folder = sample / "VOCdevkit" / "VOC2007" / "Annotations"
    annotations = [read_annotation(path) for path in folder.iterdir()]
    objects = [item for annotation in annotations for item in annotation.objects]
    assert {item.name for item in objects} == set(class_names(read_schema(SAMPLE_SCHEMA)))
    for flag in ("difficult", "truncated", "occluded"):
        assert 0 < sum(getattr(item, flag) for item in objects) < len(objects) / 2
    assert {len(annotation.objects) for annotation in annotations} >= {1, 2, 3, 4, 5}


def test_converts_without_a_rejected_picture(tmp_path, sample):
    classes = class_names(read_schema(SAMPLE_SCHEMA))
    report = convert(
        sample, tmp_path / "records", ConversionOptions(classes=classes, **SPLIT_LISTS)
    )
    assert {split: counts.total.images for split, counts in report.splits.items()} == {
        "train": 80,
        "eval": 10,
        "test": 20,
    }
    assert report.rejected == 0


@pytest.mark.parametrize("seed", range(12))
def test_boxes_fit_what_was_painted(seed):
    scene = draw_scene(np.random.default_rng(seed))
    # The same generator draws the same background first, so the rest is what was painted over it.
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(200, 321, size=2))
    assert scene.image.size == (width, height)
    background = np.clip(draw_background(rng, width, height), 0, 255).transpose(1, 2, 0)
    change = np.abs(np.asarray(scene.image) - np.floor(background)).max(axis=2)

    near_objects = np.zeros((height, width), bool)
    for item in scene.objects:
        xmin, ymin, xmax, ymax = item.box_px
        assert 1 <= xmin <= xmax <= width
        assert 1 <= ymin <= ymax <= height
        shadow = 12
        near_objects[
            max(ymin - shadow, 0) : ymax + shadow, max(xmin - shadow, 0) : xmax + shadow
        ] = 1
        # All four edges of the box touch something painted.
        box = change[ymin - 1 : ymax, xmin - 1 : xmax]
        assert min(box[0].max(), box[-1].max(), box[:, 0].max(), box[:, -1].max()) > 5
    assert change[~near_objects].max(initial=0) <= 1


def test_scenes_without_objects_exist():
    assert any(not draw_scene(np.random.default_rng((0, n))).objects for n in range(200))


@pytest.mark.parametrize("images", [0, 5, -3])
def test_too_few_pictures(tmp_path, images):
    with pytest.raises(DataError, match=f"--images {images}: too few"):
        draw_sample(tmp_path / "out", images=images)
    assert not (tmp_path / "out").exists()


def test_command_line(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "an out"), "--images", "6"]
    assert main(arguments) == 0
    (command,) = re.findall("ssd convert (.*)", capsys.readouterr().out)
    named = command_line._parser().parse_args(shlex.split(command))
    assert (named.voc, named.train) == (tmp_path / "an out", ["VOC2007/train"])
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
