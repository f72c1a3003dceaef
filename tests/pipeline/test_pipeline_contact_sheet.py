from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.convert import convert
from data.options import ConversionOptions
from data.sample import SPLIT_LISTS, draw_sample
from data.schema import SAMPLE_SCHEMA, class_names, read_schema
from pipeline.contact_sheet import main
from trainer import contact_sheet


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sheet")
    draw_sample(folder / "sample", images=11)
    classes = class_names(read_schema(SAMPLE_SCHEMA))
    convert(
        folder / "sample", folder / "records", ConversionOptions(classes=classes, **SPLIT_LISTS)
    )
    return folder / "records"


def test_the_options_reach_the_drawing(tmp_path, records, monkeypatch):
    seen = []

    def draw(shards, _, classes, trainer, count, epoch):
        folders = {path.parent.name for path in map(Path, shards)}
        seen.append((folders, len(classes), trainer.augmentation, count, epoch))
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(contact_sheet, "draw_contact_sheet", draw)
    arguments = ["--data", str(records), "--output", str(tmp_path / "sheet.png")]
    assert main(arguments) == 0
    assert main([*arguments, "--count", "3", "--epoch", "2"]) == 0
    assert main([*arguments, "--set", "trainer.augmentation=none"]) == 0
    plain = ({"train"}, len(class_names(read_schema(SAMPLE_SCHEMA))))
    assert seen == [
        (*plain, "light", 16, 0),
        (*plain, "light", 3, 2),
        (*plain, "none", 16, 0),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.slow
def test_draws_a_sheet(tmp_path, records, capsys):
    path = tmp_path / "sheet.png"
    arguments = ["--data", str(records), "--output", str(path), "--count", "3"]
    sheets = []
    for more in ([], [], ["--epoch", "2"], ["--set", "trainer.augmentation=none"]):
        assert main([*arguments, *more]) == 0
        sheets.append(np.asarray(Image.open(path)))
    assert capsys.readouterr().out.splitlines() == [f"wrote {path}"] * 4
    assert list(tmp_path.iterdir()) == [path]
    first, again, *others = sheets
    np.testing.assert_array_equal(first, again)
    assert not any(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "sheet.jpg"], "--output sheet.jpg: give a name that ends in .png"),
        (["--output", "a.png", "--count", "0"], "--count must be at least 1"),
        (["--output", "a.png", "--epoch", "-1"], "--epoch at least 0"),
        (["--output", "a.png", "--preset", "sampel"], "--preset sampel"),
        (["--output", "a.png", "--data", "none"], "none: no such folder"),
        (["--output", "none/a.png"], "none/a.png: cannot write there (No such file"),
        (["--output", "a.png", "--set", "data.schema=infer"], "the classes are unknown"),
    ],
)
def test_wrong_options_are_reported(tmp_path, records, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    if "--data" not in arguments:
        arguments = [*arguments, "--data", str(records)]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
