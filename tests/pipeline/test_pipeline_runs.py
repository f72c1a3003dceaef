"""Runs in ML Metadata, read from a store that the test writes."""

import dataclasses
import io
import json
import re
import subprocess
import sys

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from rich.console import Console

from data.errors import DataError
from data.settings_file import write_settings
from pipeline.config import load_config
from pipeline.runs import questions, tables
from pipeline.runs.__main__ import main
from pipeline.runs.home import Move, home_of, relocate, run_file
from pipeline.runs.liveness import is_running, marked_as_running
from pipeline.runs.store import connect, find_run, mysql_config, read_runs
from tests.pipeline.recorder import Recorder, record_run, run_facts


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Two complete runs and one that failed in training."""
    folder = tmp_path_factory.mktemp("output")
    recorder = Recorder(folder)
    record_run(recorder, "2026-01-01", 0.75, "f1", 100, "1700000001")
    record_run(recorder, "2026-01-02", 0.5, "f2", 200, None)
    recorder.run("2026-01-03")
    recorder.step("ImportExampleGen", state=mlmd.Execution.CACHED)
    recorder.step("Trainer", state=mlmd.Execution.FAILED)
    recorder.run("2026-01-04")
    return folder


@pytest.fixture(scope="module")
def runs(output):
    return read_runs(connect(str(output / "metadata.sqlite")))


def test_a_model_is_traced_by_the_last_run_that_used_it(tmp_path):
    """A repeated run takes everything from the cache, except that it writes a new card here."""
    recorder = Recorder(tmp_path)
    record_run(recorder, "first", 0.75, "f1", 100, "1700000001")
    artifacts = {
        a.uri.removeprefix(f"{tmp_path}/first/"): a.id for a in recorder.store.get_artifacts()
    }
    recorder.run("again")
    cached = {"state": mlmd.Execution.CACHED}
    examples = {"examples": artifacts["examples"]}
    recorder.step("ImportExampleGen", (), examples, input_base="/records", **cached)
    model = {"model": artifacts["model"]}
    recorder.step("Trainer", examples, model, code_version="code100", **cached)
    folder = tmp_path / "again"
    folder.mkdir()
    facts = run_facts(0.75, "f1", 100) | {"packages": {"keras": "of the second card"}}
    (folder / "facts.json").write_text(json.dumps(facts))
    recorder.step("ModelCard", model, {"card": recorder.artifact("ModelCardFolder", folder)})
    recorder.step("Pusher", model, {"pushed_model": artifacts["pushed"]}, **cached)
    recorder.run("other")
    runs = read_runs(connect(str(tmp_path / "metadata.sqlite")))
    for wanted in ("1700000001", str(tmp_path / "first" / "model")):
        trace = questions.trace(runs, wanted)
        assert trace["run"]["number"] == 2
        assert trace["packages"] == {"keras": "of the second card"}
        assert trace["code_versions"] == {"Trainer": "code100"}
        assert trace["pushed"] == f"{tmp_path}/serving/1700000001"


def test_runs_are_listed_with_their_results(runs):
    first, second, third = map(questions.summary, runs)
    del first["started"]
    assert first == {
        "number": 1,
        "id": "2026-01-01",
        "name": "tiny",
        "preset": "tiny",
        "state": "complete",
        "mAP": 0.75,
        "blessed": True,
        "pushed": "1700000001",
    }
    assert [second[key] for key in ("mAP", "blessed", "pushed")] == [0.5, False, None]
    assert [third[key] for key in ("mAP", "blessed", "pushed")] == [None] * 3
    assert (third["state"], third["preset"]) == ("Trainer failed", "tiny")


def test_a_run_shows_what_each_component_read_and_wrote(runs, output):
    steps = {step["component"]: step for step in questions.show(runs[0])["steps"]}
    assert list(steps) == ["ImportExampleGen", "Trainer", "Evaluator", "ModelCard", "Pusher"]
    ((key, (examples,)),) = steps["Trainer"]["inputs"].items()
    assert (key, examples["type"]) == ("examples", "Examples")
    assert examples["uri"] == str(output / "2026-01-01/examples")
    assert [a["uri"] for a in steps["Trainer"]["outputs"]["model"]] == [
        str(output / "2026-01-01/model")
    ]


@pytest.mark.parametrize(
    "wanted", ["1700000001", "{}/serving/1700000001/", "{}/2026-01-01/model/Format-Serving"]
)
def test_a_pushed_model_is_traced_to_data_code_and_settings(runs, output, wanted):
    trace = questions.trace(runs, wanted.format(output))
    assert trace["run"]["number"] == 1
    assert (trace["data"]["name"], trace["data"]["records"]) == ("pets", "/records")
    assert trace["data"]["left_out"] == "1 of 9 pictures: the picture is damaged (1)"
    assert (trace["data"]["span"], trace["data"]["version"]) == (3, 1)
    assert trace["data"]["splits"] == {
        "train": {"pictures": 9, "objects": 12, "left_out": ["0007"], "fingerprint": "f1"}
    }
    assert trace["code_versions"] == {"Trainer": "code100", "Evaluator": "metric1"}
    assert trace["configuration"]["trainer.steps"] == 100
    assert (trace["base_weights"], trace["checkpoint"]) == ("vgg.h5", "step-100.npz")
    assert trace["base_model"] == "/serving/1"
    assert trace["starting_weights_sha256"] == "0123456789abcdef"
    assert trace["exported"]["step"] == 99
    assert trace["thresholds"][0]["measured"] == 0.75
    assert trace["artifacts"]["Trainer.model"] == str(output / "2026-01-01/model")


def test_an_unknown_model_lists_the_pushed_versions(runs):
    with pytest.raises(DataError, match="1700000002: no run.*1700000001"):
        questions.trace(runs, "1700000002")


def test_missing_facts_are_reported(tmp_path):
    recorder = Recorder(tmp_path)
    record_run(recorder, "run", 0.8, "f", 1, "7")
    (tmp_path / "run/facts.json").unlink()
    with pytest.raises(DataError, match="facts.json.*--from ModelCard"):
        questions.trace(read_runs(recorder.store), "7")


def test_two_runs_differ_in_settings_data_code_and_scores(runs):
    diff = questions.diff(runs[0], runs[1])
    assert diff["configuration"] == {"trainer.steps": [100, 200]}
    assert diff["data"] == {"train.fingerprint": ["f1", "f2"]}
    assert diff["code"] == {"Trainer": ["code100", "code200"]}
    assert diff["AP"]["cat"] == {"values": [0.75, 0.5], "change": -0.25}
    same = questions.diff(runs[0], runs[0])
    assert (same["configuration"], same["data"], same["code"]) == ({}, {}, {})


def test_two_local_runs_differ_in_any_setting(tmp_path):
    recorder = Recorder(tmp_path)
    for name, overrides in (("first", ()), ("second", ("serving.max_memory_mb=9", "data.path=x"))):
        record_run(recorder, name, 0.8, "f", 1, name)
        write_settings(run_file(tmp_path, name), load_config("sample", overrides))
    runs = read_runs(recorder.store, tmp_path)
    assert questions.diff(*runs)["configuration"] == {
        "data.path": ["", "x"],
        "serving.max_memory_mb": [2000.0, 9.0],
    }
    # If one file is missing, both configurations come from ML Metadata.
    run_file(tmp_path, "first").unlink()
    assert "serving.max_memory_mb" not in questions.diff(*read_runs(recorder.store, tmp_path))


def test_a_run_without_facts_can_be_compared(runs):
    diff = questions.diff(runs[0], runs[2])
    assert diff["AP"]["mAP"] == {"values": [0.75, None], "change": None}


def test_runs_are_found_by_number_name_or_latest(runs):
    assert find_run(runs, "2") is find_run(runs, "2026-01-02") is runs[1]
    assert find_run(runs, "latest") is runs[2]
    for wanted, message in (("9", "no such run"), ("2026", "more than one run")):
        with pytest.raises(DataError, match=message):
            find_run(runs, wanted)
    with pytest.raises(DataError, match="no runs yet"):
        find_run([], "latest")


def test_the_commands_write_nothing(output):
    file = output / "metadata.sqlite"
    before = file.read_bytes()
    for command in (["list"], ["show", "1"], ["trace", "1700000001"], ["diff", "1", "2"]):
        assert main([*command, "--output", str(output), "--json"]) == 0
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "command, shown",
    [
        ([], ["1700000001", "0.7500", "failed"]),
        (["show", "2"], ["Evaluator: complete", "wrote model (Model"]),
        (
            ["trace", "1700000001"],
            ["vgg.h5", "step-100.npz", "f1", "≥ 0.7", "code100", "left out of train, 1: 0007"],
        ),
        (["diff", "1", "2"], ["trainer.steps", "-0.2500", "f2"]),
    ],
)
def test_tables_show_the_answers_and_json_is_valid(output, capsys, command, shown):
    assert main(["--output", str(output), *command]) == 0
    text = capsys.readouterr().out
    assert [part for part in shown if part not in text] == []
    assert main(["--output", str(output), "--json", *command]) == 0
    json.loads(capsys.readouterr().out)


def test_80_columns_are_enough(runs):
    text = io.StringIO()
    console = Console(file=text, width=80)
    stopped = questions.summary(runs[0]) | {"name": "sample", "state": "StatisticsGen interrupted"}
    tables.print_runs(console, [stopped | {"pushed": "1700000001", "mAP": 0.5}])
    assert "StatisticsGen\n" in re.sub(" +\n", "\n", text.getvalue()), "broken within the word"
    text.truncate(0)
    uri = "/a/folder/with a name/that/is/as/long/as/a/line/of/the/terminal/examples/13"
    artifact = {"type": "Examples", "id": 8, "uri": uri}
    step = {"component": "ImportExampleGen", "state": "cached", "seconds": None, "inputs": {}}
    steps = [step | {"outputs": {"examples": [artifact]}}]
    tables.print_run(console, stopped | {"steps": steps})
    assert f"\n  wrote examples (Examples 8):\n    {uri}\n" in text.getvalue()


def test_missing_and_unreachable_metadata_are_reported(tmp_path, capfd):
    assert main(["--output", str(tmp_path)]) == 2
    assert "metadata.sqlite: no metadata there" in capfd.readouterr().err
    (tmp_path / "metadata.sqlite").write_text("not a database")
    assert main(["--output", str(tmp_path)]) == 2
    assert "error: " in capfd.readouterr().err
    assert main(["--metadata", "mysql://me:secret@127.0.0.1:1/mlmd"]) == 2
    assert "mysql://me:...@127.0.0.1:1/mlmd" in capfd.readouterr().err


def test_an_address_becomes_mysql_settings():
    mysql = mysql_config("mysql://me:p%40ss@db.example:3307/mlmd").mysql
    assert (mysql.host, mysql.port, mysql.database) == ("db.example", 3307, "mlmd")
    assert (mysql.user, mysql.password, mysql.skip_db_creation) == ("me", "p@ss", True)
    assert mysql_config("mysql://db.example/mlmd").mysql.port == 3306
    for wrong in ("postgres://db/mlmd", "mysql://db:number/mlmd", "mysql://db"):
        with pytest.raises(DataError, match="write mysql://"):
            mysql_config(wrong)


def test_the_command_starts_without_tensorflow(output):
    code = (
        "import sys; from pipeline.runs.__main__ import main; "
        f"main(['--output', {str(output)!r}]); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("False")


def test_a_runs_state_shows_whether_it_is_running_was_killed_or_cached(tmp_path):
    recorder = Recorder(tmp_path)
    for name, state in (("killed", mlmd.Execution.RUNNING), ("at work", mlmd.Execution.RUNNING)):
        recorder.run(name, name="cells light", finished=0)
        recorder.step("Trainer", state=state)
    recorder.run("between two components", finished=0)
    recorder.step("Trainer")
    recorder.run("again", finished=1)
    recorder.step("Trainer", state=mlmd.Execution.CACHED)
    recorder.step("latest_blessed_model", kind="Resolver")
    with marked_as_running(tmp_path, "at work"):
        runs = read_runs(recorder.store, tmp_path)
    assert [questions.summary(run)["state"] for run in runs] == [
        "Trainer interrupted",
        "Trainer running",
        "interrupted after Trainer",
        "cached",
    ]
    assert [run.name for run in runs] == ["cells light", "cells light", "tiny", "tiny"]
    assert find_run(runs[1:3], "tiny") is runs[2], "by the user's name"
    # With a remote database, live processes are unknown.
    assert questions.summary(read_runs(recorder.store)[0])["state"] == "Trainer running"


def test_a_lock_lives_as_long_as_its_process(tmp_path):
    code = (
        "import sys, pathlib; from pipeline.runs.liveness import marked_as_running\n"
        f"with marked_as_running(pathlib.Path({str(tmp_path)!r}), 'run'):\n"
        "    print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    assert is_running(tmp_path, "run")
    assert not is_running(tmp_path, "other")
    process.kill()
    process.communicate()
    assert not is_running(tmp_path, "run")
    with marked_as_running(tmp_path, "next"):
        assert [path.name for path in (tmp_path / "running").iterdir()] == ["next.lock"]
        with marked_as_running(tmp_path, "another"):
            assert is_running(tmp_path, "next")
    assert not list((tmp_path / "running").iterdir())


@pytest.fixture
def moved(tmp_path):
    """An output folder that was moved after a run."""
    old, new = tmp_path / "old", tmp_path / "archive" / "new"
    old.mkdir()
    recorder = Recorder(old)
    record_run(recorder, "2026-01-01", 0.75, "f1", 100, "1700000001")
    recorder.run("2026-01-02", data=f"{old}/pets")
    made = recorder.artifact(
        "Made", old / "pipeline/Trainer/model/7", pushed_destination=f"{old}/s"
    )
    beside = recorder.artifact("Made", f"{old}-2/pipeline")
    settings = {"base": str(old), "beside": f"{old}-2/x", "inside": f"/x{old}/y"}
    recorder.step(
        "Trainer", {"beside": beside}, {"model": made}, custom_config=json.dumps(settings)
    )
    new.parent.mkdir()
    old.rename(new)
    return old, new


def test_only_the_file_of_a_run_has_a_home(tmp_path):
    assert home_of(run_file(tmp_path, "first")) is None
    (tmp_path / "metadata.sqlite").touch()
    assert home_of(run_file(tmp_path, "first")) == tmp_path
    assert home_of(tmp_path / "own.yaml") is None


def test_paths_follow_a_moved_folder(moved):
    old, new = moved
    runs = read_runs(connect(str(new / "metadata.sqlite")), new)
    trace = questions.trace(runs, str(new / "serving" / "1700000001"))
    assert trace["mAP"]["value"] == 0.75
    assert trace["pushed"] == f"{new}/serving/1700000001"
    assert runs[1].data == f"{new}/pets"
    step = runs[1].step("Trainer")
    assert step.output("model").uri == f"{new}/pipeline/Trainer/model/7"
    assert step.output("model").properties["pushed_destination"] == f"{new}/s"
    assert step.inputs["beside"][0].uri == f"{old}-2/pipeline"
    assert json.loads(step.parameters["custom_config"]) == {
        "base": str(new),
        "beside": f"{old}-2/x",
        "inside": f"/x{old}/y",
    }


def test_a_run_in_a_moved_folder_updates_the_metadata(moved):
    old, new = moved
    file = new / "metadata.sqlite"
    before = read_runs(connect(str(file)), new)
    assert relocate(file) == Move(str(old), str(new))
    assert relocate(file) is None
    assert read_runs(connect(str(file))) == [
        dataclasses.replace(run, running=None) for run in before
    ]


def test_a_copied_model_is_recognised_by_its_identity(output, runs, tmp_path):
    copied = tmp_path / "elsewhere" / "7" / "assets.extra"
    copied.mkdir(parents=True)
    identity = run_facts(0.75, "f1", 100)["model"]
    (copied / "model.json").write_text(json.dumps(identity))
    for place in (tmp_path / "elsewhere", tmp_path / "elsewhere" / "7"):
        assert questions.trace(runs, str(place))["run"]["number"] == 1
    (copied / "model.json").write_text(json.dumps({**identity, "weights_sha256": "other"}))
    with pytest.raises(DataError, match="no run made or pushed this model"):
        questions.trace(runs, str(tmp_path / "elsewhere"))


def test_trace_searches_the_runs_of_the_models_folder(output, capsys):
    (output / "serving" / "1700000001").mkdir(parents=True, exist_ok=True)
    assert main(["trace", str(output / "serving" / "1700000001"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["number"] == 1


def test_damaged_metadata_is_one_error_with_a_remedy(tmp_path, capfd):
    recorder = Recorder(tmp_path)
    record_run(recorder, "run", 0.8, "f", 1, "7")
    file = tmp_path / "metadata.sqlite"
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    assert main(["--output", str(tmp_path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {file}: the record of all runs is damaged")
    assert f"mv {file} {file}.damaged" in line


def test_piped_tables_are_not_wrapped(output, capsys):
    assert main(["--output", str(output), "trace", "1700000001"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(f"{output}/2026-01-01/model") for line in map(str.rstrip, lines))
