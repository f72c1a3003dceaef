"""What pruning removes of older runs, and how much space that frees."""

import json
import os

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipeline.runs import prune
from pipeline.runs.__main__ import main
from pipeline.runs.liveness import marked_as_running
from pipeline.runs.store import runs_of
from tests.pipeline.recorder import Recorder


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def recorder(folder):
    return Recorder(folder)


def _made(recorder, name, kind="Made", **properties):
    """An artifact with a file of 1,000 bytes, under a name such as `Trainer/model/3`."""
    place = recorder.folder / "pipeline" / name
    place.mkdir(parents=True)
    (place / "file").write_bytes(bytes(1000))
    return recorder.artifact(kind, place, **properties)


def _run(recorder, number, blessed=False, pushed=False, state=mlmd.Execution.COMPLETE):
    recorder.run(f"run-{number}")
    records = recorder.folder / "records" / str(number)
    records.mkdir(parents=True)
    (records / "shard").write_bytes(bytes(1000))
    examples = _made(recorder, f"ImportExampleGen/examples/{number}")
    recorder.step("ImportExampleGen", (), {"examples": examples}, input_base=str(records))
    model = _made(recorder, f"Trainer/model/{number}")
    model_run = _made(recorder, f"Trainer/model_run/{number}")
    checkpoints = recorder.folder / "pipeline" / f"Trainer/model_run/{number}/checkpoints"
    checkpoints.mkdir()
    (checkpoints / "step").write_bytes(bytes(1000))
    recorder.step(
        "Trainer", {"examples": examples}, {"model": model, "model_run": model_run}, state=state
    )
    blessing = _made(recorder, f"Evaluator/blessing/{number}", blessed=int(blessed))
    recorder.step("Evaluator", {"model": model}, {"blessing": blessing})
    properties = {}
    if pushed:
        version = recorder.folder / "serving" / str(number)
        version.mkdir(parents=True)
        os.link(recorder.folder / "pipeline" / f"Trainer/model/{number}/file", version / "file")
        properties = {"pushed_destination": str(version)}
    done = _made(recorder, f"Pusher/pushed_model/{number}", **properties)
    recorder.step("Pusher", {"model": model}, {"pushed_model": done})


