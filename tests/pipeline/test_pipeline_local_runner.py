"""Errors of the command line: one line for what users can fix, a traceback for the rest."""

import json
import re
import webbrowser
from types import SimpleNamespace

import keras
import pytest

import local_runner
from data.errors import DataError
from pipeline import local
from trainer import devices
from trainer.config import TrainerConfig
from trainer.detector import build_network, detector_spec


def fail(error, cause=None):
    def run(*_, **__):
        raise error from cause

    return run


def test_an_error_from_a_worker_is_one_line_and_status_2(monkeypatch, capsys):
    wrapped = fail(RuntimeError("add_input failed on <...>"), DataError("p7: score nan"))
    monkeypatch.setattr(local, "run", wrapped)
    assert local_runner.main([]) == 2
    assert capsys.readouterr().err == "error: p7: score nan\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(local, "run", fail(KeyError("oops")))
    with pytest.raises(KeyError):
        local_runner.main([])


@pytest.fixture
def given(monkeypatch, tmp_path):
    """Returns the configuration and arguments of a run, and what is opened in a browser."""

    def given(*options, report=tmp_path / "report.html"):
        found = {"opened": []}
        monkeypatch.setattr(local, "run", lambda *a, **named: found.update(named, a=a) or report)
        monkeypatch.setattr(webbrowser, "open", found["opened"].append)
        assert local_runner.main(options) == 0
        (config,) = found.pop("a")
        return config, found

    return given


def test_the_options_reach_the_run(given, tmp_path):
    config, found = given()
    assert (config.preset, config.data.path, config.trainer.steps) == ("sample", "", 2400)
    plain = {"from_component": None, "enable_cache": True, "name": None, "opened": []}
    assert {name: found[name] for name in plain} == plain
    (tmp_path / "own.yaml").write_text("trainer: {batch_size: 3, steps: 8}\n")
    config, found = given(
        *("--config", f"{tmp_path}/own.yaml"),
        *("--data", f"{tmp_path}/pets", "--output", f"{tmp_path}/out", "--set", "trainer.steps=9"),
        *("--name", "mine", "--from", "Trainer", "--no-cache", "--preset", "light"),
        *("--beam", "multiprocess", "--", "--direct_num_workers=2"),
    )
    assert (config.data.path, config.output) == (f"{tmp_path}/pets", f"{tmp_path}/out")
    assert (config.preset, config.trainer.steps, config.trainer.batch_size) == ("light", 9, 3)
    other = {"from_component": "Trainer", "enable_cache": False, "name": "mine", "opened": []}
    assert {name: found[name] for name in other} == other
    assert "--direct_num_workers=2" in found["beam_args"]


def test_the_report_is_opened_on_request(given, tmp_path):
    assert given("--open")[1]["opened"] == [f"file://{tmp_path}/report.html"]
    assert given("--open", report=None)[1]["opened"] == []


@pytest.mark.parametrize("option", ["--data", "--output"])
def test_urls_are_rejected(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        local_runner.main([option, "gs://bucket/records"])
    assert stopped.value.code == 2
    assert f"{option}: gs://bucket/records is a URL. Give a path on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"), [("file", "cannot write there (File exists)"), ("a [1]", "as a pattern")]
)
def test_an_unwritable_output_is_reported(name, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert local_runner.main(["--output", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / name) in err and message in err


def test_workers_that_cannot_see_this_machines_folders_are_rejected(capsys):
    assert local_runner.main(["--beam", "dataflow", "--", "--project=p"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --beam dataflow: its workers cannot see this machine's folders.")
    assert "ssd compile --beam dataflow" in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluator.min_class_ap=dog", "evaluator.min_class_ap: 'dog' must be written as name"),
        ("data.on_leak=ignore", "data.on_leak: 'ignore' is unknown; choose from block, drop_train"),
        ("data.block_on=box", "data.block_on: 'box' is unknown; did you mean boxes"),
        ("tuner.trials=0", "tuner.trials: '0' must be at least 1"),
        ("trainer.eval_every=-1", "trainer.eval_every: '-1' must be at least 0"),
        ("trainer.anchors=clipped", "trainer.anchors: 'clipped' does not exist for ssd128-small"),
        ("trainer.warm_start=/none/1", "trainer.warm_start: /none/1: no SavedModel there"),
    ],
)
def test_settings_are_checked_before_the_run(setting, message, capsys):
    assert local_runner.main(["--set", setting]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """Runs with settings and returns the error, which must come before any work."""

    def refused(*settings):
        monkeypatch.setattr(local, "prepare", lambda *_: pytest.fail("work has begun"))
        options = [option for setting in settings for option in ("--set", setting)]
        assert local_runner.main(["--output", str(tmp_path / "run"), *options]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    return refused


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "trainer.batch_size=16",
            "trainer.batch_size: 16 pictures cannot be split .* 3 devices",
        ),
        ("trainer.xla=true", "trainer.xla: works on one device, not on 3"),
    ],
)
def test_a_training_that_does_not_fit_the_devices_is_rejected_before_the_run(
    refused, monkeypatch, setting, message
):
    three = SimpleNamespace(num_replicas_in_sync=3)
    monkeypatch.setattr(devices, "choose_strategy", lambda: three)
    assert re.match(f"error: {message}", refused("trainer.batch_size=15", setting))


def test_another_keras_backend_is_rejected_before_the_run(refused, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert refused().startswith("error: KERAS_BACKEND: Keras runs on jax, but training needs")


_JOB = ("training_job.workers=2", "training_job.image=i", "training_job.volumes=claim:/models")


@pytest.mark.parametrize("settings", [(), (*_JOB, "tuner.enabled=true")], ids=["here", "tuner"])
def test_a_run_does_not_wait_for_several_workers(refused, monkeypatch, settings):
    cluster = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    monkeypatch.setattr(devices, "choose_strategy", lambda: pytest.fail("would wait"))
    error = refused(*settings)
    assert error.startswith("error: TF_CONFIG: names 2 workers, but a pipeline runs in one process")
    assert "ssd worker --config FILE" in error


def test_a_training_job_ignores_this_machines_devices(monkeypatch, tmp_path):
    monkeypatch.setenv("TF_CONFIG", "{")
    monkeypatch.setattr(devices, "choose_strategy", lambda: pytest.fail("not asked for"))
    monkeypatch.setattr(local, "prepare", fail(DataError("work has begun")))
    options = [option for setting in _JOB for option in ("--set", setting)]
    assert local_runner.main(["--output", str(tmp_path), *options]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file. Give none, imagenet, or the path"),
        (b"plain text", "neither a Keras .h5 file nor a PyTorch state dict"),
        (b"\x89HDF\r\n\x1a\n cut", "not a complete HDF5 file"),
    ],
    ids=["missing", "wrong type", "cut"],
)
def test_unreadable_weights_are_rejected_before_the_run(refused, tmp_path, content, message):
    path = tmp_path / "weights"
    if content is not None:
        path.write_bytes(content)
    error = refused(f"trainer.backbone_weights={path}")
    assert error.startswith("error: ") and str(path) in error and message in error


def test_weights_for_another_number_of_classes_are_rejected_before_the_run(refused, tmp_path):
    path = tmp_path / "two_classes.weights.h5"
    spec = detector_spec(TrainerConfig(detector="ssd128-small"))
    build_network(spec, 2).save_weights(path)
    error = refused(f"trainer.backbone_weights={path}")
    assert f"{path}: not weights of this detector with this number of classes" in error
