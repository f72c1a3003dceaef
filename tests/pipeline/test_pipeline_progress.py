"""The log lines of a local run, and what ML Metadata records in the meantime."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
import tensorflow as tf
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import (
    LatestBlessedModelStrategy,
)
from tfx.orchestration import metadata
from tfx.orchestration.pipeline import Pipeline, RunOptions
from tfx.types import Channel
from tfx.types.standard_artifacts import Model, ModelBlessing, PushedModel

from components import example_gen
from components.evaluation import OVERALL, Evaluation, Score
from data.fields import COMMON
from pipeline import progress
from pipeline.config import load_config
from pipeline.pipeline import BASE_MODEL, BASELINE, BASELINE_DATA, Inputs, create_pipeline
from pipeline.runs.home import relocate
from pipeline.runs.liveness import is_running
from pipeline.runs.store import runs_of


@pytest.fixture
def output(tmp_path):
    """An output folder with records of one split."""
    folder = tmp_path / "output"
    (folder / "records" / "train").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "records" / "train" / "a.gz"), "GZIP") as writer:
        writer.write(b"record")
    return folder


@pytest.fixture
def run(output, caplog):
    """Runs the pipeline's ImportExampleGen on the records of an output folder."""
    caplog.set_level("INFO", "ssd")

    def run(name, output=output):
        caplog.clear()
        inputs = Inputs(output / "records", {"train": "train/*"}, COMMON, None, ())
        config = metadata.sqlite_metadata_connection_config(str(output / "metadata.sqlite"))
        return progress.run_with_progress(
            create_pipeline(
                load_config("sample"),
                inputs,
                name="ssd-x",
                root=str(output / "pipeline"),
                serving_dir="",
                work_dir="",
                metadata_connection_config=config,
            ),
            RunOptions(to_nodes=["ImportExampleGen"]),
            run=name,
            output=output,
            known={"name": "mine", "data": "/pets"},
        )

    return run


def test_a_run_is_recorded_and_reports_what_came_from_the_cache(run, output, caplog):
    (examples,) = run("first")["ImportExampleGen"]["examples"]
    assert "ImportExampleGen ...\n" in caplog.text
    assert "ImportExampleGen done in " in caplog.text
    assert run("second")["ImportExampleGen"]["examples"][0].id == examples.id
    assert "ImportExampleGen cached in " in caplog.text
    tf.io.gfile.rmtree(examples.uri)
    run("third")
    assert "runs again because files of an earlier result are gone" in caplog.text
    assert "ImportExampleGen done in " in caplog.text
    runs = runs_of(output)
    assert [(r.id, r.name, r.data, r.finished, r.running) for r in runs] == [
        (name, "mine", "/pets", True, False) for name in ("first", "second", "third")
    ]


def test_a_moved_output_folder_keeps_its_results(run, output, caplog):
    run("first")
    moved = output.rename(output.with_name("moved"))
    relocate(moved / "metadata.sqlite")
    (examples,) = run("second", moved)["ImportExampleGen"]["examples"]
    assert "ImportExampleGen cached in " in caplog.text
    assert examples.uri.startswith(f"{moved}/pipeline/")


def test_a_first_run_says_which_baselines_are_missing(output, caplog):
    caplog.set_level("INFO", "ssd")
    missing = {
        BASELINE: "no blessed model yet, so no baseline",
        BASELINE_DATA: "no blessed model from other data",
        BASE_MODEL: "no blessed model yet to start from",
    }
    nodes = [
        Resolver(
            strategy_class=LatestBlessedModelStrategy,
            model=Channel(type=Model),
            model_blessing=Channel(type=ModelBlessing),
        ).with_id(name)
        for name in missing
    ]
    config = metadata.sqlite_metadata_connection_config(str(output / "metadata.sqlite"))
    pipeline = Pipeline("ssd-x", str(output), metadata_connection_config=config, components=nodes)
    progress.run_with_progress(pipeline, run="first", output=output, known={})
    for name, text in missing.items():
        assert re.search(f"{name} done in .* s: {text}\n", caplog.text)


@pytest.mark.parametrize(
    ("error", "what"), [(KeyboardInterrupt(), "interrupted"), (OSError("full"), "failed")]
)
def test_a_stopped_run_reports_the_component(run, output, monkeypatch, caplog, error, what):
    seen = []

    def stop(*_):
        seen.append((is_running(output, "first"), sys.argv))
        raise error

    monkeypatch.setattr(sys, "argv", ["ssd run", "--output=here"])
    monkeypatch.setattr(example_gen.Executor, "Do", stop)
    with pytest.raises(type(error)):
        run("first")
    # Beam would mistake our options for its own.
    assert seen == [(True, ["ssd run"])]
    assert f"ImportExampleGen {what} after " in caplog.text
    (stopped,) = runs_of(output)
    assert (stopped.name, stopped.finished, stopped.running) == ("mine", False, False)


