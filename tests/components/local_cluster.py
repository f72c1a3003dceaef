"""A one-machine Kubernetes for one Indexed Job, whose pods are processes.

A pod's container runs exactly the manifest's command, with the manifest's environment and what
Kubernetes adds. The rules follow the Job controller of Kubernetes 1.34, `syncJob` in
pkg/controller/job/job_controller.go and `matchPodFailurePolicy` in pod_failure_policy.go: a failed
pod is replaced by one with the same index, the first matching rule says whether it counts, and more
failures than `backoffLimit` end the Job.

gRPC connects through a proxy that knows the pods' names: NAME-INDEX.SERVICE leads to the pod if a
headless Service selects it and is its subdomain.
"""

import contextlib
import os
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.components.kubernetes_api import serving
from tests.forked_python import ForkedPython

_UID = "0b3c0c2e-0000-4000-8000-000000000000"


@dataclass
class _Pod:
    index: int
    process: ForkedPython
    log: Path
    lines: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.log.stem

    @property
    def status(self) -> int | None:
        """The exit status as a container reports it."""
        status = self.process.poll()
        return 128 - status if status is not None and status < 0 else status


@dataclass
class LocalCluster:
    """Runs the script `python` for the command `python`; `faults` are the first pods' variables.

    `events` lists what happened to the Job and its pods, in order.
    """

    folder: Path
    python: Path
    environment: dict[str, str]
    faults: dict[int, dict[str, str]] = field(default_factory=dict)
    job: dict | None = None
    service: dict | None = None
    pods: list[_Pod] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    counted: int = 0
    conditions: list[dict] = field(default_factory=list)

    def answer(self, method: str, path: str, body: dict | None):
        """The API server's status and answer."""
        path, _, query = path.partition("?")
        namespace = self.job["metadata"]["namespace"] if self.job else "none"
        pods = f"/api/v1/namespaces/{namespace}/pods"
        match method, path.rstrip("/").split("/")[-1]:
            case "POST", "jobs":
                self.job = body
                self.events.append("job created")
                self._sync()
                return 201, {**body, "metadata": {**body["metadata"], "uid": _UID}}
            case "POST", "services":
                self.service = body
                self.events.append("service created")
                return 201, body
            case "DELETE", _:
                kind = path.split("/")[-2]
                self.events.append(f"{kind} deleted")
                self.close()
                return 200, {}
            case "GET", "pods":
                assert query == f"labelSelector=job-name%3D{self.job['metadata']['name']}"
                return 200, {"items": [self._described(pod) for pod in self.pods]}
            case "GET", "log":
                (pod,) = (p for p in self.pods if path == f"{pods}/{p.name}/log")
                return 200, self._log(pod)
            case "GET", name if name == self.job["metadata"]["name"]:
                self._sync()
                done = sorted({pod.index for pod in self.pods if pod.status == 0})
                indexes = ",".join(map(str, done))
                return 200, {"status": {"completedIndexes": indexes, "conditions": self.conditions}}
        raise AssertionError((method, path))

    def address(self, name: str) -> str | None:
        """The loopback address for a pod's name, None if DNS would not know it."""
        host, _, domain = name.partition(".")
        template, service = self.job["spec"]["template"], self.service
        labels = {**template["metadata"]["labels"], "job-name": self.job["metadata"]["name"]}
        if (
            service is None
            or domain != service["metadata"]["name"]
            or template["spec"]["subdomain"] != domain
            or service["spec"]["clusterIP"] != "None"
            or not service["spec"]["selector"].items() <= labels.items()
        ):
            return None
        names = {
            f"{self.job['metadata']['name']}-{i}" for i in range(self.job["spec"]["completions"])
        }
        return "127.0.0.1" if host in names else None

    def close(self) -> None:
        """Kills all pods."""
        for pod in self.pods:
            pod.process.kill()
            pod.process.wait()

    def _sync(self) -> None:
        """Acts as the Job controller."""
        if self.conditions:
            return
        spec = self.job["spec"]
        assert spec["completionMode"] == "Indexed"
        assert spec["template"]["spec"]["restartPolicy"] == "Never"
        for index in range(spec["completions"]):
            own = [pod for pod in self.pods if pod.index == index]
            if own and own[-1].status is None or any(pod.status == 0 for pod in own):
                continue
            if own:
                action = self._action(own[-1].status)
                self.events.append(f"pod {index} ended with {own[-1].status}: {action}")
                self.counted += action == "Count"
                if action == "FailJob" or self.counted > spec["backoffLimit"]:
                    failed = {"type": "Failed", "status": "True", "reason": action}
                    self.conditions.append({**failed, "message": "too often"})
                    return
            self._start(index, len(own))

    def _action(self, status: int) -> str:
        for rule in self.job["spec"]["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes")
            if codes and codes["operator"] == "In" and status in codes["values"]:
                return rule["action"]
        return "Count"

    def _start(self, index: int, attempt: int) -> None:
        (container,) = self.job["spec"]["template"]["spec"]["containers"]
        assert container["command"][0] == "python"
        log = self.folder / f"{self.job['metadata']['name']}-{index}-{attempt}.log"
        environment = {
            **self.environment,
            **(self.faults.get(index, {}) if not attempt else {}),
            **{entry["name"]: entry["value"] for entry in container["env"]},
            "JOB_COMPLETION_INDEX": str(index),
        }
        log.touch()
        process = ForkedPython(
            self.python, *container["command"][1:], stdout=log, environment=environment
        )
        self.pods.append(_Pod(index, process, log))

    def _described(self, pod: _Pod) -> dict:
        status = pod.status
        state = {"running": {}} if status is None else {"terminated": {"exitCode": status}}
        return {
            "metadata": {
                "name": pod.name,
                "annotations": {"batch.kubernetes.io/job-completion-index": str(pod.index)},
            },
            "spec": {"containers": []},
            "status": {
                "phase": {None: "Running", 0: "Succeeded"}.get(status, "Failed"),
                "containerStatuses": [
                    {
                        "name": "worker",
                        "image": "",
                        "imageID": "",
                        "ready": True,
                        "restartCount": 0,
                        "state": state,
                    }
                ],
            },
        }

    def _log(self, pod: _Pod) -> str:
        """A pod's output, each line stamped when it was first seen."""
        text = pod.log.read_text(encoding="utf-8")
        for line in text[: text.rfind("\n") + 1].splitlines()[len(pod.lines) :]:
            pod.lines.append(f"2026-01-01T00:00:00.{len(pod.lines):09}Z {line}\n")
        return "".join(pod.lines)


@contextlib.contextmanager
def proxying(cluster: LocalCluster) -> Iterator[str]:
    """Runs an HTTP proxy that knows the pods' names; yields its URL."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := self.request.recv(4096)):
                    return
                head += part
            host, _, port = head.split()[1].decode().rpartition(":")
            address = cluster.address(host)
            if address is None:
                self.request.sendall(b"HTTP/1.1 404 Unknown\r\n\r\n")
                return
            try:
                peer = socket.create_connection((address, int(port)))
            except OSError:
                self.request.sendall(b"HTTP/1.1 502 Refused\r\n\r\n")
                return
            with peer:
                self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                _pump(self.request, peer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, block_on_close = True, False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            for source in select.select([one, other], [], [])[0]:
                if not (data := source.recv(1 << 16)):
                    return
                (other if source is one else one).sendall(data)


@contextlib.contextmanager
def running(cluster: LocalCluster) -> Iterator:
    """Runs the cluster with its API and names; yields a client for the API."""
    with proxying(cluster) as proxy, serving(cluster.answer) as api:
        cluster.environment = {**os.environ, **cluster.environment, "grpc_proxy": proxy}
        try:
            yield api
        finally:
            cluster.close()
