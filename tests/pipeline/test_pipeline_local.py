"""What a local run prints at its end."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tfx.types.standard_artifacts import ModelBlessing

from components.evaluation import OVERALL, Evaluation, Score
from data.fields import COMMON
from data.schema import SAMPLE_SCHEMA
from pipeline import local
from pipeline.config import load_config
from pipeline.pipeline import Inputs


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


@pytest.fixture
def ended(tmp_path, monkeypatch, capsys, caplog):
    """Returns the result and the output of a run that ends with these outputs."""
    caplog.set_level("INFO", "ssd")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "origin.json").write_text(json.dumps({"name": "pets"}))

    def ended(found, *settings, pushed=None, inferred=False, picture=None):
        outputs = {
            "ImportExampleGen": {"examples": [SimpleNamespace(uri=str(tmp_path / "examples"))]},
            "Evaluator": found,
            "Pusher": pushed and f"{tmp_path}/{pushed}",
            "DetectionReport": {"report": [SimpleNamespace(uri=f"{tmp_path}/report/7")]},
        }
        if inferred:
            outputs = {"SchemaGen": {"schema": [SimpleNamespace(uri="/schema/3")]}}
        inputs = Inputs(
            tmp_path, {"train": "t/*"}, COMMON, Path(SAMPLE_SCHEMA), ("star", "ring"), picture
        )
        monkeypatch.setattr(local, "prepare", lambda *_: inputs)
        monkeypatch.setattr(local, "run_with_progress", lambda *_, **__: outputs)
        monkeypatch.setattr(local, "evaluation_of", lambda found: found)
        monkeypatch.setattr(local, "is_blessed", lambda found: not found.failures)
        monkeypatch.setattr(local, "pushed_version", lambda found: found)
        config = dataclasses.replace(load_config("sample", settings), output=str(tmp_path / "out"))
        caplog.clear()
        return local.run(config), capsys.readouterr().out + caplog.text

    return ended


_SCORES = {"AP/star": Score(0.75), "AP/ring": Score(math.nan), "mAP": Score(0.75)}


def test_a_blessed_model_is_reported_with_how_to_try_it(ended, tmp_path):
    found = Evaluation({OVERALL: _SCORES}, {}, {}, ())
    picture = tmp_path / "photos" / "1.jpg"
    path, text = ended(found, pushed="out/serving/ssd/8", picture=picture)
    assert path == tmp_path / "report" / "7" / "report.html"
    assert "AP on pets, test (" in text
    for name, value in (("star", "0.7500"), ("ring", "-"), ("mAP", "0.7500")):
        assert re.search(rf"{name}\W+{value} ", text)
    assert "change:  not judged" in text
    assert "blessed: yes\npushed:  out/serving/ssd/8\n" in text, "with a bound that is set"
    assert re.search("try it:  .* photos/1.jpg --model out/serving/ssd\n", text)
    assert "report:  report/7/report.html" in text
    assert re.search(r"config:  out/runs/.*\.yaml", text)
    _, text = ended(found, "evaluator.min_map=0", pushed="out/serving/ssd/8")
    assert "blessed: yes\nbound:   none; to refuse worse models, --set eval" in text
    assert " IMAGE --model out/serving/ssd" in text


def test_an_unblessed_model_is_reported_with_its_failures(ended):
    path, text = ended(Evaluation({OVERALL: _SCORES}, {}, {}, ("mAP is low", "AP is low")))
    assert path
    assert "blessed: no\n  mAP is low\n  AP is low\npushed:  no\n" in text
    assert "bound:" not in text and "try it" not in text


def test_the_baselines_other_classes_are_reported_after_the_change(ended, monkeypatch):
    monkeypatch.setattr(local, "_other_classes", lambda _, classes: f"not trained for {classes}")
    scores = {"mAP": Score(0.1), "mAP_significant": Score(0.1)}
    _, text = ended(Evaluation({OVERALL: _SCORES}, {}, {OVERALL: scores}, ()))
    assert "latest blessed model\nnot trained for ('star', 'ring')\n" in text


def test_the_user_is_asked_to_review_an_inferred_schema(ended):
    path, text = ended(None, inferred=True)
    assert path is None
    assert "run with --set data.schema=/schema/3/schema.pbtxt" in text


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
