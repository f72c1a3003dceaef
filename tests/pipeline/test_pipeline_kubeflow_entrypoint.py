"""How the entry point translates an ExecutorInput, and how pushed models become baselines."""

import json

import pytest
from google.protobuf import json_format
from tensorflow_model_analysis.proto import config_pb2
from tfx.types import artifact_utils, standard_artifacts

from components.mean_average_precision import metric_names
from data.errors import DataError
from data.fields import COMMON
from pipeline.config import EvaluatorConfig
from pipeline.evaluation import evaluation_config
from pipeline.kubeflow import entrypoint, pushed
from pipeline.kubeflow.entrypoint import NO_BASELINE, translate_input
from pipeline.kubeflow.uris import MOUNT_ROOT, to_path, to_uri


def _artifact(uri, title="tfx.Model", **more):
    return {"artifacts": [{"uri": uri, "type": {"schemaTitle": title}, **more}]}


@pytest.mark.parametrize(
    "uri, path",
    [
        ("s3://bucket/a/b", "/s3/bucket/a/b"),
        ("minio://bucket/a", "/minio/bucket/a"),
        ("gs://bucket", "/gcs/bucket"),
    ],
)
@pytest.mark.parametrize("root", ["", "/mnt", "/mnt/"])
def test_uris_become_paths_and_come_back(monkeypatch, uri, path, root):
    monkeypatch.setenv(MOUNT_ROOT, root)
    assert to_path(uri) == root.rstrip("/") + path
    assert to_uri(to_path(uri)) == uri
    for other in ("/serving/ssd", "", "see s3://bucket", "https://host/x"):
        assert to_path(other) == to_uri(other) == other


def test_artifacts_are_found_where_the_launcher_puts_them(monkeypatch, tmp_path):
    monkeypatch.setenv(MOUNT_ROOT, str(tmp_path))
    absent = tmp_path / "s3" / "b" / "absent"
    absent.mkdir(parents=True)
    (absent / NO_BASELINE).write_text("none yet\n")
    schema = "title: system.Artifact\ntype: object\n"
    found = translate_input(
        {
            "inputs": {
                "artifacts": {
                    "input_base": _artifact("s3://b/records", "system.Artifact"),
                    "model": _artifact("s3://b/model", metadata={"from": "s3://b/x"}),
                    "baseline_model": _artifact("s3://b/absent"),
                },
                "parameterValues": {"module_path": "a.b", "count": 3},
            },
            "outputs": {
                "artifacts": {
                    "evaluation": _artifact("s3://b/out", "tfx.ModelEvaluation", name="n1"),
                    "executor-logs": {
                        "artifacts": [{"uri": "s3://b/logs", "type": {"instanceSchema": schema}}]
                    },
                },
                "outputFile": "/tmp/out.json",
            },
        }
    )
    inputs = found["inputs"]
    # Imported data is not a TFX artifact: it replaces the parameter of the same name.
    assert inputs["parameterValues"] == {
        "module_path": "a.b",
        "count": 3,
        "input_base": f"{tmp_path}/s3/b/records",
    }
    (model,) = inputs["artifacts"].pop("model")["artifacts"]
    assert inputs["artifacts"] == {}
    assert model["uri"] == model["name"] == f"{tmp_path}/s3/b/model"
    assert model["metadata"] == {"from": f"{tmp_path}/s3/b/x"}
    (evaluation,) = found["outputs"]["artifacts"].pop("evaluation")["artifacts"]
    assert evaluation["name"] == "n1"
    assert found["outputs"] == {"artifacts": {}, "outputFile": "/tmp/out.json"}


