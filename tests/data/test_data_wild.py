"""Annotations from the wild: a folder of cases with the expected values (`wild/check.py`)."""

import importlib.util
import json
from types import SimpleNamespace

import pytest

from data.convert import main

# Cases whose expectations contradict their files: by its categories, the first has a dog in b.jpg
# and not a cat; the second has no annotation for a.jpg.
_CONTRADICTORY = {
    "coco_root_category": "b.jpg: objects [['dog', 10.",
    "coco_unknown_image": "a.jpg: objects [], not [['cat', 10, 20, 40, 50]]",
}


@pytest.mark.e2e
def test_wild_cases(voc_fixtures, monkeypatch, capsys):
    folder = voc_fixtures / "wild"
    spec = importlib.util.spec_from_file_location("check", folder / "check.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)

    def run(command, **_):
        # In this process, since the imports of separate ones would take minutes.
        status = main(command[command.index("data.convert") + 1 :])
        output = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=output.out, stderr=output.err)

    monkeypatch.setattr(check.subprocess, "run", run)
    cases = sorted(path.parent for path in folder.glob("*/expect.json"))
    assert len(cases) >= 23
    found = {case.name: check.differences(case) for case in cases}
    for name, text in _CONTRADICTORY.items():
        (difference,) = found.pop(name)
        assert text in difference
    assert found == dict.fromkeys(found, [])


def test_messages_fit_a_terminal(voc_fixtures, tmp_path, capsys):
    case = voc_fixtures / "wild" / "exif_swapped_hint"
    options = json.loads((case / "expect.json").read_text())["options"]
    arguments = ["--voc", str(case), "--train", "VOC2007/train", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--classes", "cat", *options]) == 2
    lines = capsys.readouterr().err.split("error: ")[1].splitlines()
    assert lines[1].startswith("  1 picture: an EXIF tag rotates the picture")
    assert all(len(line) <= 80 or str(case) in line for line in lines)

    done = ["--exif", "upright", "--split", "1/0/0", "--classes", "auto"]
    assert main(["--voc", str(case), "--output", str(tmp_path / "out"), *done]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("split 100/0/0 by content: ") for line in lines)
    assert all(len(line) <= 80 or str(tmp_path) in line or str(case) in line for line in lines)
