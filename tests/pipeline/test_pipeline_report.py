"""The report of a finished run, rewritten from ML Metadata."""

import webbrowser

import pytest

from components.detection_report import report as detection_report
from pipeline.report import main
from tests.pipeline.recorder import Recorder

_OUTPUTS = {
    "ImportExampleGen": "examples",
    "StatisticsGen": "statistics",
    "Trainer": "model",
    "Evaluator": "evaluation",
    "ModelCard": "card",
    "InfraValidator": "blessing",
    "Pusher": "pushed_model",
}


@pytest.fixture
def sources(monkeypatch):
    """The sources that each report is built from."""
    calls = []
    monkeypatch.setattr(
        detection_report,
        "build_report",
        lambda given: calls.append(given) or f"report {len(calls)}",
    )
    return calls


def record(recorder, folder, run, components=tuple(_OUTPUTS)):
    recorder.run(run)
    for component in components:
        key = _OUTPUTS[component]
        uri = folder / run / component
        uri.mkdir(parents=True)
        details = {"pushed_destination": f"/served/{run}"} if component == "Pusher" else {}
        outputs = {key: recorder.artifact(component, uri, **details)}
        if component == "Trainer":
            (folder / run / "model_run").mkdir()
            outputs["model_run"] = recorder.artifact("ModelRun", folder / run / "model_run")
        settings = {"example_splits": '["test"]'} if component == "Evaluator" else {}
        recorder.step(component, (), outputs, **settings)


def test_the_latest_finished_run_is_reported(tmp_path, sources, capsys):
    recorder = Recorder(tmp_path)
    record(recorder, tmp_path, "first")
    record(recorder, tmp_path, "second")
    record(recorder, tmp_path, "third", [name for name in _OUTPUTS if name != "Pusher"])
    assert main(["--run", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == "report 1"
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    (given,) = sources
    second = tmp_path / "second"
    assert given.examples == str(second / "ImportExampleGen" / "Split-test")
    assert given.evaluation == str(second / "Evaluator")
    assert given.model_run == str(second / "model_run")
    assert given.infra_blessing == str(second / "InfraValidator"), "of TensorFlow Serving"
    assert given.pushed == "/served/second"
    assert given.card == str(second / "ModelCard")
    assert given.statistics == str(second / "StatisticsGen")
    assert str(second / "Trainer") in given.artifacts.values()


def test_open_shows_the_report_in_a_browser(tmp_path, sources, monkeypatch):
    record(Recorder(tmp_path), tmp_path, "only")
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.chdir(tmp_path.parent)
    assert main(["--run", tmp_path.name]) == 0
    assert opened == []
    (tmp_path / "first").hardlink_to(tmp_path / "report.html")
    assert main(["--run", tmp_path.name, "--open"]) == 0
    assert opened == [(tmp_path / "report.html").as_uri()]
    assert not (tmp_path / "first").samefile(tmp_path / "report.html"), "replaced, not rewritten"


def test_a_run_without_its_files_is_skipped(tmp_path, sources):
    recorder = Recorder(tmp_path)
    record(recorder, tmp_path, "first")
    record(recorder, tmp_path, "second")
    (tmp_path / "second" / "ModelCard").rmdir()
    assert main(["--run", str(tmp_path)]) == 0
    assert sources[0].card == str(tmp_path / "first" / "ModelCard")


def test_without_a_finished_run_there_is_a_one_line_error(tmp_path, sources, capsys):
    record(Recorder(tmp_path), tmp_path, "only", ["ImportExampleGen"])
    assert main(["--run", str(tmp_path)]) == 2
    assert f"{tmp_path}: no run here got as far as the Pusher" in capsys.readouterr().err
    assert not sources and not (tmp_path / "report.html").exists()
