"""A run can start with each labelling tool's folder and the options given in the docs."""

import json
import re
from pathlib import Path

import pytest
import tensorflow as tf

from data.fields import COMMON
from data.sources import find_source
from pipeline import inputs
from pipeline.config import load_config
from tests.data.tool_folders import BOX, IDS, TOOLS, lists

_DOCS = Path(__file__).resolve().parents[2] / "docs" / "annotations.md"
_ROWS = re.findall(
    r"^\| (.+?) \| (.+?) \| (.+?) \|$",
    _DOCS.read_text("utf-8").partition("\n## Tools\n")[2].partition("\n## ")[0],
    re.MULTILINE,
)
_OPTIONS = {
    tool: [
        f"data.{name.replace('-', '_')}={value or 'true'}"
        for name, value in re.findall(r"`--([a-z-]+)[ =]?([\w-]*)`", options)
    ]
    for tool, _, options in _ROWS
}
_GIVEN = {"train": {"a", "b", "c"}, "eval": {"d"}, "test": {"e"}}


@pytest.fixture(scope="module")
def pictures(make_jpeg) -> dict[str, bytes]:
    return {image_id: make_jpeg(seed=ord(image_id)) for image_id in IDS}


def _read(folder: Path) -> dict[str, set[str]]:
    """The pictures of each split; checks the box of each."""
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
            assert sides == pytest.approx(BOX, abs=1e-4)
            name = feature[COMMON.filename].bytes_list.value[0].decode()
            found.setdefault(path.parent.name, set()).add(name.removesuffix(".jpg"))
    return found


def _prepare(lay_out, settings, folder, pictures, make_xml):
    """The inputs of a run, and the pictures in each split."""
    lay_out(folder / "set", pictures, make_xml)
    config = load_config("light", ["data.classes=auto", *settings])
    found = inputs.prepare(config, folder / "set", folder / "output")
    return found, _read(found.records)


def test_every_tool_in_the_docs_has_a_folder_here():
    assert TOOLS.keys() == _OPTIONS.keys() - {"tool and export", "Pascal VOC", "COCO"}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_run_can_start_with_the_folder_of_a_tool(tool, tmp_path, pictures, make_xml):
    found, splits = _prepare(TOOLS[tool], _OPTIONS[tool], tmp_path, pictures, make_xml)
    assert splits.keys() == {"train", "eval", "test"}
    assert sorted(image_id for ids in splits.values() for image_id in ids) == IDS
    given = tool.startswith("Roboflow")
    assert not given or splits == _GIVEN
    report = json.loads((found.records / "report.json").read_text())
    assert given != any("by content" in note for note in report["notes"])
    assert report["rejected"] == 0
    assert found.classes == ("dog",)
    assert found.schema_path == found.records / "schema.pbtxt"
    assert found.picture.suffix == ".jpg"
    files = {path.name for path in find_source(tmp_path / "set").files()}
    assert {f"{image_id}.jpg" for image_id in IDS} <= files


@pytest.mark.parametrize(("settings", "given"), [([], True), (["data.split=60/20/20"], False)])
def test_lists_give_the_splits_unless_shares_are_given(
    settings, given, tmp_path, pictures, make_xml
):
    settings = ["data.pixels_from=0", *settings]
    _, splits = _prepare(lists, settings, tmp_path, pictures, make_xml)
    assert splits.keys() == {"train", "eval", "test"}
    assert not given or splits == _GIVEN
