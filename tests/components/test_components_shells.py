"""What the TFX components' shells pass to the plain functions, which are not run here."""

import json

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.types import artifact_utils, standard_artifacts

from components.artifacts import (
    DATA_GATE_FILE,
    DataGateReport,
    DetectionReportFile,
    ModelCardFolder,
)
from components.data_gate import component as data_gate
from components.data_gate.config import DataGateConfig
from components.data_gate.gate import Finding
from components.data_gate.scan import Leak, Scan
from components.data_gate.shift import Shift
from components.detection_report import component as detection_report
from components.model_card import component as model_card
from components.serving_check import component as serving_check
from data.errors import DataError
from data.fields import COMMON
from trainer.model_zoo import anchor_spec

_SPLITS = ("train", "eval", "test")


@pytest.fixture
def given(tmp_path):
    """Makes an artifact in its own folder."""

    def given(kind, name):
        artifact = kind()
        artifact.uri = str(tmp_path / name)
        if hasattr(artifact, "split_names"):
            artifact.split_names = artifact_utils.encode_split_names(list(_SPLITS))
        return artifact

    return given


def test_the_gate_scans_every_split_as_configured(given, tmp_path, monkeypatch):
    seen = {}

    def scan(_, patterns, *rest):
        seen.update(patterns=patterns, scan=rest)
        return Scan((), (Leak(("test", "a"), ("train", "b"), 7),), {})

    def measure_shifts(statistics, baseline, *rest):
        seen.update(statistics=statistics, baseline=baseline, limits=rest[1:])
        return [Shift("skew", "eval", "f", "distance", 0.2, 0.1)]

    monkeypatch.setattr(data_gate, "scan", scan)
    monkeypatch.setattr(data_gate, "measure_shifts", measure_shifts)
    monkeypatch.setattr(data_gate, "_read_statistics", lambda a, split: (a.uri, split))
    monkeypatch.setattr(data_gate, "_read_anomalies", lambda a, split: (a.uri, split))
    monkeypatch.setattr(data_gate.gate, "list_anomalies", lambda anomalies: list(anomalies))
    monkeypatch.setattr(data_gate.gate, "count_objects", lambda _: {
        "pictures": 9, "objects": 9, "objects_per_class": {"star": 9}})  # fmt: skip
    monkeypatch.setattr(data_gate.gate, "judge", lambda *_: [Finding("skew", "warning", "text")])
    config = DataGateConfig(leak_distance=7, max_skew=0.3, max_drift=0.4, on_leak="drop_train")
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        data_gate.DataGate.test_call(
            examples=given(standard_artifacts.Examples, "examples"),
            statistics=given(standard_artifacts.ExampleStatistics, "statistics"),
            anomalies=given(standard_artifacts.ExampleAnomalies, "anomalies"),
            report=given(DataGateReport, "report"),
            baseline=given(standard_artifacts.ExampleStatistics, "baseline"),
            config=json.dumps(vars(config)),
            fields=json.dumps(vars(COMMON)),
            classes='["star"]',
            detector="ssd300-vgg16",
            anchors="clipped",
            matching_iou=0.4,
            presets=json.dumps(
                {"same": ("ssd300-vgg16", "clipped"), "other": ("ssd512-vgg16", "paper")}
            ),
            beam_pipeline=pipeline,
        )
    folder = str(tmp_path / "examples")
    assert seen["patterns"] == {split: f"{folder}/Split-{split}/*" for split in _SPLITS}
    anchors = anchor_spec("ssd300-vgg16", "clipped")
    assert seen["scan"][:4] == (COMMON, anchors, 0.4, 7)
    # Other presets' anchors are compared, except identical ones.
    assert seen["scan"][5] == {"other": anchor_spec("ssd512-vgg16", "paper")}
    assert seen["limits"] == (0.3, 0.4)
    assert set(seen["statistics"]) == set(_SPLITS)
    assert seen["baseline"] == (str(tmp_path / "baseline"), "train")
    written = json.loads((tmp_path / "report" / DATA_GATE_FILE).read_text())
    assert written["anomalies"] == list(_SPLITS)
    leak = {"first": ["test", "a"], "second": ["train", "b"], "distance": 7}
    assert (written["leaks"], written["excluded_records"]) == ([leak], ["b"])
    assert written["findings"] == [{"check": "skew", "level": "warning", "text": "text"}]
    (shift,) = written["shifts"]
    assert (shift["other"], shift["value"]) == ("eval", 0.2)


