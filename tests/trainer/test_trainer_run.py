"""What `run_fn` does around the training: the folder to resume from, devices, warnings, results."""

import dataclasses
import errno
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from data.command_line import as_command
from data.errors import DataError
from tests.trainer.tiny import TINY
from trainer import (
    checkpoints,
    continuation,
    devices,
    export,
    reporting,
    run,
    selection,
)  # `run` as a module: TFX reloads the module of `run_fn`
from trainer.config import BOOKKEEPING, TrainerConfig
from trainer.detector import build_network
from trainer.files import SUMMARY
from trainer.training import StepLosses

pytestmark = pytest.mark.usefixtures("tiny_detector")

CONFIG = TrainerConfig(detector="ssd128-small", batch_size=4, steps=6, warmup_steps=2)


class Stopped(Exception):
    """Raised where training would begin."""


@pytest.fixture(scope="module")
def arguments(make, transform_folder, sample_classes, tmp_path_factory):
    """The arguments of `run_fn`, with one configuration field, fact or argument changed."""
    folder = tmp_path_factory.mktemp("inputs")
    for split, number, grey in (("train", 4, 120), ("other", 5, 120), ("eval", 3, 80)):
        picture = make.encode(np.full((32, 32, 3), grey, np.uint8))
        make.write_shards(folder / split, [make.record(i, picture) for i in range(number)])
    keras.utils.set_random_seed(1)
    network = build_network(TINY, len(sample_classes))
    network.save_weights(folder / "other.weights.h5")

    def arguments(work_dir, field=None, value=None):
        config, facts = CONFIG, {"preset": "tiny", "code_version": "1", "classes": sample_classes}
        given = {"train_files": [f"{folder}/train/*"], "base_model": None}
        if field in vars(config):
            config = dataclasses.replace(config, **{field: value})
        elif field in facts:
            facts[field] = value
        elif field:
            given[field] = value
        facts |= {"trainer": dataclasses.asdict(config), "work_dir": str(work_dir)}
        return SimpleNamespace(
            **given,
            custom_config=facts,
            eval_files=[f"{folder}/eval/*"],
            transform_graph_path=str(transform_folder),
            model_run_dir=str(work_dir.parent / "run"),
            serving_model_dir=str(work_dir.parent / "model"),
            hyperparameters=None,
        )

    arguments.folder = folder
    return arguments


@pytest.fixture
def folder_of(arguments, tmp_path):
    """The folder that a training with a changed setting would resume from."""

    def folder_of(*change):
        train = mock.patch.object(run.Job, "train", side_effect=Stopped)
        with train as train, pytest.raises(Stopped):
            run.run_fn(arguments(tmp_path / "work", *change))
        return train.call_args.args[-1]

    return folder_of


def test_the_detector_to_export_is_the_configured_one(arguments, tmp_path):
    train = mock.patch.object(run.Job, "train", side_effect=Stopped)
    with train as train, pytest.raises(Stopped):
        run.run_fn(arguments(tmp_path / "work", "max_detections", 7))
    _, served, _ = train.call_args.args
    answer = served.detect(np.zeros((1, 32, 32, 3), np.float32))
    assert answer["detection_scores"].shape == (1, 7)


def test_ctrl_c_says_which_step_the_same_command_resumes_from(
    arguments, tmp_path, monkeypatch, capsys
):
    def interrupted_with(*steps):
        def train(network, anchors, batches, config, folder, *_):
            for step in steps:
                checkpoints.save(folder, step, [], keep=9)
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(run, "train", train)
        given = arguments(tmp_path / "work", "checkpoint_every", 2)
        assert as_command(lambda _: run.run_fn(given))() == 130
        return capsys.readouterr().err

    assert interrupted_with() == (
        "interrupted: rerun the same command to start the training again (the first checkpoint is "
        "written at step 2)\n"
    )
    assert interrupted_with(2, 4) == ("interrupted: rerun the same command to resume from step 4\n")


