"""The sample preset end to end, with few pictures and steps."""

import json
import re
from pathlib import Path

import pytest
import tensorflow as tf

from data.fields import COMMON, HIKAPOK
from data.schema import SAMPLE_SCHEMA, class_names, read_schema

pytestmark = pytest.mark.e2e

_SPLITS = {"train": 32, "eval": 4, "test": 8}
_CLASSES = class_names(read_schema(SAMPLE_SCHEMA))
# Looked up in every run.
_BASELINES = {"latest_blessed_model", "latest_blessed_data"}


@pytest.fixture(scope="module")
def records(first):
    """The folder of TFRecords that the first run converted."""
    (folder,) = (first.output / "records").iterdir()
    return folder


def _versions(output):
    folder = output / "serving" / "ssd"
    return sorted(path.name for path in folder.glob("[0-9]*"))


def test_pictures_become_a_pushed_model(first):
    assert first.status == 0, first.stderr
    assert set(first.states.values()) == {"done"}
    assert {"ImportExampleGen", "DataGate", "Trainer", "Evaluator", "Pusher"} <= set(first.states)
    (version,) = _versions(first.output)
    assert (first.output / "serving" / "ssd" / version / "saved_model.pb").is_file()
    assert f"pushed:  {first.output}/serving/ssd/{version}" in first.stdout
    assert "blessed: yes" in first.stdout


def test_the_run_reports_its_results(first):
    for split, pictures in _SPLITS.items():
        assert re.search(rf"^  {split}: {pictures} pictures, \d+ objects: ", first.stdout, re.M)
    assert "DataGate done" in first.stdout
    assert ": 0 errors" in first.stdout
    assert re.search(r"step=60/60 loss=[\d.]+ class=[\d.]+ box=[\d.]+ .* images/s=", first.stdout)
    assert "AP on sample, test (11-point, IoU > 0.5)\n" in first.stdout
    for name in (*_CLASSES, "mAP"):
        assert re.search(rf"│ {name} +│ +\d\.\d{{4}}", first.stdout)
    # A few lines per component, and nothing from libraries.
    assert len(first.stdout.splitlines()) < 100
    assert first.stderr == ""


def test_a_run_from_the_first_runs_file_is_cached(first, run):
    versions = _versions(first.output)
    (config,) = (first.output / "runs").iterdir()
    assert first.stdout.splitlines()[-1] == f"config:  {config}"
    found = run(None, "--config", config)
    assert found.status == 0
    assert {name for name, state in found.states.items() if state != "cached"} == _BASELINES
    assert set(found.states) == set(first.states)
    assert found.seconds < 5
    assert _versions(first.output) == versions
    # It ends with the same lines as the run that did the work.
    assert found.stdout.splitlines()[-4:-1] == first.stdout.splitlines()[-4:-1]
    again = found.stdout.splitlines()[-1].removeprefix("config:  ")
    assert Path(again).read_text() == config.read_text()


def test_a_partial_run_runs_what_depends_on_the_component(first, run):
    versions = _versions(first.output)
    settings = ("trainer.steps=8", "evaluator.min_map=0")
    found = run(first.output, "--from", "Trainer", settings=settings)
    assert found.status == 0
    assert set(found.states.values()) == {"done"}
    assert {"Trainer", "Evaluator", "Pusher"} <= set(found.states)
    before = {"ImportExampleGen", "ImportSchemaGen", "StatisticsGen", "DataGate", "Transform"}
    assert not before & set(found.states)
    # The first run's model is the baseline, and the new one is pushed next to it.
    assert re.search(
        r"^latest_blessed_model done in .*: baseline .*/Trainer/model/", found.stdout, re.M
    )
    assert set(versions) < set(_versions(first.output))


def test_predict_works_with_the_pushed_model(first, run_python, tmp_path):
    picture = max((first.output / "sample").glob("*/*/VOCdevkit/VOC2007/JPEGImages/*.jpg"))
    model = first.output / "serving" / "ssd"
    arguments = ("--model", model, "--draw", tmp_path, "--format", "json", "--score-threshold", "0")
    found = run_python("-m", "serving.predict", picture, *arguments)
    assert found.returncode == 0, found.stderr
    (drawing,) = tmp_path.iterdir()
    assert drawing.stem.startswith(picture.stem)
    text = json.dumps(json.loads(found.stdout))
    assert any(name in text for name in _CLASSES)


