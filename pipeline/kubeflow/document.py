"""Adapts the document that TFX compiles to what Kubeflow Pipelines can run.

All differences between KubeflowV2DagRunner's output and the submitted document are made here:

- The pipeline root is added to the specification; TFX leaves it out of its YAML.
- ImportExampleGen finds its newest span in a hook that only Vertex AI calls. Elsewhere the
  container's entry point does it, if it gets `--resolve_span`.
- The schema is a file on the compiling machine, so the document carries it as a `data:` URL.
- The folder of the records becomes a parameter of the run. In an object store it is imported as an
  artifact, since open-source Kubeflow copies only artifacts into a container.
- Settings that TFX packs into JSON become parameters of the run (`pipeline.kubeflow.parameters`).
- The latest pushed model is looked up in every run, never taken from the cache.
- Task names get dashes instead of underscores, which Argo Workflows rejects.
- How often a training logs and saves goes into its container's environment, outside the cache key.
- Resources are set per component; those that only Kubernetes has go into a second document.

Other gaps of an open-source cluster are filled elsewhere: baselines without a resolver in
`pipeline.kubeflow.pushed`, URIs and unknown artifacts in `pipeline.kubeflow.entrypoint`.
"""

import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.distributed_trainer.manifest import GPU, toleration
from data.errors import DataError, did_you_mean
from pipeline.config import PRESETS, Config
from pipeline.kubeflow.entrypoint import DATA_URL, RESOLVE_SPAN
from pipeline.kubeflow.parameters import PARAMETERS
from pipeline.kubeflow.uris import DATA
from pipeline.pipeline import BASE_MODEL, BASELINE, BASELINE_DATA
from pipeline.resources import ALL, Resources, resources_of
from trainer.reporting import environment

RECORDS = "records"
# Tasks that look up the latest pushed model.
LOOKED_UP = (BASELINE, BASELINE_DATA, BASE_MODEL)
# Not escaped, so that a schema stays readable in a URL.
_READABLE = " \n:;,{}[]()<>\"'/_-.=#"
_TRAINING = ("Tuner", "Trainer")
# Retries stop this long after the start of the first attempt. KFP passes it as Argo's
# `backoff.maxDuration`, which bounds attempts and pauses together, not one pause. Without it KFP
# writes 0 and nothing is retried (backend/src/v2/compiler/argocompiler/container.go of KFP 2.17.0,
# processNodeRetries in workflow/controller/operator.go of Argo Workflows 4.0.5).
RETRY_WINDOW_S = 30 * 24 * 3600
_EXAMPLE_GEN, _INPUT_BASE = "ImportExampleGen", "input_base"


def adapt(
    spec: dict, config: Config, *, root: str, data: str, schema: Path | None, vertex: bool
) -> dict:
    """Changes a pipeline's specification in place; returns the Kubernetes part.

    Args:
      data: default of the run's parameter `data`, a path in the containers or a URI.
      schema: file on this machine; None if it is to be inferred.

    Raises:
      DataError: a resource is for an unknown component, or not available on the cluster.
    """
    spec["defaultPipelineRoot"] = root
    root_inputs = spec["root"].setdefault("inputDefinitions", {}).setdefault("parameters", {})
    root_inputs[DATA] = {"parameterType": "STRING", "defaultValue": data}
    if schema is not None:
        task = spec["root"]["dag"]["tasks"]["ImportSchemaGen"]
        url = DATA_URL + urllib.parse.quote(schema.read_text(encoding="utf-8"), safe=_READABLE)
        task["inputs"]["parameters"]["schema_file"] = {"runtimeValue": {"constant": url}}
    if not vertex:
        container = _container(spec, _EXAMPLE_GEN)
        del container["lifecycle"]
        container["args"].append(RESOLVE_SPAN)
    if "://" in data and not vertex:
        _import_records(spec)
    else:
        parameters = spec["root"]["dag"]["tasks"][_EXAMPLE_GEN]["inputs"]["parameters"]
        parameters[_INPUT_BASE] = {"componentInputParameter": DATA}
    _add_parameters(spec, config)
    _add_reporting(spec, config)
    for name in LOOKED_UP:
        if name in spec["root"]["dag"]["tasks"]:
            spec["root"]["dag"]["tasks"][name]["cachingOptions"] = {}
    _check_resources(spec, config)
    platform = _set_resources(spec, config.resources, vertex)
    _rename_tasks(spec)
    return platform