def test_a_loss_that_is_not_finite_is_a_data_error(arguments, tmp_path, monkeypatch):
    train = mock.Mock(side_effect=FloatingPointError("the loss at step 5 is nan"))
    monkeypatch.setattr(run, "train", train)
    with pytest.raises(DataError, match="the loss at step 5 is nan"):
        run.run_fn(arguments(tmp_path / "work"))


@pytest.mark.slow
def test_settings_that_do_not_change_the_result_keep_the_folder(folder_of):
    first = folder_of()
    assert set(BOOKKEEPING) == {"log_every", "checkpoint_every", "keep_checkpoints"}
    assert {folder_of(field, 3) for field in BOOKKEEPING} == {first}


def test_every_fact_and_every_other_setting_decides_the_folder(tmp_path):
    settings = dataclasses.asdict(CONFIG)

    def folder(**facts):
        return run.work_folder(tmp_path, {"trainer": settings, "code_version": "1", **facts})

    changed = [folder(trainer={**settings, name: "other"}) for name in settings]
    assert len({folder(), folder(code_version="2"), *changed}) == 2 + len(settings) - 3


@pytest.mark.slow
def test_other_settings_data_weights_classes_and_code_have_their_own_folders(
    folder_of, arguments, sample_classes
):
    changes = [
        (),
        ("seed", 1),
        ("steps", 7),
        ("learning_rate", 0.5),
        ("eval_every", 2),
        ("backbone_weights", str(arguments.folder / "other.weights.h5")),
        ("train_files", [f"{arguments.folder}/other/*"]),
        ("classes", list(reversed(sample_classes))),
        ("code_version", "2"),
    ]
    assert len({folder_of(*change) for change in changes}) == len(changes)


def test_unfinished_trainings_with_other_settings_are_reported_once(folder_of, messages):
    def logged():
        return [text for text in messages() if "new training" in text]

    folder = folder_of()
    (folder / "checkpoints").mkdir(parents=True)
    folder_of()
    assert logged() == []
    other = folder_of("seed", 1)
    before = logged()
    assert f"unfinished with other settings, data or code: 1 in {folder.parent} " in before[0]
    (other / "checkpoints").mkdir(parents=True)
    folder_of("seed", 1)
    assert logged() == before


def test_a_warm_up_that_never_ends_gets_a_warning(folder_of, messages):
    folder_of()
    assert not any("warmup_steps" in text for text in messages())
    folder_of("warmup_steps", 6)
    assert any("warmup_steps=6 is not less than trainer.steps=6" in text for text in messages())


def test_a_batch_that_does_not_fit_the_devices_is_refused(arguments, tmp_path):
    three = SimpleNamespace(num_replicas_in_sync=3)
    chosen = mock.patch.object(devices, "choose_strategy", return_value=three)
    with chosen, pytest.raises(DataError, match="batch_size: 4 .* 3 devices"):
        run.run_fn(arguments(tmp_path / "work"))


@pytest.fixture
def finish(arguments, tmp_path, monkeypatch):
    """Runs what follows a training that only leaves a checkpoint and a log.

    `finish.best` is the best step; `finish.exported` has the arguments of the export.
    """

    def train(job, network, served, work_dir):
        for name in ("checkpoints", "logs"):
            (work_dir / name).mkdir(parents=True, exist_ok=True)
            (work_dir / name / "file").write_text(name)
        return StepLosses(4.0, 3.0, 1.0, 2.0), finish.best

    def finish(*change):
        run.run_fn(arguments(tmp_path / "work", *change))

    finish.best = selection.Best(5, 0.75)

    monkeypatch.setattr(run.Job, "train", train)
    monkeypatch.setattr(export, "export", lambda *given: setattr(finish, "exported", given))
    return finish


