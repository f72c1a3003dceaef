"""A Job on a cluster: started, followed to its end, removed."""

import contextlib
import json
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from components.distributed_trainer.manifest import CONTAINER, JOB_LABEL, headless_service
from data.errors import DataError
from trainer.worker import LOST_WORKER

_log = logging.getLogger("ssd.trainer")
# Of the pod that this process runs in.
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_OVER = ("Succeeded", "Failed")
_INDEX = "batch.kubernetes.io/job-completion-index"
# What a container waits for that does not come by waiting.
_CANNOT_START = (
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
)
# Questions in a row that the API server may leave unanswered.
_MAX_UNANSWERED = 10
# Looks at a Job without a pod after which this is told.
_LOOKS_WITHOUT_POD = 6
# Answers are read as plain JSON: the client's own types refuse rules of a podFailurePolicy that
# Kubernetes allows. The timeout notices a connection that has died.
_PLAIN = {"_preload_content": False, "_request_timeout": 30}
_LOG_OVERLAP_SECONDS = 60
# Of the chief's log in the error of a job that has failed.
_LAST_LINES = 20
_UNREACHED = (ApiException, urllib3.exceptions.HTTPError)


def connect() -> client.ApiClient:
    """A client of the cluster that this process runs in, or that kubectl is set up for.

    Raises:
        DataError: there is neither.
    """
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except config.ConfigException as error:
            raise DataError(
                f"no Kubernetes cluster to train on ({error}). Run in one, set KUBECONFIG, or "
                "train in the Trainer itself with training_job.workers=0"
            ) from error
    return client.ApiClient()


def own_pod(namespace: str) -> dict | None:
    """The owner reference of the pod of Kubeflow Pipelines that this process runs in.

    What it owns is removed with it, also when it goes without a word. None elsewhere, and for
    another `namespace` than the pod's: Kubernetes removes what has an owner there.
    """
    name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
    if not (name and uid and _NAMESPACE.is_file() and _NAMESPACE.read_text() == namespace):
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


def run(api: client.ApiClient, manifest: dict, poll_seconds: float = 5.0) -> None:
    """Starts a Job and its Service, prints what its chief prints until it ends, and removes both.

    A Job of that name is one that an earlier attempt of the same training has left behind: it is
    removed first. SIGTERM and Ctrl-C remove the Job too.

    Raises:
        DataError: it cannot be started, or has failed: what the cluster says of it.
    """
    with _interruptible() as wait:
        _Job(api, manifest, wait, poll_seconds).run()