@pytest.mark.parametrize(("blessed", "value"), [(True, 0.25), (False, None)])
def test_the_card_covers_all_splits_and_its_artifact_has_the_map(
    given, tmp_path, monkeypatch, blessed, value
):
    seen = {}

    def gather_facts(**sources):
        seen.update(sources)
        scores = {"map": {"value": value}, "map_area": {"value": 0.5}}
        return {"blessed": blessed, "evaluation": scores}

    monkeypatch.setattr(model_card, "gather_facts", gather_facts)
    monkeypatch.setattr(model_card, "write_model_card", lambda *_: None)
    card = given(ModelCardFolder, "card")
    model_card.ModelCard.test_call(
        examples=given(standard_artifacts.Examples, "examples"),
        model=given(standard_artifacts.Model, "model"),
        model_run=given(standard_artifacts.ModelRun, "model_run"),
        evaluation=given(standard_artifacts.ModelEvaluation, "evaluation"),
        blessing=given(standard_artifacts.ModelBlessing, "blessing"),
        gate=given(DataGateReport, "gate"),
        card=card,
    )
    assert seen["splits"] == {s: str(tmp_path / "examples" / f"Split-{s}") for s in _SPLITS}
    for name in ("model_run", "evaluation", "blessing", "gate"):
        assert seen[name] == str(tmp_path / name)
    assert seen["examples"] == str(tmp_path / "examples")
    assert seen["model"] == str(tmp_path / "model" / "Format-Serving")
    # Listed by `ssd runs`.
    assert card.has_custom_property("mAP") == (value is not None)
    assert card.get_float_custom_property("mAP") == (value or 0.0)
    assert card.get_int_custom_property("blessed") == blessed


def test_the_report_shows_pictures_of_its_split(given, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(detection_report, "build_report", lambda s: seen.append(s) or "<p>")
    pushed = given(standard_artifacts.PushedModel, "pushed")
    pushed.set_int_custom_property("pushed", 1)
    pushed.set_string_custom_property("pushed_destination", "/serving/ssd/7")
    detection_report.DetectionReport.test_call(
        card=given(ModelCardFolder, "card"),
        model=given(standard_artifacts.Model, "model"),
        evaluation=given(standard_artifacts.ModelEvaluation, "evaluation"),
        model_run=given(standard_artifacts.ModelRun, "model_run"),
        examples=given(standard_artifacts.Examples, "examples"),
        statistics=given(standard_artifacts.ExampleStatistics, "statistics"),
        infra_blessing=given(standard_artifacts.InfraBlessing, "infra_blessing"),
        pushed_model=pushed,
        report=given(DetectionReportFile, "report"),
        split="test",
    )
    (sources,) = seen
    assert sources.examples == str(tmp_path / "examples" / "Split-test")
    for name in ("card", "evaluation", "model_run", "statistics", "infra_blessing"):
        assert getattr(sources, name) == str(tmp_path / name)
    assert sources.pushed == "/serving/ssd/7"
    names = ("card", "model", "evaluation", "model_run", "examples", "statistics")
    folders = {str(tmp_path / name) for name in (*names, "infra_blessing", "pushed")}
    assert set(sources.artifacts.values()) == folders
    nothing = given(standard_artifacts.PushedModel, "nothing")
    assert detection_report.pushed_destination(nothing) is None


@pytest.mark.parametrize(
    ("problems", "file"), [([], "INFRA_BLESSED"), (["too slow"], "INFRA_NOT_BLESSED")]
)
def test_the_serving_check_sends_as_many_pictures_as_asked_and_blesses_without_problems(
    given, tmp_path, monkeypatch, problems, file
):
    seen = {}

    def check(model, records, limits):
        seen.update(model=model, records=records, limits=limits)
        return {"problems": problems}

    monkeypatch.setattr(serving_check, "check", check)
    for split in ("train", "test"):
        folder = tmp_path / "examples" / f"Split-{split}"
        folder.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / "data-0.gz"), "GZIP") as writer:
            for number in range(5):
                writer.write(f"{split}{number}".encode())
    blessing = given(standard_artifacts.InfraBlessing, "blessing")
    serving_check.ServingCheck.test_call(
        model=given(standard_artifacts.Model, "model"),
        examples=given(standard_artifacts.Examples, "examples"),
        blessing=blessing,
        split="test",
        check_pictures=4,
        max_latency_ms=123.0,
        max_memory_mb=4567.0,
        score_tolerance=0.25,
    )
    assert seen["records"] == [b"test0", b"test1", b"test2", b"test3"]
    limits = serving_check.Limits(max_latency_ms=123.0, max_memory_mb=4567.0, score_tolerance=0.25)
    assert seen["limits"] == limits
    assert seen["model"] == str(tmp_path / "model" / "Format-Serving")
    assert blessing.get_int_custom_property("blessed") == (not problems)
    written = {path.name: path.read_text() for path in (tmp_path / "blessing").iterdir()}
    assert json.loads(written.pop("serving_check.json")) == {"problems": problems}
    assert written == {file: ""}


def test_a_split_without_records_cannot_be_checked(given, tmp_path):
    folder = tmp_path / "examples" / "Split-test"
    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "data-0.gz"), "GZIP"):
        pass
    limits = {"max_latency_ms": 1.0, "max_memory_mb": 1.0, "score_tolerance": 0.0}
    with pytest.raises(DataError, match="split test has no records to check the model with"):
        serving_check.ServingCheck.test_call(
            model=given(standard_artifacts.Model, "model"),
            examples=given(standard_artifacts.Examples, "examples"),
            blessing=given(standard_artifacts.InfraBlessing, "blessing"),
            split="test",
            check_pictures=4,
            **limits,
        )
