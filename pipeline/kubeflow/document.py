"""Puts right what TFX emits and Kubeflow Pipelines cannot run, on the parsed document.

All differences between what KubeflowV2DagRunner writes and what is submitted are made here:

- The pipeline root is written into the specification; TFX leaves it out of its YAML.
- ImportExampleGen's look for its newest span is a hook that only Vertex AI calls: elsewhere the
  entry point of the container is told to do it.
- The schema is a file of the machine that compiles: it travels in the document, as a `data:` URL.
- The folder of the records becomes a parameter of the run. In an object store it is imported as an
  artifact, since open-source Kubeflow brings only artifacts into a container.
- Settings that TFX packs into JSON become parameters of the run (`pipeline.kubeflow.parameters`).
- The latest pushed model is looked for in every run, never taken from the cache.
- Names of tasks get dashes for underscores, which Argo Workflows does not take.
- How often a training logs and saves goes into its container's environment, where no cache sees it.
- Resources per component, and what only Kubernetes knows in the document's second part.

What else an open-source cluster cannot run is solved elsewhere: baselines without a resolver in
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
# Tasks that look for the latest pushed model.
LOOKED_UP = (BASELINE, BASELINE_DATA, BASE_MODEL)
# Left as they are in a URL, so that a schema can be read there.
_READABLE = " \n:;,{}[]()<>\"'/_-.=#"
_TRAINING = ("Tuner", "Trainer")
# Retries are given up this long after the first attempt has started. KFP makes it Argo's
# `backoff.maxDuration`, which bounds the attempts and pauses together, not one pause; left out, KFP
# writes 0 and nothing is retried (backend/src/v2/compiler/argocompiler/container.go of KFP 2.17.0,
# processNodeRetries in workflow/controller/operator.go of Argo Workflows 4.0.5).
RETRY_WINDOW_S = 30 * 24 * 3600
_EXAMPLE_GEN, _INPUT_BASE = "ImportExampleGen", "input_base"


def adapt(
    spec: dict, config: Config, *, root: str, data: str, schema: Path | None, vertex: bool
) -> dict:
    """Changes a pipeline's specification in place; returns the part that is for Kubernetes.

    Args:
      data: default of the run's parameter `data`, a path in the containers or a URI.
      schema: file on this machine, None if it is to be inferred.

    Raises:
      DataError: Vertex AI cannot give what the configuration asks for.
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
    """A task that makes an artifact of the run's data, in place of ImportExampleGen's parameter."""
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
        # Of steps and epochs, the configuration has one.
        if task is None or value is None:
            continue
        kind = {"parameterType": parameter.type}
        default = {"defaultValue": value}
        spec["root"]["inputDefinitions"]["parameters"][parameter.name] = kind | default
        task["inputs"]["parameters"][parameter.name] = {"componentInputParameter": parameter.name}
        component = spec["components"][parameter.component]
        component["inputDefinitions"]["parameters"][parameter.name] = kind


def _add_reporting(spec: dict, config: Config) -> None:
    """Puts settings that are no part of the cache key into the containers that train."""
    for name in _TRAINING:
        if name in spec["components"]:
            variables = environment(config.trainer).items()
            _container(spec, name)["env"] = [{"name": k, "value": v} for k, v in variables]


def _check_resources(spec: dict, config: Config) -> None:
    """DataError for resources of no component, but for a preset's: not all of its always run."""
    tasks = spec["root"]["dag"]["tasks"]
    preset = PRESETS[config.preset].resources
    for name, resources in config.resources.items():
        if name not in (ALL, *tasks) and resources != preset.get(name):
            raise DataError(f"resources.{name}: unknown component; {did_you_mean(name, tasks)}")


def _set_resources(spec: dict, resources: Mapping[str, Resources], vertex: bool) -> dict:
    """Puts resources where the specification has them; returns what it has no place for."""
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
            f"resources.{first}: Vertex AI has none of Kubernetes' volumes, secrets, node "
            "selectors, tolerations and timeouts. Leave them out with --vertex"
        )
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}


def check_gpu_type(part: str, gpu_type: str | None, vertex: bool = False) -> None:
    """Raises DataError for a type of GPU that the backend cannot know; `part` has the setting."""
    if vertex and not re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", gpu_type or ""):
        given = f"gpu_type={gpu_type} is not" if gpu_type else "gpu_count needs"
        raise DataError(
            f"{part}: {given} the name of an accelerator of Vertex AI. Add "
            f"--set {part}.gpu_type=NVIDIA_TESLA_T4 (or NVIDIA_L4, NVIDIA_A100_80GB, ...)"
        )
    if not vertex and gpu_type and not re.fullmatch(r"[a-z0-9.-]+/[\w.-]+", gpu_type):
        raise DataError(
            f"{part}.gpu_type={gpu_type}: not the name of a resource of Kubernetes. Write "
            f"{GPU}, amd.com/gpu or another one that the nodes offer"
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
    """The KubernetesExecutorConfig of a component, with the names that KFP 2.0 and later read."""
    asked: dict[str, Any] = {}
    if wanted.node_selector:
        # A component's own come first, and win.
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