def _left(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_models_and_the_last_runs_need_is_kept(recorder, folder):
    _run(recorder, 1, blessed=True, pushed=True)
    _run(recorder, 2)
    _run(recorder, 3, blessed=True)
    _run(recorder, 4)
    _run(recorder, 5)
    before = _left(folder)
    removals = prune.plan(runs_of(folder), folder, keep=2)
    prune.remove(removals)
    gone = before - _left(folder)
    everything_of_run_2 = {f for f in before if "/2/" in f"{f}/"}
    of_models = {
        f"{name}/{number}/{file}"
        for number in (1, 3)
        for name, file in (
            ("pipeline/ImportExampleGen/examples", "file"),
            ("pipeline/Trainer/model_run", "checkpoints/step"),
            ("records", "shard"),
        )
    }
    assert gone == everything_of_run_2 | of_models
    # Checkpoints go first.
    kinds = [removal.kind for removal in removals]
    assert kinds == sorted(kinds, key=prune.KINDS.index)
    assert kinds[0] == prune.CHECKPOINTS and kinds[-1] == prune.RESULTS
    assert prune.plan(runs_of(folder), folder, keep=2) == []


def test_a_model_that_is_no_longer_served_is_removed(recorder, folder):
    _run(recorder, 1, pushed=True)
    _run(recorder, 2, blessed=True)
    (folder / "serving/1/file").unlink()
    (folder / "serving/1").rmdir()
    prune.remove(prune.plan(runs_of(folder), folder, keep=1))
    assert not (folder / "pipeline/Trainer/model/1").exists()


def test_active_runs_and_unfinished_trainings_are_kept(recorder, folder):
    unfinished = folder / "unfinished" / "abc"
    unfinished.mkdir(parents=True)
    _run(recorder, 1)
    _run(recorder, 2, state=mlmd.Execution.RUNNING)
    _run(recorder, 3)
    with marked_as_running(folder, "run-1"):
        prune.remove(prune.plan(runs_of(folder), folder, keep=2))
    assert (folder / "pipeline/Trainer/model_run/1/checkpoints/step").exists()
    assert unfinished.exists()
    prune.remove(prune.plan(runs_of(folder), folder, keep=1))
    assert not (folder / "pipeline/Trainer/model/1").exists()
    assert not unfinished.exists()


def test_cached_outputs_of_a_kept_run_are_kept(recorder, folder):
    _run(recorder, 1)
    model = recorder.artifact("Made", folder / "pipeline/Trainer/model/1")
    recorder.run("run-2")
    examples = recorder.artifact("Made", folder / "pipeline/ImportExampleGen/examples/1")
    recorder.step("Trainer", {"examples": examples}, {"model": model}, state=mlmd.Execution.CACHED)
    prune.remove(prune.plan(runs_of(folder), folder, keep=1))
    assert (folder / "pipeline/Trainer/model/1/file").exists()
    assert (folder / "pipeline/ImportExampleGen/examples/1/file").exists()
    assert not (folder / "pipeline/Trainer/model_run/1").exists()


def test_copies_of_data_are_removed_whichever_component_made_them(recorder, folder):
    """Even if the model is kept. The folder of a span contains its versions."""
    recorder.run("run-1")
    records = folder / "records" / "pets" / "span-1"
    records.mkdir(parents=True)
    (folder / "records" / ".being-written").mkdir()
    kept = _made(recorder, "DropLeaks/kept/1")
    recorder.step("ImportExampleGen", (), {}, input_base=str(records))
    recorder.step("DropLeaks", (), {"kept": kept})
    blessing = _made(recorder, "Evaluator/blessing/1", blessed=1)
    recorder.step("Evaluator", {"examples": kept}, {"blessing": blessing})
    _made(recorder, "Trainer/.system/1")
    assert prune.plan(runs_of(folder), folder, keep=1) == []
    recorder.run("run-2")
    recorder.step("ImportExampleGen", (), {}, input_base=str(records))
    recorder.step("Trainer", (), {})
    removals = prune.plan(runs_of(folder), folder, keep=1)
    assert removals == [prune.Removal(prune.COPIES, folder / "pipeline/DropLeaks/kept/1")]
    prune.remove([*removals, *removals])


def test_a_file_with_another_hard_link_frees_no_space(recorder, folder):
    _run(recorder, 1, pushed=True)
    _run(recorder, 2)
    model = folder / "pipeline/Trainer/model/1"
    assert prune.sizes([prune.Removal(prune.RESULTS, model)])[prune.RESULTS] == 0
    both = [prune.Removal(prune.RESULTS, place) for place in (model, folder / "serving/1")]
    assert prune.sizes(both)[prune.RESULTS] == 1000


def test_the_command_reports_what_it_frees_and_a_dry_run_frees_nothing(
    recorder, folder, capsys, monkeypatch
):
    _run(recorder, 1)
    _run(recorder, 2)
    before = _left(folder)
    # Users are usually in the parent folder.
    monkeypatch.chdir(folder.parent)
    command = ["--output", folder.name, "prune", "--keep", "1"]
    assert main([*command, "--dry-run", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert _left(folder) == before
    assert (answer["removed"], main([*command, "--dry-run"])) == (False, 0)
    assert "would free 7.0 kB in" in capsys.readouterr().out
    assert main(command) == 0
    text = capsys.readouterr().out
    assert f"freed 7.0 kB in {len(answer['folders'])} folders" in text
    assert sum(answer["bytes"].values()) == 1000 * len(before - _left(folder)) == 7000
    with pytest.raises(SystemExit):
        main(["--output", str(folder), "prune", "--keep", "0"])
    assert main(["--metadata", str(folder / "metadata.sqlite"), "prune", "--keep", "1"]) == 2
    assert "name it with --output" in capsys.readouterr().err