class _Job:
    def __init__(
        self,
        api: client.ApiClient,
        manifest: dict,
        wait: Callable[[float], None],
        poll_seconds: float,
    ):
        self._host = api.configuration.host
        self._jobs, self._core = client.BatchV1Api(api), client.CoreV1Api(api)
        self._manifest, self._wait, self._poll_seconds = manifest, wait, poll_seconds
        self._name = manifest["metadata"]["name"]
        self._namespace = manifest["metadata"]["namespace"]
        self._place = {"name": self._name, "namespace": self._namespace, **_PLAIN}
        self._title = f"Job {self._namespace}/{self._name}"

    def run(self) -> None:
        with self._explained():
            job = self._create(
                lambda: self._jobs.create_namespaced_job(self._namespace, self._manifest, **_PLAIN),
                # In the foreground: its pods are gone before it is, and write no checkpoints then.
                lambda: self._jobs.delete_namespaced_job(
                    **self._place, propagation_policy="Foreground"
                ),
            )
        try:
            with self._explained():
                service = headless_service(self._manifest, job["metadata"]["uid"])
                self._create(
                    lambda: self._core.create_namespaced_service(
                        self._namespace, service, **_PLAIN
                    ),
                    # One of an earlier Job goes with that Job, a while after it.
                    lambda: self._core.delete_namespaced_service(**self._place),
                )
            _log.info("  %s started", self._title)
            self._follow()
        finally:
            self._remove()

    def _create(self, create: Callable, delete: Callable) -> dict:
        """Creates something in place of what an earlier attempt left behind; returns it."""
        told = False
        while True:
            try:
                return json.loads(create().data)
            except ApiException as error:
                if error.status != 409:
                    raise
            if not told:
                _log.warning("  %s: removing what an earlier attempt left behind", self._title)
            told = True
            with contextlib.suppress(ApiException):  # Gone, or going, or the next answer tells.
                delete()
            self._wait(self._poll_seconds)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise DataError(f"{self._title}: {_refusal(error, self._namespace)}") from error
        except urllib3.exceptions.HTTPError as error:
            raise DataError(f"{self._host}: Kubernetes is not reached ({error})") from error

    def _remove(self) -> None:
        # What goes wrong here is not why a training failed; the Service is removed with the Job,
        # and the Job after `ttlSecondsAfterFinished` or with the Trainer's pod.
        with contextlib.suppress(*_UNREACHED):
            self._jobs.delete_namespaced_job(**self._place, propagation_policy="Background")
        with contextlib.suppress(*_UNREACHED):
            self._core.delete_namespaced_service(**self._place)

    def _follow(self) -> None:
        chief = _ChiefLog(self._core, self._namespace)
        told = _Told(self._title)
        unanswered = 0
        while True:
            try:
                job = json.loads(self._jobs.read_namespaced_job(**self._place).data)
                found = self._core.list_namespaced_pod(
                    self._namespace, label_selector=f"{JOB_LABEL}={self._name}", **_PLAIN
                )
                pods = json.loads(found.data)["items"]
                chief.print_new_lines(pods)
                unanswered = 0
            except _UNREACHED as error:
                gone = isinstance(error, ApiException) and error.status in (401, 403, 404)
                unanswered += 1
                if gone or unanswered > _MAX_UNANSWERED:
                    raise DataError(
                        f"{self._title}: the cluster no longer answers for it ({error})"
                    ) from error
                self._wait(self._poll_seconds)
                continue
            status = job.get("status", {})
            if _succeeded(status):
                return
            if failure := _condition(status, "Failed", "FailureTarget"):
                raise DataError(
                    f"{self._title} failed: {_why_ended(pods) or failure}. The last lines of its "
                    "chief:\n" + "\n".join(chief.last_lines)
                )
            if problem := _cannot_start(pods):
                raise DataError(f"{self._title} cannot start: {problem}")
            told.tell(status, pods)
            self._wait(self._poll_seconds)


class _Told:
    """What is said of a Job that is waiting or restarting: told once each, and not judged."""

    def __init__(self, title: str):
        self._title = title
        self._waiting = ""
        self._restarted: set[str] = set()
        self._looks_without_pod = 0

    def tell(self, status: dict, pods: list[dict]) -> None:
        self._looks_without_pod = 0 if pods else self._looks_without_pod + 1
        waiting = self._why_waiting(status, pods)
        if waiting and waiting != self._waiting:
            _log.warning("  %s waits: %s", self._title, waiting)
        self._waiting = waiting
        for pod, ended in _ended(pods):
            if pod not in self._restarted:
                self._restarted.add(pod)
                _log.warning("  %s goes on without %s: %s", self._title, pod, ended)

    def _why_waiting(self, status: dict, pods: list[dict]) -> str:
        if _condition(status, "Suspended"):
            return "it is suspended until its queue has room for all workers"
        for pod in pods:
            for condition in pod["status"].get("conditions", ()):
                if condition["type"] == "PodScheduled" and condition["status"] == "False":
                    return f"{pod['metadata']['name']}: {condition.get('message', 'no node')}"
        if self._looks_without_pod >= _LOOKS_WITHOUT_POD:
            return "it has no pods yet; kubectl describe job tells why, a quota for example"
        return ""


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[float], None]]:
    """Gives a sleep that SIGTERM ends by SystemExit, so that what follows `finally` is done.

    The handler itself only writes to a pipe: an exception raised in it can be lost, and a lock that
    it takes may be held by what it interrupts.
    """
    reader, writer = os.pipe()

    def stop(number: int, frame: FrameType | None) -> None:
        os.write(writer, b"!")

    def wait(seconds: float) -> None:
        if select.select([reader], [], [], seconds)[0]:
            raise SystemExit(128 + signal.SIGTERM)

    # Only the main thread may set handlers; another one has to be ended by it.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield wait
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        os.close(reader)
        os.close(writer)


