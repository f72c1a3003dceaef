"""What a local run prints at its end."""

import json
import math
import sys

import pytest
from tfx.types.standard_artifacts import ModelBlessing

from components.evaluation import OVERALL, Evaluation, Score
from pipeline import local


def evaluation(change=None, counted=0.0):
    changes = change and {OVERALL: {"mAP": change, "mAP_significant": Score(counted)}}
    return Evaluation({}, {}, changes or {}, ())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "change:  not judged, there is no blessed model yet"),
        ((Score(-0.02), -0.02), "change:  -0.0200 mAP against the latest blessed model"),
        (
            (Score(0.02, -0.01, 0.05), 0.0),
            "interval -0.0100 to +0.0500: not significant, treated as 0",
        ),
        ((Score(0.02, 0.01, 0.03), 0.02), "95 % interval +0.0100 to +0.0300"),
    ],
)
def test_the_change_and_whether_it_counts(arguments, text):
    line = local._change(evaluation(*arguments))
    assert line.endswith(text)


@pytest.mark.parametrize(
    ("score", "cells"),
    [
        (Score(0.5), ("0.5000", "")),
        (Score(0.97, 0.9, 1.04), ("0.9700", "0.9000 - 1.0000")),
        (Score(math.nan), ("-", "")),
    ],
)
def test_a_class_without_objects_has_no_ap(score, cells):
    assert local._cells(score) == cells


@pytest.mark.parametrize(
    ("score", "end"),
    [
        (Score(0.519), "evaluator.min_map=0.51"),
        (Score(0.6, 0.519, 0.7), "evaluator.min_map=0.51"),
        (Score(0.001), "bound:   none"),
    ],
)
def test_a_bound_is_suggested_if_there_is_one_to_set(score, end):
    assert local._how_to_bound(score).endswith(end)


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (["cat", "dog"], ""),
        (["dog", "cat"], ""),
        (["cat"], "it was not trained for dog and finds none"),
        (["cat", "dog", "emu"], "its detections of emu are ignored"),
        (["emu", "dog"], "it was not trained for cat and finds none; its detections of emu are"),
    ],
)
def test_a_baseline_with_other_classes_is_noted(tmp_path, known, text):
    folder = tmp_path / "Format-Serving" / "assets.extra"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"classes": known}))
    blessing = ModelBlessing()
    blessing.set_string_custom_property("baseline_model", str(tmp_path))
    note = local._other_classes({"blessing": [blessing]}, ("cat", "dog"))
    assert note.strip().startswith(text) and bool(note) == bool(text)


@pytest.mark.parametrize(
    ("started_as", "path", "command"),
    [
        ("ssd run", "venv/bin", "ssd predict"),
        ("ssd run", "elsewhere", "venv/bin/ssd predict"),
        ("local_runner.py", "venv/bin", "venv/bin/python -m serving.predict"),
    ],
)
def test_the_hint_matches_how_the_user_started_the_run(
    started_as, path, command, tmp_path, monkeypatch
):
    for name in ("venv/bin/ssd", "venv/bin/python", "elsewhere/ssd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / path))
    monkeypatch.setattr(sys, "argv", [started_as])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    assert " ".join(local._predict_command()) == command
