"""Prints worker 0's output, read through the Kubernetes API."""

import logging
import time

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from components.distributed_trainer.manifest import CONTAINER

_log = logging.getLogger("ssd.trainer")
_OVER = ("Succeeded", "Failed")
_INDEX = "batch.kubernetes.io/job-completion-index"
_OVERLAP_SECONDS = 60
# Kept for the error message of a failed Job.
_LAST_LINES = 20


class ChiefLog:
    """Worker 0's output line by line, from each of its pods in turn."""

    def __init__(self, core: client.CoreV1Api, namespace: str, options: dict) -> None:
        self._core, self._namespace, self._options = core, namespace, options
        self._read_until: dict[str, str] = {}
        self._read_at = time.monotonic()
        self._over: set[str] = set()
        self.last_lines: list[str] = []

    def print_new_lines(self, pods: list[dict]) -> None:
        """Logs new lines from a Job's `pods`; ApiException if they cannot be read."""
        now = time.monotonic()
        chiefs = [pod["metadata"] for pod in pods if _index(pod) == "0"]
        over = {pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") in _OVER}
        for name in [m["name"] for m in sorted(chiefs, key=_created)]:
            if name in self._over:
                continue
            self._print(name, int(now - self._read_at) + _OVERLAP_SECONDS)
        self._over |= over
        self._read_at = now

    def _print(self, pod: str, since_seconds: int) -> None:
        try:
            found = self._core.read_namespaced_pod_log(
                pod,
                self._namespace,
                container=CONTAINER,
                timestamps=True,
                # Overlaps, because this machine's clock and the node's may differ.
                since_seconds=since_seconds,
                **self._options,
            )
        except ApiException as error:
            if error.status in (400, 404):
                return  # Not started yet, or gone.
            raise
        text = found.data.decode("utf-8", "replace")
        # Kubernetes' timestamps have a fixed length, so they sort as text.
        lines = [line.partition(" ") for line in text.splitlines()]
        until = self._read_until.get(pod, "")
        for at, _, words in lines:
            if at > until:
                self._read_until[pod] = at
                _log.info("%s", words)
                self.last_lines = [*self.last_lines, words][-_LAST_LINES:]


def _index(pod: dict) -> str | None:
    return pod["metadata"].get("annotations", {}).get(_INDEX)


def _created(metadata: dict) -> str:
    return metadata.get("creationTimestamp") or ""