@pytest.fixture
def described(tmp_path):
    """Returns the description of a component whose only output is a folder with a JSON file."""

    def described(component, key, file, content):
        (tmp_path / file).write_text(json.dumps(content))
        return progress._describe(component, {key: [SimpleNamespace(uri=str(tmp_path))]})

    return described


def test_the_gate_reports_counts_and_warnings(described):
    counts = {"pictures": 1, "objects": 1200, "objects_per_class": {"cat": 1000, "dog": 200}}
    findings = [
        {"check": "boxes", "level": "error", "text": "no area"},
        {"check": "sizes", "level": "warning", "text": "test is small"},
        {"check": "skew", "level": "warning", "text": "differs"},
    ]
    content = {"splits": {"train": counts}, "findings": findings}
    assert described("DataGate", "report", "data_gate.json", content).splitlines() == [
        "1 error, 2 warnings",
        "  train: 1 picture, 1,200 objects: cat=1000 dog=200",
        "  warning: a split is small, 1 found:",
        "  warning:   test is small",
        "  warning: the splits differ, 1 found:",
        "  warning:   differs",
    ]


@pytest.mark.parametrize(
    ("losses", "score", "text"),
    [
        ({"total": 1.23456}, 0.51239, "90 steps, loss 1.235, exported step 70 with mAP 0.5124 on"),
        (None, None, "90 steps"),
    ],
)
def test_the_training_reports_its_loss_and_the_exported_step(described, losses, score, text):
    exported = {"step": 70, "eval_map": score}
    content = {"trainer": {"steps": 90}, "losses": losses, "exported": exported}
    found = described("Trainer", "model_run", "summary.json", content)
    assert found.removesuffix(" eval") == text


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (
            {"problems": [], "equal": 7, "pictures": 8, "p50_ms": 5, "p99_ms": 9.6, "memory_mb": 3},
            "7 of 8 pictures equal, p99 10 ms, 3 MB, blessed",
        ),
        ({"problems": ["the server ended"], "pictures": 8}, "no answer, not blessed"),
    ],
)
def test_the_serving_check_reports_its_measurements(described, report, text):
    assert described("ServingCheck", "blessing", "serving_check.json", report) == text


def test_the_evaluation_reports_the_verdict(tmp_path, monkeypatch):
    found = Evaluation({OVERALL: {"mAP": Score(0.71239)}}, {}, {}, ())
    monkeypatch.setattr(progress, "evaluation_of", lambda _: found)
    outputs = {"blessing": [SimpleNamespace(uri=str(tmp_path))]}
    assert progress._describe("Evaluator", outputs) == "mAP 0.7124, not blessed"
    (tmp_path / "BLESSED").touch()
    assert progress._describe("Evaluator", outputs) == "mAP 0.7124, blessed"


def test_the_pusher_reports_the_version(tmp_path):
    artifact = PushedModel()
    artifact.set_string_custom_property("pushed_destination", "/serving/ssd/7")
    assert progress._describe("Pusher", {"pushed_model": [artifact]}) == "nothing pushed"
    artifact.set_int_custom_property("pushed", 1)
    assert progress._describe("Pusher", {"pushed_model": [artifact]}) == "pushed /serving/ssd/7"
    assert progress._describe("Transform", {}) == ""


@pytest.mark.parametrize(
    ("describe", "key", "found", "missing"),
    [
        (progress._baseline, "model", "baseline /a", "no blessed model yet, so no baseline"),
        (progress._baseline_data, "statistics", "baseline /a", "no blessed model from other data"),
        (progress._base_model, "model", "start from /a", "no blessed model yet to start from"),
        # From an importer.
        (progress._base_model, "result", "start from /a", "no blessed model yet to start from"),
    ],
)
def test_a_lookup_reports_what_it_found(describe, key, found, missing):
    execution = SimpleNamespace(output_dict={key: [SimpleNamespace(uri="/a")]})
    assert describe(execution) == found
    for nothing in (None, SimpleNamespace(output_dict=None), SimpleNamespace(output_dict={})):
        assert describe(nothing).startswith(missing)
