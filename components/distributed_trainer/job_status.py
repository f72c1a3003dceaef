"""Interprets the status of a Job and its pods, as JSON."""

import logging
from collections.abc import Iterator

from trainer.worker import LOST_WORKER

_log = logging.getLogger("ssd.trainer")
# Reasons for waiting that do not go away.
_CANNOT_START = (
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
)
# Polls of a Job without pods before it is reported.
_LOOKS_WITHOUT_POD = 6


def succeeded(status: dict) -> bool:
    """Whether the chief has succeeded, that is, written the model.

    Kubernetes before 1.31 has no success policy, and waits for the other workers.
    """
    indexes = status.get("completedIndexes", "").split(",")
    done = any(index.split("-")[0] == "0" for index in indexes)
    return done or bool(condition(status, "Complete", "SuccessCriteriaMet"))


def condition(status: dict, *kinds: str) -> str:
    """Reason and message of the first true condition of these kinds; empty if there is none."""
    for entry in status.get("conditions", ()):
        if entry["type"] in kinds and entry["status"] == "True":
            reason = entry.get("reason") or entry["type"]
            return ": ".join(filter(None, (reason, entry.get("message"))))
    return ""


def _containers(pod: dict) -> Iterator[tuple[str, dict]]:
    """Kind and details of each container's state."""
    for status in pod["status"].get("containerStatuses", ()):
        yield from status["state"].items()


def cannot_start(pods: list[dict]) -> str:
    """Why a pod will never start; empty if all may start."""
    for pod in pods:
        for kind, state in _containers(pod):
            if kind == "waiting" and state.get("reason") in _CANNOT_START:
                return (
                    f"{pod['metadata']['name']}: {state['reason']}, {state.get('message')}. Check "
                    "training_job.image, its registry's secret, and the secrets it names"
                )
    return ""


def _ended(pods: list[dict]) -> list[tuple[str, str]]:
    """Pods that failed and why, oldest first, except those that only lost another worker."""
    found = []
    for pod in pods:
        for kind, state in _containers(pod):
            if kind != "terminated" or state["exitCode"] in (0, LOST_WORKER):
                continue
            why = f"ended with status {state['exitCode']}"
            if state.get("reason") == "OOMKilled":
                why = "out of memory, raise training_job.memory_gb"
            found.append((state.get("finishedAt") or "", pod["metadata"]["name"], why))
    return [(name, why) for _, name, why in sorted(found)]


def why_ended(pods: list[dict]) -> str:
    """The last pod that failed by itself, and why; empty if there is none."""
    ended = _ended(pods)
    return ": ".join(ended[-1]) if ended else ""


class StatusLog:
    """Logs once each why a Job is waiting or restarting."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._waiting = ""
        self._restarted: set[str] = set()
        self._looks_without_pod = 0

    def update(self, status: dict, pods: list[dict]) -> None:
        """Logs what is new since the last call."""
        self._looks_without_pod = 0 if pods else self._looks_without_pod + 1
        waiting = self._why_waiting(status, pods)
        if waiting and waiting != self._waiting:
            _log.warning("  %s waits: %s", self._title, waiting)
        self._waiting = waiting
        for pod, ended in _ended(pods):
            if pod not in self._restarted:
                self._restarted.add(pod)
                _log.warning("  %s continues without %s: %s", self._title, pod, ended)

    def _why_waiting(self, status: dict, pods: list[dict]) -> str:
        if condition(status, "Suspended"):
            return "it is suspended until its queue has room for all workers"
        for pod in pods:
            for entry in pod["status"].get("conditions", ()):
                if entry["type"] == "PodScheduled" and entry["status"] == "False":
                    return f"{pod['metadata']['name']}: {entry.get('message', 'no node')}"
        if self._looks_without_pod >= _LOOKS_WITHOUT_POD:
            return "it has no pods yet, perhaps because of a quota; see kubectl describe job"
        return ""
