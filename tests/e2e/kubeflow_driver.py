"""Runs a compiled pipeline without a cluster, as Kubeflow's driver and launcher would.

Each container's command runs in its own process and an empty folder, with an ExecutorInput like
Kubeflow's. A folder stands in for the object store: before a task, its inputs are copied to the
paths where the launcher downloads them; afterwards, its outputs are copied back to the URIs that it
reports. A task sees nothing else of the store.
"""

import os
import shutil
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.forked_python import ROOT, ForkedPython

# The kfp-launcher's default, if a run names none.
DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
_MOUNTS = {"s3://": "s3", "minio://": "minio", "gs://": "gcs"}


class TaskFailed(Exception):
    """A container's command failed; the message has its output."""


@dataclass
class Cluster:
    """`store` holds objects under SCHEME/BUCKET/KEY; `folder` is the tasks' scratch space."""

    store: Path
    folder: Path

    def run(self, compiled: Path, runtime_config: dict, until: str | None = None) -> dict:
        """Runs the tasks in order, two at a time, up to and including `until`.

        Args:
          runtime_config: `parameters` and `pipeline_root` of the submitted run. The document's own
            pipeline root is ignored, as in Kubeflow (RootDAG in backend/src/v2/driver/root_dag.go
            of KFP 2.17.0).

        Returns:
          RuntimeArtifacts by task and output.
        """
        parameters = runtime_config.get("parameters", {})
        root = runtime_config.get("pipeline_root") or DEFAULT_ROOT
        spec, *_ = yaml.safe_load_all(compiled.read_text(encoding="utf-8"))
        declared = spec["root"]["inputDefinitions"]["parameters"]
        unknown = parameters.keys() - declared.keys()
        assert not unknown, f"the pipeline has no parameters {unknown}"
        values = {name: p["defaultValue"] for name, p in declared.items()} | parameters
        tasks = spec["root"]["dag"]["tasks"]
        todo = _upstream(tasks, until) if until else set(tasks)
        done, running = {}, {}
        with ThreadPoolExecutor(2) as pool:
            while todo or running:
                for name in sorted(todo):
                    if done.keys() >= _needs(tasks[name]):
                        todo.remove(name)
                        job = pool.submit(self._run_task, spec, name, root, values, done)
                        running[job] = name
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for job in finished:
                    done[running.pop(job)] = job.result()
        return done

    def path(self, uri: str) -> Path:
        """The path of a URI's content in the store."""
        return self.store / _mounted(uri)

    def _run_task(self, spec: dict, name: str, root: str, values: dict, done: dict) -> dict:
        task = spec["root"]["dag"]["tasks"][name]
        component = spec["components"][task["componentRef"]["name"]]
        executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]
        parameters = {}
        for key, source in task.get("inputs", {}).get("parameters", {}).items():
            if "componentInputParameter" in source:
                parameters[key] = values[source["componentInputParameter"]]
            else:
                parameters[key] = source["runtimeValue"]["constant"]
        assert (
            parameters.keys() <= component.get("inputDefinitions", {}).get("parameters", {}).keys()
        )
        if "importer" in executor:
            importer = executor["importer"]
            uri = parameters[importer["artifactUri"]["runtimeParameter"]]
            return {"artifact": {"uri": uri, "type": importer["typeSchema"]}}
        inputs = {
            key: done[source["taskOutputArtifact"]["producerTask"]][
                source["taskOutputArtifact"]["outputArtifactKey"]
            ]
            for key, source in task.get("inputs", {}).get("artifacts", {}).items()
        }
        task_root = f"{root}/run-1/{name}"
        outputs = {
            key: {
                "uri": f"{task_root}/{key}",
                "type": declared["artifactType"],
                "metadata": declared.get("metadata", {}),
            }
            for key, declared in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        }
        return self._launch(task_root, executor["container"], parameters, inputs, outputs)

    def _launch(self, task_root, container, parameters, inputs, outputs) -> dict:
        name = task_root.rpartition("/")[2]
        root = self.folder / name
        output_file = root / _mounted(task_root) / "output_metadata.json"
        (root / "work").mkdir(parents=True)
        for artifact in inputs.values():
            source, target = self.path(artifact["uri"]), root / _mounted(artifact["uri"])
            if source.exists():
                shutil.copytree(source, target, dirs_exist_ok=True)
        for artifact in outputs.values():
            (root / _mounted(artifact["uri"])).parent.mkdir(parents=True, exist_ok=True)
        executor_input = pipeline_spec_pb2.ExecutorInput()
        json_format.ParseDict(
            {
                "inputs": {"parameterValues": parameters, "artifacts": _lists(inputs)},
                "outputs": {"artifacts": _lists(outputs), "outputFile": str(output_file)},
            },
            executor_input,
        )
        text = json_format.MessageToJson(executor_input, indent=None)
        command = [
            word.replace("{{$}}", text) for word in [*container["command"], *container["args"]]
        ]
        assert command[0] == "python"
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "SSD_MOUNT_ROOT": str(root),
            **{entry["name"]: entry["value"] for entry in container.get("env", ())},
        }
        task = ForkedPython(
            *command[1:],
            stdout=root / "printed",
            folder=root / "work",
            environment=environment,
        )
        if task.wait() != 0:
            raise TaskFailed(f"{name}:\n{task.stdout.read_text()}")
        found = json_format.Parse(output_file.read_text(), pipeline_spec_pb2.ExecutorOutput())
        recorded = {}
        for key, artifact in outputs.items():
            reported = found.artifacts[key].artifacts[0] if found.artifacts[key].artifacts else None
            merged = dict(artifact["metadata"])
            if reported is not None:
                merged |= json_format.MessageToDict(reported.metadata)
            uri = reported.uri if reported is not None and reported.uri else artifact["uri"]
            local = root / _mounted(uri)
            if local.exists():
                shutil.copytree(local, self.path(uri))
            # Artifacts from ML Metadata have a type's title instead of its schema, no name, and
            # properties that the launcher adds.
            title = yaml.safe_load(artifact["type"]["instanceSchema"])["title"]
            extra = {"display_name": key, "store_session_info": "{}"}
            kind = {"schemaTitle": title}
            recorded[key] = {"uri": uri, "type": kind, "metadata": merged | extra}
        return recorded


def _mounted(uri: str) -> str:
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme):
            return f"{mount}/{uri.removeprefix(scheme)}"
    raise AssertionError(f"{uri}: not a URI of an object store")


def _lists(artifacts: dict) -> dict:
    return {key: {"artifacts": [artifact]} for key, artifact in artifacts.items()}


def _needs(task: dict) -> set[str]:
    sources = task.get("inputs", {}).get("artifacts", {}).values()
    producers = {source["taskOutputArtifact"]["producerTask"] for source in sources}
    return producers | set(task.get("dependentTasks", ()))


def _upstream(tasks: dict, name: str) -> set[str]:
    found, pending = set(), {name}
    while pending:
        found |= pending
        pending = {need for task in pending for need in _needs(tasks[task])} - found
    return found