def test_artifacts_keep_their_uris_for_workers_elsewhere(monkeypatch, tmp_path):
    """The launcher's copy still shows that a baseline is missing."""
    monkeypatch.setenv(MOUNT_ROOT, str(tmp_path))
    absent = tmp_path / "gcs" / "b" / "absent"
    absent.mkdir(parents=True)
    (absent / NO_BASELINE).write_text("none yet\n")
    found = translate_input(
        {
            "inputs": {
                "artifacts": {
                    "input_base": _artifact("gs://b/records", "system.Artifact"),
                    "model": _artifact("gs://b/model"),
                    "baseline_model": _artifact("gs://b/absent"),
                }
            },
            "outputs": {"artifacts": {"evaluation": _artifact("gs://b/out")}},
        },
        as_paths=False,
    )
    assert found["inputs"]["parameterValues"] == {"input_base": "gs://b/records"}
    assert found["inputs"]["artifacts"].keys() == {"model"}
    for side in ("inputs", "outputs"):
        for artifacts in found[side]["artifacts"].values():
            (artifact,) = artifacts["artifacts"]
            assert artifact["uri"] == artifact["name"]
            assert artifact["uri"].startswith("gs://b/")


def _translated(**parameters) -> dict:
    found = translate_input({"inputs": {"parameterValues": parameters}})
    return found["inputs"]["parameterValues"]


def test_a_runs_steps_and_rate_reach_the_trainer():
    custom = {"trainer": {"steps": 10, "learning_rate": 0.1, "seed": 1}, "classes": ["a"]}
    found = _translated(
        custom_config=json.dumps(custom),
        train_args=json.dumps({"num_steps": 10, "splits": ["train"]}),
        steps=20.0,
        learning_rate=0.5,
    )
    assert found.keys() == {"custom_config", "train_args"}
    assert json.loads(found["train_args"]) == {"num_steps": 20, "splits": ["train"]}
    expected = {"trainer": {"steps": 20, "learning_rate": 0.5, "seed": 1}, "classes": ["a"]}
    assert json.loads(found["custom_config"]) == expected


def test_a_runs_bounds_have_the_same_effect_as_configured_ones():
    def config(**bounds):
        settings = EvaluatorConfig(min_slice_map=("objects=1:0.1",), **bounds)
        return evaluation_config(settings, ["cat", "dog"], COMMON, [])

    before = json_format.MessageToJson(config(min_map=0.7, min_map_change=-0.01))
    found = _translated(eval_config=before, min_map=0.25, min_map_change=0.125)
    after = json_format.Parse(found["eval_config"], config_pb2.EvalConfig())
    assert after == config(min_map=0.25, min_map_change=0.125)


def test_a_runs_epochs_replace_the_steps():
    custom = {"trainer": {"steps": 10, "epochs": None}, "classes": ["a"]}
    found = _translated(custom_config=json.dumps(custom), epochs=2.5)
    expected = {"trainer": {"steps": None, "epochs": 2.5}, "classes": ["a"]}
    assert json.loads(found["custom_config"]) == expected


@pytest.mark.parametrize(
    "parameters", [{"steps": 0.0}, {"learning_rate": -1.0}, {"min_map": 1.5}, {"min_map_change": 2}]
)
def test_values_out_of_range_are_rejected(parameters):
    eval_config = evaluation_config(EvaluatorConfig(), ["cat"], COMMON, [])
    (name,) = parameters
    with pytest.raises(DataError, match=f"a run's parameter {name}: "):
        _translated(
            custom_config='{"trainer": {}}',
            train_args="{}",
            eval_config=json_format.MessageToJson(eval_config),
            **parameters,
        )


def test_an_evaluator_without_the_bound_is_an_error():
    with pytest.raises(DataError, match=f"no bound on {metric_names.MAP}"):
        _translated(eval_config='{"metrics_specs": [{}]}', min_map=0.5)