def _succeeded(status: dict) -> bool:
    """Whether the chief has succeeded: then the model is written.

    Kubernetes before 1.31 has no success policy, and waits for the other workers.
    """
    indexes = status.get("completedIndexes", "").split(",")
    done = any(index.split("-")[0] == "0" for index in indexes)
    return done or bool(_condition(status, "Complete", "SuccessCriteriaMet"))


def _condition(status: dict, *kinds: str) -> str:
    """Reason and message of a condition that holds, of one of these kinds; empty without one."""
    for condition in status.get("conditions", ()):
        if condition["type"] in kinds and condition["status"] == "True":
            reason = condition.get("reason") or condition["type"]
            return f"{reason}: {condition.get('message') or 'no message'}"
    return ""


def _containers(pod: dict) -> Iterator[tuple[str, dict]]:
    """Kind and details of the state of each container."""
    for status in pod["status"].get("containerStatuses", ()):
        yield from status["state"].items()


def _cannot_start(pods: list[dict]) -> str:
    for pod in pods:
        for kind, state in _containers(pod):
            if kind == "waiting" and state.get("reason") in _CANNOT_START:
                return (
                    f"{pod['metadata']['name']}: {state['reason']}, {state.get('message')}. Check "
                    "training_job.image, its registry's secret, and the secrets that are named"
                )
    return ""


def _ended(pods: list[dict]) -> list[tuple[str, str]]:
    """Pods that failed by themselves and why, the first first; not those that lost another one."""
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


def _why_ended(pods: list[dict]) -> str:
    ended = _ended(pods)
    return ": ".join(ended[-1]) if ended else ""


def _index(pod: dict) -> str | None:
    return pod["metadata"].get("annotations", {}).get(_INDEX)


def _created(metadata: dict) -> str:
    return metadata.get("creationTimestamp") or ""


class _ChiefLog:
    """What worker 0 has printed, line by line as it comes, from one pod of it after the other."""

    def __init__(self, core: client.CoreV1Api, namespace: str):
        self._core, self._namespace = core, namespace
        self._read_until: dict[str, str] = {}
        self._read_at = time.monotonic()
        self._over: set[str] = set()
        self.last_lines: list[str] = []

    def print_new_lines(self, pods: list[dict]) -> None:
        now = time.monotonic()
        chiefs = [pod["metadata"] for pod in pods if _index(pod) == "0"]
        over = {pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") in _OVER}
        for name in [m["name"] for m in sorted(chiefs, key=_created)]:
            if name in self._over:
                continue
            self._print(name, int(now - self._read_at) + _LOG_OVERLAP_SECONDS)
        self._over |= over
        self._read_at = now

    def _print(self, pod: str, since_seconds: int) -> None:
        try:
            found = self._core.read_namespaced_pod_log(
                pod,
                self._namespace,
                container=CONTAINER,
                timestamps=True,
                # More than is new: the clocks of this machine and of the node may differ.
                since_seconds=since_seconds,
                **_PLAIN,
            )
        except ApiException as error:
            if error.status in (400, 404):
                return  # Not started yet, or gone.
            raise
        text = found.data.decode("utf-8", "replace")
        # Kubernetes writes timestamps of one length, so that they sort as text.
        lines = [line.partition(" ") for line in text.splitlines()]
        until = self._read_until.get(pod, "")
        for at, _, words in lines:
            if at > until:
                self._read_until[pod] = at
                _log.info("%s", words)
                self.last_lines = [*self.last_lines, words][-_LAST_LINES:]


def _refusal(error: ApiException, namespace: str) -> str:
    if error.status in (401, 403):
        return (
            f"not allowed ({error.status}). Give the service account of the Trainer the role of "
            f"pipeline/kubeflow/manifests/training-job.yaml in {namespace}"
        )
    if error.status == 404:
        return f"the cluster has no namespace {namespace}. Check training_job.namespace"
    return f"refused with status {error.status}: {error.body or error.reason}"