def test_evaluating_the_pushed_model_gives_the_runs_scores(first, run_python, records, tmp_path):
    model, output = first.output / "serving" / "ssd", tmp_path / "evaluated"
    found = run_python(
        *("-m", "pipeline.evaluate", "--model", model, "--data", records, "--output", output)
    )
    assert found.returncode == 0, found.stderr
    cards = (first.output / "pipeline/ModelCard/card").glob("*/facts.json")
    card = max(cards, key=lambda path: int(path.parent.name))
    own, again = (json.loads(p.read_text())["evaluation"] for p in (card, output / "facts.json"))
    assert again["map"]["value"] == pytest.approx(own["map"]["value"], abs=1e-6)
    assert again["map"]["low"] == pytest.approx(own["map"]["low"], abs=1e-6)
    assert [row["score_threshold"] for row in again["classes"]] == [
        row["score_threshold"] for row in own["classes"]
    ]


# HiKapok's records are read with the VOC schema, so the sample's shapes get names of VOC classes.
_AS_VOC = dict(zip(_CLASSES, ("bird", "boat", "bus", "car", "cat", "cow"), strict=True))


def _with_hikapok_names(record: bytes) -> bytes:
    """Converts a record of ours to SSD.TensorFlow's field names."""
    old = tf.train.Example.FromString(record).features.feature
    new = tf.train.Example()
    feature = new.features.feature
    for field in ("encoded", "format", "filename", "height", "width", "label", "difficult"):
        feature[getattr(HIKAPOK, field)].CopyFrom(old[getattr(COMMON, field)])
    for field in ("ymin", "xmin", "ymax", "xmax", "truncated"):
        feature[getattr(HIKAPOK, field)].CopyFrom(old[getattr(COMMON, field)])
    names = [_AS_VOC[name.decode()].encode() for name in old[COMMON.text].bytes_list.value]
    feature[HIKAPOK.text].bytes_list.value.extend(names)
    sides = [old[side].int64_list.value[0] for side in (COMMON.height, COMMON.width)]
    feature["image/shape"].int64_list.value.extend([*sides, 3])
    feature["image/channels"].int64_list.value.append(3)
    return new.SerializeToString()


def test_hikapok_records_work_and_an_unblessed_model_is_not_pushed(first, run, records, tmp_path):
    for split in _SPLITS:
        shards = [str(path) for path in sorted((records / split).iterdir())]
        with tf.io.TFRecordWriter(str(tmp_path / f"{split}-00000-of-00001")) as writer:
            for record in tf.data.TFRecordDataset(shards, "GZIP"):
                writer.write(_with_hikapok_names(record.numpy()))
    output = tmp_path / "output"
    settings = (
        "data.schema=voc",
        "trainer.steps=8",
        "evaluator.min_map=1",
        "evaluator.confidence_intervals=false",
    )
    found = run(output, "--data", tmp_path, settings=settings)
    assert found.status == 0, found.stderr
    assert set(found.states.values()) == {"done"}
    counts = r"  test: (\d+) pictures, (\d+) objects"
    assert re.search(counts, found.stdout).groups() == re.search(counts, first.stdout).groups()
    assert re.search(r"│ tvmonitor +│", found.stdout)
    assert "blessed: no" in found.stdout
    assert "pushed:  no" in found.stdout
    assert _versions(output) == []


def test_an_unknown_class_stops_the_run_at_the_gate(run, records, tmp_path):
    found = run(tmp_path, "--data", records, settings=["data.schema=voc"])
    assert found.status == 2
    assert found.stderr.startswith("error: the data does not fit its schema")
    for split in _SPLITS:
        assert re.search(rf"^  {split}: image/object/class/text: ", found.stderr, re.M)
    assert any(name in found.stderr for name in _CLASSES)
    assert found.states["DataVerdict"] == "failed"
    assert not {"Transform", "Trainer", "Pusher"} & set(found.states)
    assert _versions(tmp_path) == []


def test_a_schema_is_inferred_for_review(run, records, tmp_path):
    found = run(tmp_path, "--data", records, settings=["data.schema=infer"])
    assert found.status == 0, found.stderr
    assert list(found.states) == ["ImportExampleGen", "StatisticsGen", "SchemaGen"]
    path = re.search(r"--set data\.schema=(\S+)", found.stdout)[1]
    assert set(class_names(read_schema(path))) == set(_CLASSES)
