"""The command line says what a user can act on and leaves the rest to a traceback."""

import pytest

import local_runner
from data.errors import DataError
from pipeline import local


def fail(error, cause=None):
    def run(*_, **__):
        raise error from cause

    return run


def test_an_error_from_a_worker_is_one_line_and_status_2(monkeypatch, capsys):
    wrapped = fail(RuntimeError("add_input failed on <...>"), DataError("p7: score nan"))
    monkeypatch.setattr(local, "run", wrapped)
    assert local_runner.main([]) == 2
    assert capsys.readouterr().err == "error: p7: score nan\n"


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(local, "run", fail(KeyError("oops")))
    with pytest.raises(KeyError):
        local_runner.main([])


@pytest.mark.parametrize("option", ["--data", "--output"])
def test_urls_are_refused(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        local_runner.main([option, "gs://bucket/records"])
    assert stopped.value.code == 2
    assert f"{option}: gs://bucket/records is a URL. Give a path of" in capsys.readouterr().err


def test_workers_that_see_no_folder_of_this_machine_are_refused(capsys):
    assert local_runner.main(["--beam", "dataflow", "--", "--project=p"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --beam dataflow: its workers see no folder of this machine.")
    assert "kubeflow_runner.py compile --beam dataflow" in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluator.min_class_ap=dog", "evaluator.min_class_ap: 'dog': write name:least"),
        ("data.on_leak=ignore", "data.on_leak: 'ignore' is not block or drop_train"),
        ("data.block_on=box", "data.block_on: 'box' is not known"),
        ("tuner.trials=0", "tuner.trials: 0 must be at least 1"),
        ("trainer.eval_every=-1", "trainer.eval_every: -1 must not be negative"),
        ("trainer.warm_start=/none/1", "trainer.warm_start: /none/1: no SavedModel there"),
    ],
)
def test_settings_of_gate_and_evaluator_are_checked_at_once(setting, message, capsys):
    assert local_runner.main(["--set", setting]) == 2
    assert message in capsys.readouterr().err
