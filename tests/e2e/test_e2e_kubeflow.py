"""The compiled sample pipeline, run without a cluster and compared with a local run."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tfx.utils import path_utils

import kubeflow_runner
from components.evaluation import OVERALL, read_evaluation
from components.mean_average_precision import metric_names
from data.saved_model import IDENTITY
from data.schema import SAMPLE_SCHEMA, class_names, read_schema
from tests.e2e.kubeflow_driver import Cluster
from tests.pipeline import kubeflow_api

pytestmark = pytest.mark.e2e

_DATA, _ROOT = "minio://data/shapes", "minio://ml/pipelines"


@pytest.fixture(scope="module")
def local(first):
    """Records, pushed model and facts of the run on this machine."""
    assert first.status == 0, first.stderr
    (records,) = (first.output / "records").iterdir()
    model = min(first.output.glob("serving/ssd/[0-9]*"), key=lambda path: int(path.name))
    facts = json.loads((model / "assets.extra" / "facts.json").read_text())
    return SimpleNamespace(records=records, model=model, facts=facts)


@pytest.fixture(scope="module")
def remote(local, run_python, tmp_path_factory):
    """The outputs of every task, the stand-in for the cluster and the folder of pushed models.

    The local run's model is already there, with another identity, as the baseline.
    """
    folder = tmp_path_factory.mktemp("kubeflow")
    serving = folder / "volume" / "serving"
    shutil.copytree(local.model, serving / "ssd" / "1")
    identity = serving / "ssd" / "1" / "assets.extra" / "model.json"
    identity.write_text(json.dumps(json.loads(identity.read_text()) | {"preset": "another"}))
    cluster = Cluster(folder / "store", folder / "tasks")
    shutil.copytree(local.records, cluster.path(_DATA) / "span-2")
    older = cluster.path(_DATA) / "span-1" / "train"
    older.mkdir(parents=True)
    (older / "unreadable").write_text("no record of the newest span\n")
    compiled = folder / "ssd.yaml"
    settings = (
        f"resources.all.volumes=ssd:{folder}/volume",
        "trainer.batch_size=4",
        "trainer.warmup_steps=5",
        "trainer.log_every=20",
    )
    found = run_python(
        *("kubeflow_runner.py", "compile", "--image", "registry/ssd:1", "-o", compiled),
        *("--pipeline-root", _ROOT, "--data", "minio://data/elsewhere"),
        *("--pattern", "span-{SPAN}/{split}/*"),
        *("--serving-dir", serving, "--work-dir", folder / "volume" / "work"),
        *(word for setting in settings for word in ("--set", setting)),
    )
    assert found.returncode == 0, found.stderr
    parameters = ("--param", f"data={_DATA}", "--param", "steps=60", "--param", "min_map=0")
    with kubeflow_api.serving() as api:
        assert kubeflow_runner.main(["submit", str(compiled), "--host", api.host, *parameters]) == 0
        (run,) = api.runs.values()
    outputs = cluster.run(compiled, run["runtime_config"])
    yield SimpleNamespace(outputs=outputs, cluster=cluster, serving=serving / "ssd")
    shutil.rmtree(folder)


def _metadata(remote, task, output):
    return remote.outputs[task][output].get("metadata")


def test_it_pushes_a_model_with_the_same_map(local, remote):
    version = _metadata(remote, "Pusher", "pushed_model")["pushed_version"]
    assert sorted(path.name for path in remote.serving.glob("[0-9]*")) == ["1", version]
    extra = remote.serving / version / "assets.extra"
    facts = json.loads((extra / "facts.json").read_text())
    assert facts["model"] == local.facts["model"]
    mean = facts["evaluation"]["map"]["value"]
    assert mean == local.facts["evaluation"]["map"]["value"]
    assert mean > 0
    assert (extra / "train_statistics.pb").is_file()


def test_both_models_give_the_same_detections(local, remote):
    (shard,) = sorted((local.records / "test").iterdir())[:1]
    records = list(tf.data.TFRecordDataset(str(shard), "GZIP").take(2).as_numpy_iterator())
    version = _metadata(remote, "Pusher", "pushed_model")["pushed_version"]
    answers = [
        tf.saved_model.load(str(model)).signatures["serving_examples"](
            examples=tf.constant(records)
        )
        for model in (local.model, remote.serving / version)
    ]
    for name in ("detection_scores", "detection_boxes"):
        np.testing.assert_allclose(answers[0][name], answers[1][name], atol=1e-5)


def test_the_pushed_model_was_the_baseline(local, remote):
    evaluation = remote.cluster.path(remote.outputs["Evaluator"]["evaluation"]["uri"])
    found = read_evaluation(evaluation)
    assert found.changes[OVERALL][metric_names.MAP].value == 0
    assert found.baseline[OVERALL][metric_names.MAP].value == pytest.approx(
        local.facts["evaluation"]["map"]["value"], abs=1e-9
    )
    model = remote.cluster.path(remote.outputs["latest-blessed-model"]["model"]["uri"])
    identity = Path(path_utils.serving_model_dir(str(model)), IDENTITY)
    assert json.loads(identity.read_text())["preset"] == "another"
    statistics = remote.outputs["latest-blessed-data"]["statistics"]["uri"]
    assert (remote.cluster.path(statistics) / "Split-train" / "FeatureStats.pb").is_file()


def test_artifacts_have_uris_not_paths(remote):
    for outputs in remote.outputs.values():
        for artifact in outputs.values():
            assert artifact["uri"].startswith((f"{_ROOT}/", f"{_DATA}"))
            # Paths in one container mean nothing in another.
            assert str(remote.cluster.folder) not in json.dumps(artifact)
    examples = _metadata(remote, "ImportExampleGen", "examples")
    assert examples["custom:span"] == 2
    assert "num_files" in examples["input_fingerprint"]


def test_the_report_is_written(remote):
    report = remote.cluster.path(remote.outputs["DetectionReport"]["report"]["uri"])
    text = (report / "report.html").read_text()
    for name in class_names(read_schema(SAMPLE_SCHEMA)):
        assert name in text