def _rename_tasks(spec: dict) -> None:
    names = {name: name.replace("_", "-") for name in spec["components"]}
    for task in spec["root"]["dag"]["tasks"].values():
        for entry in (task["taskInfo"], task["componentRef"]):
            entry["name"] = names[entry["name"]]
        task["dependentTasks"] = [names[name] for name in task.get("dependentTasks", ())]
        for source in task.get("inputs", {}).get("artifacts", {}).values():
            output = source["taskOutputArtifact"]
            output["producerTask"] = names[output["producerTask"]]
    for place, key in ((spec["root"]["dag"], "tasks"), (spec, "components")):
        place[key] = {names[name]: entry for name, entry in place[key].items()}


def _container(spec: dict, component: str) -> dict:
    """The container of a component; empty for an importer, which has none."""
    label = spec["components"][component]["executorLabel"]
    return spec["deploymentSpec"]["executors"][label].get("container", {})


def _import_records(spec: dict) -> None:
    """Adds a task that imports the run's data as an artifact, replacing a parameter."""
    kind = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
    label = f"{RECORDS}_executor"
    spec["components"][RECORDS] = {
        "executorLabel": label,
        "inputDefinitions": {"parameters": {"uri": {"parameterType": "STRING"}}},
        "outputDefinitions": {"artifacts": {"artifact": {"artifactType": kind}}},
    }
    spec["deploymentSpec"]["executors"][label] = {
        "importer": {"artifactUri": {"runtimeParameter": "uri"}, "typeSchema": kind}
    }
    tasks = spec["root"]["dag"]["tasks"]
    tasks[RECORDS] = {
        "taskInfo": {"name": RECORDS},
        "componentRef": {"name": RECORDS},
        "inputs": {"parameters": {"uri": {"componentInputParameter": DATA}}},
        "cachingOptions": {},
    }
    task = tasks[_EXAMPLE_GEN]
    del task["inputs"]["parameters"][_INPUT_BASE]
    task["inputs"]["artifacts"] = {
        _INPUT_BASE: {
            "taskOutputArtifact": {"producerTask": RECORDS, "outputArtifactKey": "artifact"}
        }
    }
    task["dependentTasks"] = [RECORDS]
    definitions = spec["components"][_EXAMPLE_GEN]["inputDefinitions"]
    del definitions["parameters"][_INPUT_BASE]
    definitions["artifacts"] = {_INPUT_BASE: {"artifactType": kind}}


def _add_parameters(spec: dict, config: Config) -> None:
    for parameter in PARAMETERS:
        task = spec["root"]["dag"]["tasks"].get(parameter.component)
        value = parameter.default(config)
        # The configuration has either steps or epochs.
        if task is None or value is None:
            continue
        kind = {"parameterType": parameter.type}
        default = {"defaultValue": value}
        spec["root"]["inputDefinitions"]["parameters"][parameter.name] = kind | default
        task["inputs"]["parameters"][parameter.name] = {"componentInputParameter": parameter.name}
        component = spec["components"][parameter.component]
        component["inputDefinitions"]["parameters"][parameter.name] = kind


def _add_reporting(spec: dict, config: Config) -> None:
    """Passes settings outside the cache key to the training containers."""
    for name in _TRAINING:
        if name in spec["components"]:
            variables = environment(config.trainer).items()
            _container(spec, name)["env"] = [{"name": k, "value": v} for k, v in variables]


def _check_resources(spec: dict, config: Config) -> None:
    """Raises DataError for resources of unknown components, except the preset's for the Tuner."""
    tasks = spec["root"]["dag"]["tasks"]
    preset = PRESETS[config.preset].resources
    for name, resources in config.resources.items():
        if name not in (ALL, *tasks) and resources != preset.get(name):
            raise DataError(f"resources.{name}: unknown component; {did_you_mean(name, tasks)}")