@pytest.fixture
def model_dir(tmp_path):
    """Versions 9 and 10, an unfinished one, and a folder that is not a version."""
    for version, files in {
        "9": ("saved_model.pb", "assets.extra/train_statistics.pb"),
        "10": ("saved_model.pb",),
        "11": (),
        "11.partial": ("saved_model.pb",),
    }.items():
        folder = tmp_path / "ssd" / version
        (folder / "assets.extra").mkdir(parents=True)
        (folder / "assets.extra" / "model.json").write_text(version)
        for file in files:
            (folder / file).write_text(f"{version} {file}")
    return tmp_path / "ssd"


def _made(cls, uri):
    artifact = cls()
    artifact.uri = str(uri)
    return artifact


@pytest.mark.parametrize("candidate, expected", [("new", "10"), ("10", "9")])
def test_the_newest_version_that_is_not_the_candidate(model_dir, tmp_path, candidate, expected):
    own = tmp_path / "candidate" / "Format-Serving" / "assets.extra"
    own.mkdir(parents=True)
    (own / "model.json").write_text(candidate)
    model = _made(standard_artifacts.Model, tmp_path / "found")
    _call(pushed.LatestPushedModel, tmp_path / "candidate", model, model_dir)
    identity = tmp_path / "found" / "Format-Serving" / "assets.extra" / "model.json"
    assert identity.read_text() == expected
    assert not (tmp_path / "found" / NO_BASELINE).exists()


def test_statistics_come_from_the_newest_version_that_has_them(model_dir, tmp_path):
    found = _made(standard_artifacts.ExampleStatistics, tmp_path / "found")
    _call(pushed.LatestPushedData, None, found, model_dir)
    path = tmp_path / "found" / "Split-train" / "FeatureStats.pb"
    assert path.read_text() == "9 assets.extra/train_statistics.pb"
    assert artifact_utils.decode_split_names(found.split_names) == ["train"]


def test_without_a_version_the_output_is_marked_as_missing(tmp_path):
    own = tmp_path / "candidate" / "Format-Serving" / "assets.extra"
    own.mkdir(parents=True)
    (own / "model.json").write_text("new")
    for component, kind in (
        (pushed.LatestPushedModel, standard_artifacts.Model),
        (pushed.LatestPushedData, standard_artifacts.ExampleStatistics),
    ):
        found = _made(kind, tmp_path / component.__name__)
        _call(component, tmp_path / "candidate", found, tmp_path / "nowhere")
        text = (tmp_path / component.__name__ / NO_BASELINE).read_text()
        assert str(tmp_path / "nowhere") in text


def _call(component, candidate, output, model_dir):
    """Runs a component's executor the way TFX does."""
    inputs, key = {}, "statistics"
    if component is pushed.LatestPushedModel:
        inputs, key = {"candidate": [_made(standard_artifacts.Model, candidate)]}, "model"
    executor = component.EXECUTOR_SPEC.executor_class()
    executor.Do(inputs, {key: [output]}, {"model_dir": str(model_dir)})


def test_empty_folder_objects_are_removed(monkeypatch):
    """Kubeflow's launcher cannot download them (github.com/kubeflow/pipelines/issues/13476)."""
    objects = {
        "gs://b/run/examples/": 0,
        "gs://b/run/examples/Split-train/": 0,
        "gs://b/run/examples/Split-train/data.gz": 9,
        "gs://b/run/examples/Split-train/_SUCCESS": 0,
        "gs://b/run/examples-other/": 0,
    }

    class Storage:
        def list_files(self, prefix):
            yield from ((name, size) for name, size in objects.items() if name.startswith(prefix))

        delete = staticmethod(objects.pop)

    monkeypatch.setattr("apache_beam.io.gcp.gcsio.GcsIO", Storage)
    artifact = {"artifacts": [{"uri": "gs://b/run/examples"}]}
    entrypoint._remove_folder_markers({"artifacts": {"examples": artifact}})
    assert list(objects) == [
        "gs://b/run/examples/Split-train/data.gz",
        "gs://b/run/examples/Split-train/_SUCCESS",
        "gs://b/run/examples-other/",
    ]