def test_a_training_records_exports_and_names_its_folder_by_what_identifies_it(
    finish, arguments, tmp_path, sample_classes, monkeypatch
):
    goes_on = mock.Mock()
    monkeypatch.setattr(continuation, "continue_finished", goes_on)
    monkeypatch.setattr(run, "load_base_model", mock.Mock())
    base_model = "base_model", "an earlier model"
    finish(*base_model)
    detector, folder, facts, pictures = finish.exported
    job = run.Job.from_arguments(arguments(tmp_path / "work", *base_model))
    decisive = {
        "preset": "tiny",
        "code_version": "1",
        "trainer": dataclasses.asdict(CONFIG),
        "data": job.data_facts,
        "base_model": "an earlier model",
        "starting_weights_sha256": run.weights_hash(job.new_network()),
        "classes": list(sample_classes),
    }
    # The hash is of the exported network; here it differs from the trained one.
    result = {
        "weights_sha256": run.weights_hash(detector.network),
        "exported": {"step": 5, "eval_map": 0.75},
    }
    assert {**facts, "classes": list(sample_classes)} == {**decisive, **result}
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    losses = {"total": 4.0, "classes": 3.0, "boxes": 1.0, "positives": 2.0}
    assert summary == json.loads(json.dumps({**decisive, **result, "losses": losses}))
    work_dir = run.work_folder(tmp_path / "work", decisive)
    goes_on.assert_called_once_with(work_dir, tmp_path / "run", decisive)
    assert folder == tmp_path / "model"
    # For the warm-up requests.
    assert pictures == run._pictures(job.eval_shards, job.records)
    assert len(pictures) == 2


def test_without_a_best_step_the_last_one_is_exported(finish):
    finish.best = None
    finish()
    assert finish.exported[2]["exported"] == {"step": 6, "eval_map": None}


def _files(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def _on_another_file_system(*_):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.mark.parametrize("file_systems", [1, 2])
def test_checkpoints_and_logs_move_to_the_run(finish, tmp_path, monkeypatch, file_systems):
    if file_systems == 2:
        monkeypatch.setattr(Path, "rename", _on_another_file_system)
    else:
        monkeypatch.setattr(shutil, "copytree", None)
    finish()
    found = _files(tmp_path / "run")
    assert json.loads(found.pop(SUMMARY))["preset"] == "tiny"
    assert found == {"checkpoints/file": "checkpoints", "logs/file": "logs"}
    assert list((tmp_path / "work").iterdir()) == []


def _no_room(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def _no_room_for_variables(*_):
    message = "{{function_node Save}} part-0; No space left on device"
    raise tf.errors.ResourceExhaustedError(None, None, message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "fails", "place"),
    [
        (export, "export", _no_room, "model"),
        (export, "export", _no_room_for_variables, "model"),
        (shutil, "copytree", _no_room, "run"),
        # copytree wraps the error of a single file in its own.
        (shutil, "copyfile", _no_room, "run"),
    ],
)
def test_a_disk_that_fills_up_after_training_loses_nothing(
    finish, tmp_path, monkeypatch, owner, name, fails, place
):
    monkeypatch.setattr(Path, "rename", _on_another_file_system)
    with monkeypatch.context() as full:
        full.setattr(owner, name, fails)
        with pytest.raises(DataError) as error:
            finish()
    (work,) = (tmp_path / "work").iterdir()
    assert f"{tmp_path / place}: the results cannot be written (" in str(error.value)
    assert "No space left on device). Free disk space and rerun" in str(error.value)
    assert str(error.value).endswith(f"last checkpoint, in {work}")
    assert "function_node" not in str(error.value)
    assert (work / "checkpoints" / "file").read_text() == "checkpoints"
    finish()
    assert (tmp_path / "run" / "checkpoints" / "file").exists()
    assert not work.exists()


def test_reporting_comes_from_the_environment(arguments, tmp_path, monkeypatch):
    def config():
        given = arguments(tmp_path / "work")
        given.custom_config["trainer"] = reporting.without_reporting(CONFIG)
        return dataclasses.asdict(run.Job.from_arguments(given).config)

    assert config() == dataclasses.asdict(CONFIG)
    wanted = dataclasses.replace(CONFIG, log_every=7, checkpoint_every=8, keep_checkpoints=9)
    for name, value in reporting.environment(wanted).items():
        monkeypatch.setenv(name, value)
    assert config() == dataclasses.asdict(wanted)
