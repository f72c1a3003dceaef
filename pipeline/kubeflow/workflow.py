"""The components of a run, their attempts and pods, read from the Argo Workflow behind it.

Kubeflow's own details of a run contain neither pods nor errors: toApiPipelineTaskDetail in
backend/src/apiserver/server/api_converter.go of KFP 2.x leaves both out. They are the fallback for
servers that do not return the workflow.
"""

import base64
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Argo's name for one attempt of a step that has retries.
_ATTEMPT = re.compile(r"\((\d+)\)$")
# Steps that Kubeflow adds around the components, whose names are those of the pipeline's tasks.
_ROOT, _DRIVER, _EXECUTOR = "root", "-driver", "executor"
_AROUND = r"-driver$|^(executor|root|ssd-.*)$"
# Part of an executor pod's name, and the node for a pod of which only the name is known.
_POD = "-impl-"
_UNKNOWN = {"displayName": _EXECUTOR, "type": "Pod", "phase": None, "startedAt": "", "children": ()}
# Argo's phases that the API names differently.
_STATES = {"ERROR": "FAILED", "OMITTED": "SKIPPED"}
_POD_NAMES = "workflows.argoproj.io/pod-name-format"


@dataclass(frozen=True)
class Task:
    """A component in a run; `attempt` counts from 1, `error` is empty without an error."""

    name: str
    state: str
    error: str
    attempt: int = 1


class Workflow:
    """A workflow, from its `manifest` as JSON; an empty one has not started."""

    def __init__(self, manifest: str) -> None:
        workflow = json.loads(manifest or "{}")
        self._metadata = workflow.get("metadata", {})
        status = workflow.get("status", {})
        nodes = status.get("nodes") or {}
        if packed := status.get("compressedNodes"):
            nodes = json.loads(gzip.decompress(base64.b64decode(packed)))
        self._nodes = list(nodes.values())

    @classmethod
    def from_details(cls, details: Sequence) -> "Workflow":
        """A workflow rebuilt from a run's details, V2beta1PipelineTaskDetail."""
        nodes = {node["id"]: node for node in map(_node, details)}
        for node in list(nodes.values()):
            for pod in node["children"]:
                nodes.setdefault(pod, {**_UNKNOWN, "id": pod, "podName": pod})
        root = {**_UNKNOWN, "id": _ROOT, "displayName": _ROOT}
        components = [node for node in nodes.values() if _is_component(node["displayName"])]
        for component in components:
            component["boundaryID"] = root["id"]
            pending = [component]
            while pending:
                outer = pending.pop()
                children = [nodes[pod] for pod in outer["children"]]
                inner = [n for n in children if _ATTEMPT.sub("", n["displayName"]) == _EXECUTOR]
                for node in inner:
                    node["boundaryID"] = component["id"]
                if inner:
                    outer["type"] = "DAG"  # With retries, the attempts are the pods.
                pending += inner
        workflow = cls("")
        workflow._nodes = [root, *nodes.values()]
        return workflow

    def tasks(self) -> list[Task]:
        """The components, in the order in which they started."""
        return [self._task(node) for node in self._components()]

    def pods(self, component: str) -> list[str]:
        """Names of a component's pods, first attempt first."""
        return [
            self._pod_name(executor)
            for node in self._components()
            if node["displayName"] == component
            for executor in self._executors(node)
        ]

    def _components(self) -> list[dict]:
        roots = [node["id"] for node in self._nodes if node["displayName"] == _ROOT]
        found = [
            node
            for node in self._nodes
            if node.get("boundaryID") in roots and _is_component(node["displayName"])
        ]
        return sorted(found, key=lambda node: node.get("startedAt") or "")

    def _task(self, node: dict) -> Task:
        attempts = self._executors(node)
        state = _state(node)
        errors = [_message(attempt) for attempt in attempts[-1:]]
        for driver in self._nodes:
            if (
                driver["displayName"] == node["displayName"] + _DRIVER
                and _state(driver) == "FAILED"
            ):
                # If the driver fails, the component is skipped, and the driver has the reason.
                state, errors = "FAILED", [f"its driver failed: {_message(driver) or 'no message'}"]
        errors.append(_message(node))
        return Task(
            node["displayName"],
            state,
            error=next(filter(None, errors), ""),
            attempt=max(1, len(attempts)),
        )

    def _executors(self, component: dict) -> list[dict]:
        """Nodes of a component's pods, first attempt first.

        Found by boundary, since children lead on to later components. With retries there is also a
        node of type Retry, which is not a pod.
        """
        found = [
            node
            for node in self._nodes
            if node.get("boundaryID") == component["id"]
            and node["type"] == "Pod"
            and node["displayName"].startswith(_EXECUTOR)
        ]
        return sorted(found, key=_number)

    def _pod_name(self, node: dict) -> str:
        """The pod name as Argo builds it (RetrievePodName, backend/src/common/util/workflow.go)."""
        if "podName" in node:
            return node["podName"]
        if self._metadata.get("annotations", {}).get(_POD_NAMES) == "v1":
            return node["id"]
        prefix, _, digest = node["id"].rpartition("-")
        return f"{self._metadata.get('name', prefix)}-{node['templateName']}-{digest}"


def _is_component(name: str) -> bool:
    # Not an attempt, `NAME(0)`, a hook, `NAME.onExit`, or a step around components.
    return bool(re.fullmatch(r"[\w-]+", name)) and not re.search(_AROUND, name)


def _node(detail: Any) -> dict:
    """Converts a detail to an Argo node."""
    children = [child.pod_name for child in detail.child_tasks or () if child.pod_name]
    return {
        "id": detail.pod_name or detail.task_id or detail.display_name,
        "podName": detail.pod_name,
        "displayName": detail.display_name or "",
        "type": "Pod" if _POD in (detail.pod_name or "") else "DAG",
        "phase": detail.state,
        "startedAt": str(detail.start_time or detail.create_time or ""),
        "message": detail.error.message if detail.error else "",
        "children": children,
    }


def _state(node: dict) -> str:
    phase = (node.get("phase") or "Pending").upper()
    return _STATES.get(phase, phase)


def _message(node: dict) -> str:
    # The message of a succeeded pod is not an error.
    return "" if _state(node) == "SUCCEEDED" else node.get("message") or ""


def _number(node: dict) -> int:
    match = _ATTEMPT.search(node["displayName"])
    return int(match[1]) if match else 0