def _set_resources(spec: dict, resources: Mapping[str, Resources], vertex: bool) -> dict:
    """Sets resources in the specification; returns those that it has no fields for."""
    executors = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        if not _container(spec, name):
            continue
        wanted = resources_of(name, resources)
        if wanted.cache is False:
            task["cachingOptions"] = {}
        if wanted.retries:
            # Doubling pauses give a full cluster or a busy object store time to recover.
            task["retryPolicy"] = {
                "maxRetryCount": wanted.retries,
                "backoffDuration": "30s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": f"{RETRY_WINDOW_S}s",
            }
        if wanted.gpu_count:
            check_gpu_type(f"resources.{name}", wanted.gpu_type, vertex)
        if asked := _container_resources(wanted):
            _container(spec, name)["resources"] = asked
        if asked := _kubernetes(wanted):
            executors[spec["components"][name]["executorLabel"]] = asked
    if not executors:
        return {}
    if vertex:
        first = sorted(executors)[0].removesuffix("_executor")
        raise DataError(
            f"resources.{first}: Vertex AI has no Kubernetes volumes, secrets, node selectors, "
            "tolerations or timeouts. Leave them out with --vertex"
        )
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}


def check_gpu_type(part: str, gpu_type: str | None, vertex: bool = False) -> None:
    """Raises DataError for a GPU type unknown to the backend; `part` has the setting."""
    if vertex and not re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", gpu_type or ""):
        given = f"gpu_type={gpu_type} is not" if gpu_type else "gpu_count needs"
        raise DataError(
            f"{part}: {given} the name of a Vertex AI accelerator. Add "
            f"--set {part}.gpu_type=NVIDIA_TESLA_T4 (or NVIDIA_L4, NVIDIA_A100_80GB, ...)"
        )
    if not vertex and gpu_type and not re.fullmatch(r"[a-z0-9.-]+/[\w.-]+", gpu_type):
        raise DataError(
            f"{part}.gpu_type={gpu_type}: not the name of a Kubernetes resource. Write {GPU}, "
            "amd.com/gpu or another that the nodes offer"
        )


def _container_resources(wanted: Resources) -> dict:
    asked: dict[str, Any] = {}
    if wanted.cpu:
        asked |= {"cpuLimit": wanted.cpu, "cpuRequest": wanted.cpu}
    if wanted.memory_gb:
        asked |= {"memoryLimit": wanted.memory_gb, "memoryRequest": wanted.memory_gb}
    if wanted.gpu_count:
        asked["accelerator"] = {"type": wanted.gpu_type or GPU, "count": str(wanted.gpu_count)}
    return asked


def _kubernetes(wanted: Resources) -> dict:
    """The KubernetesExecutorConfig of a component, with the field names of KFP 2.0 and later."""
    asked: dict[str, Any] = {}
    if wanted.node_selector:
        # A component's own labels come first, and win over those of `all`.
        labels = dict(entry.split("=", 1) for entry in reversed(wanted.node_selector))
        asked["nodeSelector"] = {"labels": labels}
    if wanted.tolerations:
        asked["tolerations"] = [toleration(entry) for entry in wanted.tolerations]
    if wanted.volumes:
        pairs = (entry.split(":", 1) for entry in wanted.volumes)
        asked["pvcMount"] = [{"constant": claim, "mountPath": path} for claim, path in pairs]
    if wanted.secrets:
        asked["secretAsEnv"] = [_secret(entry) for entry in wanted.secrets]
    if wanted.timeout_s:
        asked["activeDeadlineSeconds"] = str(wanted.timeout_s)
    return asked


def _secret(entry: str) -> dict:
    variable, _, place = entry.partition("=")
    secret, _, key = place.partition("/")
    return {"secretName": secret, "keyToEnv": [{"secretKey": key, "envVar": variable}]}
