"""What a container does around TFX's own entry point, which is replaced here."""

import json

import pytest
from tfx.components.evaluator.executor import Executor as BeamWork
from tfx.components.pusher.executor import Executor as OtherWork
from tfx.orchestration.kubeflow.v2 import compiler_utils
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor
from tfx.orchestration.kubeflow.v2.file_based_example_gen import driver

from components.artifacts import ModelCardFolder
from pipeline.kubeflow import entrypoint

_OURS = ModelCardFolder.TYPE_NAME
_FLINK = ("--runner=PortableRunner", "--job_endpoint=flink:8099")


@pytest.fixture
def contain(monkeypatch, tmp_path):
    """Runs the entry point; returns TFX's arguments, the URI of its output and removed markers.

    TFX's driver finds a span, and its executor writes an artifact to the given path.
    """

    def contain(executor, *options):
        seen, file = {}, tmp_path / "output.json"

        def drive(parsed):
            given = json.loads(parsed.json_serialized_invocation_args)
            seen["driven"] = given["inputs"]["artifacts"]["model"]["artifacts"][0]["uri"]
            found = {"out": {"artifacts": [{"metadata": {"span": 7}}]}}
            file.write_text(json.dumps({"artifacts": found}))

        def execute(arguments):
            parsed, seen["beam"] = arguments
            seen["given"] = json.loads(parsed.json_serialized_invocation_args)
            out = seen["given"]["outputs"]["artifacts"]
            file.write_text(json.dumps({"artifacts": out}))

        monkeypatch.setattr(driver, "main", drive)
        monkeypatch.setattr(kubeflow_v2_run_executor, "main", execute)
        removed = []
        monkeypatch.setattr(entrypoint, "_remove_folder_markers", removed.append)
        monkeypatch.delitem(compiler_utils.TITLE_TO_CLASS_PATH, _OURS, raising=False)
        kind = {"schemaTitle": "tfx.Model"}
        given = {
            "inputs": {"artifacts": {"model": {"artifacts": [{"uri": "gs://b/m", "type": kind}]}}},
            "outputs": {
                "artifacts": {"out": {"artifacts": [{"uri": "gs://b/o", "type": kind}]}},
                "outputFile": str(file),
            },
        }
        name = f"{executor.__module__}.{executor.__name__}"
        words = ["--executor_class_path", name, "--json_serialized_invocation_args"]
        assert entrypoint.main([*words, json.dumps(given), *options]) == 0
        left = json.loads(file.read_text())
        return seen, left["artifacts"]["out"]["artifacts"][0]["uri"], removed

    return contain


@pytest.mark.parametrize(
    ("executor", "options", "elsewhere"),
    [(BeamWork, (), False), (BeamWork, _FLINK, True), (OtherWork, _FLINK, False)],
)
def test_uris_become_paths_if_the_work_is_done_in_the_container(
    contain, executor, options, elsewhere
):
    seen, left, removed = contain(executor, *options)
    place = "gs://b" if elsewhere else "/gcs/b"
    for side, key, name in (("inputs", "model", "m"), ("outputs", "out", "o")):
        (artifact,) = seen["given"][side]["artifacts"][key]["artifacts"]
        assert artifact["uri"] == f"{place}/{name}"
    assert left == "gs://b/o"
    assert seen["beam"] == list(options)
    # Only executors that write to the store themselves leave empty objects.
    assert len(removed) == elsewhere
    assert "driven" not in seen


def test_the_newest_span_is_found_before_the_executor_runs(contain):
    seen, *_ = contain(OtherWork, "--resolve_span")
    assert seen["driven"] == "/gcs/b/m"
    (artifact,) = seen["given"]["outputs"]["artifacts"]["out"]["artifacts"]
    assert artifact["metadata"] == {"span": 7}


def test_tfx_knows_the_types_of_our_artifacts(contain):
    contain(OtherWork)
    path = compiler_utils.TITLE_TO_CLASS_PATH[_OURS]
    assert path == "components.artifacts.ModelCardFolder"
