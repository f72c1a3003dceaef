"""What led to a model, with current paths, as an answer and as a table."""

import json
import re

import pytest

from data.settings_file import write_settings
from pipeline.config import load_config
from pipeline.runs import questions
from pipeline.runs.__main__ import main
from pipeline.runs.home import run_file
from pipeline.runs.store import read_runs
from tests.pipeline.recorder import Recorder, run_facts


@pytest.fixture
def traced(tmp_path):
    """The folder of a run whose artifacts are no longer where its facts say, and the store."""
    recorder = Recorder(tmp_path)
    recorder.run("2026-01-01", name="mine", data="/pets")
    facts = run_facts(0.75, "f1", 100)
    interval = {"low": 0.5, "high": 0.875}
    facts["evaluation"]["map"] |= interval
    facts["evaluation"]["thresholds"].append(
        {"metric": "AP/cat", "slice": "size=small", "bound": "≥ 0.9", "measured": None}
        | {"ok": False, "why": "no objects"}
    )
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    made = {
        name: recorder.artifact("Made", f"/now/{name}")
        for name in ("examples", "base_model", "model", "model_run", "baseline_model", "pushed")
    }
    recorder.step("ImportExampleGen", (), {"examples": made["examples"]}, input_base="/records")
    trained = {key: made[key] for key in ("model", "model_run")}
    recorder.step("Trainer", {"base_model": made["base_model"]}, trained, code_version="c0de")
    read = {key: made[key] for key in ("model", "baseline_model")}
    recorder.step("Evaluator", read, {})
    card = recorder.artifact("ModelCardFolder", tmp_path, mAP=0.75)
    recorder.step("ModelCard", (), {"card": card})
    return tmp_path, recorder.store


def test_paths_come_from_the_artifacts_not_from_the_facts(traced):
    trace = questions.trace(read_runs(traced[1]), "/now/model")
    assert (trace["base_model"], trace["baseline"]) == ("/now/base_model", "/now/baseline_model")
    assert trace["checkpoint"] == "/now/model_run/checkpoints/step-100.npz"
    assert trace["data"]["source"] == "/pets"
    assert (trace["data"]["span"], trace["pushed"]) == (None, None)
    assert trace["exported"] == {"step": 99, "eval_map": 0.75}


def test_every_fact_is_in_the_table(traced, capsys):
    assert main(["--output", str(traced[0]), "trace", "/now/model"]) == 0
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        name, *values = re.split(r"  +", line.strip(), maxsplit=1)
        rows[name] = values[0] if values else ""
    started = rows.pop("run")
    assert started.startswith("1, mine, preset tiny, started 2")
    expected = {
        "model": "/now/model",
        "pushed as": "-",
        "data set": "pets",
        "data": "/pets",
        "records": "/records",
        "span": "-",
        "version": "-",
        "left out": "1 of 9 pictures: the picture is damaged (1)",
        "base weights": "vgg.h5",
        "base model": "/now/base_model",
        "starting weights": "sha256 0123456789abcdef",
        "checkpoint": "/now/model_run/checkpoints/step-100.npz",
        "exported": "step 99, mAP 0.7500 on eval",
        "compared with": "/now/baseline_model",
        "blessed": "yes",
        "code of Trainer": "c0de",
        "packages": "tfx 1.16.0",
        "cat": "0.7500",
        "trainer.steps": "100",
    }
    assert {name: rows[name] for name in expected} == expected
    assert re.sub(" +", " ", rows["train"]) == "9 12 f1"
    assert re.sub(" +", " ", rows["AP/cat"]) == "size=small ≥ 0.9 - no no objects"


def test_without_files_runs_are_compared_by_classes_slices_and_bounds(tmp_path):
    recorder = Recorder(tmp_path)
    for name, least in (("pets", 0.5), ("dogs", 0.75)):
        recorder.run(name)
        training = {"preset": "tiny", "trainer": {"steps": 1}, "classes": [name]}
        recorder.step("Trainer", custom_config=json.dumps(training))
        spec = {"per_slice_thresholds": {"mAP": least}}
        config = {"slicing_specs": [name], "options": {"x": name}, "metrics_specs": [spec]}
        recorder.step("Evaluator", eval_config=json.dumps(config))
    first, second = read_runs(recorder.store)
    assert questions.diff(first, second)["configuration"] == {
        "classes": [["pets"], ["dogs"]],
        "evaluator.slices": [["pets"], ["dogs"]],
        "evaluator.options.x": ["pets", "dogs"],
        "evaluator.thresholds": [[{"mAP": 0.5}], [{"mAP": 0.75}]],
    }
    for run in ("pets", "dogs"):
        write_settings(run_file(tmp_path, run), load_config("sample"))
    first, second = read_runs(recorder.store, tmp_path)
    assert questions.diff(first, second)["configuration"] == {"classes": [["pets"], ["dogs"]]}
