"""Runs as ML Metadata remembers them, read from a store that the test writes."""

import json
import subprocess
import sys

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd

from data.errors import DataError
from pipeline.runs import questions
from pipeline.runs.__main__ import main
from pipeline.runs.store import connect, find_run, mysql_config, read_runs
from tests.pipeline.recorder import Recorder


def _facts(ap, fingerprint, steps):
    score = {"value": ap, "low": None, "high": None, "baseline": None, "change": None}
    bound = {"metric": "mAP", "slice": "", "bound": "≥ 0.7", "measured": ap, "ok": ap >= 0.7}
    return {
        "blessed": ap >= 0.7,
        "evaluation": {
            "map": score,
            "classes": [{"name": "cat", "ap": score}],
            "thresholds": [bound | {"why": ""}],
            "baseline_model": None,
        },
        "model": {
            "trainer": {"steps": steps, "backbone_weights": "vgg.h5"},
            "base_model": "/serving/1",
            "starting_weights_sha256": "0123456789abcdef",
            "exported": {"step": steps - 1, "eval_map": ap},
        },
        "training": {"checkpoint": f"step-{steps}.npz"},
        "data": {"splits": {"train": {"pictures": 9, "objects": 12}}},
        "fingerprints": {"train": fingerprint},
        "packages": {"tfx": "1.16.0"},
    }


def _record_run(recorder, name, ap, fingerprint, steps, version):
    recorder.run(name)
    folder = recorder.folder / name
    folder.mkdir()
    (folder / "facts.json").write_text(json.dumps(_facts(ap, fingerprint, steps)))
    examples = recorder.artifact("Examples", folder / "examples", span=3, version=1)
    recorder.step("ImportExampleGen", (), {"examples": examples}, input_base="/records")
    model = recorder.artifact("Model", folder / "model")
    training = {"preset": "tiny", "trainer": {"steps": steps}}
    recorder.step(
        "Trainer",
        {"examples": examples},
        {"model": model},
        custom_config=json.dumps(training),
        code_version=f"code{steps}",
    )
    blessing = recorder.artifact("ModelBlessing", folder / "blessing", blessed=int(ap >= 0.7))
    recorder.step(
        "Evaluator",
        {"model": model},
        {"blessing": blessing},
        eval_config=json.dumps({"metrics_specs": [{"metrics": [{"class_name": "M"}]}]}),
        code_version="metric1",
    )
    card = recorder.artifact("ModelCardFolder", folder, mAP=ap)
    recorder.step("ModelCard", {"model": model}, {"card": card})
    properties = {"pushed": 0}
    if version:
        where = str(recorder.folder / "serving" / version)
        properties = {"pushed": 1, "pushed_version": version, "pushed_destination": where}
    pushed = recorder.artifact("PushedModel", folder / "pushed", **properties)
    recorder.step("Pusher", {"model": model}, {"pushed_model": pushed})


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Two whole runs and one that failed in training."""
    folder = tmp_path_factory.mktemp("output")
    recorder = Recorder(folder)
    _record_run(recorder, "2026-01-01", 0.75, "f1", 100, "1700000001")
    _record_run(recorder, "2026-01-02", 0.5, "f2", 200, None)
    recorder.run("2026-01-03")
    recorder.step("ImportExampleGen", state=mlmd.Execution.CACHED)
    recorder.step("Trainer", state=mlmd.Execution.FAILED)
    recorder.run("2026-01-04")
    return folder


@pytest.fixture(scope="module")
def runs(output):
    return read_runs(connect(str(output / "metadata.sqlite")))


def test_runs_are_listed_with_what_they_got_to(runs):
    first, second, third = map(questions.summary, runs)
    del first["started"]
    assert first == {
        "number": 1,
        "name": "2026-01-01",
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
    assert trace["data"]["records"] == "/records"
    assert (trace["data"]["span"], trace["data"]["version"]) == (3, 1)
    assert trace["data"]["splits"] == {"train": {"pictures": 9, "objects": 12, "fingerprint": "f1"}}
    assert trace["code_versions"] == {"Trainer": "code100", "Evaluator": "metric1"}
    assert trace["configuration"]["steps"] == 100
    assert (trace["base_weights"], trace["checkpoint"]) == ("vgg.h5", "step-100.npz")
    assert trace["base_model"] == "/serving/1"
    assert trace["starting_weights_sha256"] == "0123456789abcdef"
    assert trace["exported"]["step"] == 99
    assert trace["thresholds"][0]["measured"] == 0.75
    assert trace["artifacts"]["Trainer.model"] == str(output / "2026-01-01/model")


def test_an_unknown_model_is_answered_with_those_there_are(runs):
    with pytest.raises(DataError, match="1700000002: no run.*1700000001"):
        questions.trace(runs, "1700000002")


def test_lost_facts_are_named(tmp_path):
    recorder = Recorder(tmp_path)
    _record_run(recorder, "run", 0.8, "f", 1, "7")
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


def test_nothing_is_written(output):
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
        (["trace", "1700000001"], ["vgg.h5", "step-100.npz", "f1", "≥ 0.7", "code100"]),
        (["diff", "1", "2"], ["trainer.steps", "-0.2500", "f2"]),
    ],
)
def test_tables_and_json_tell_the_same(output, capsys, command, shown):
    assert main(["--output", str(output), *command]) == 0
    text = capsys.readouterr().out
    assert [part for part in shown if part not in text] == []
    assert main(["--output", str(output), "--json", *command]) == 0
    json.loads(capsys.readouterr().out)


def test_missing_and_unreachable_metadata_end_readably(tmp_path, capfd):
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
