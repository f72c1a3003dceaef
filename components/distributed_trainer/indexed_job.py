"""Starts a Job on a cluster, follows it to its end, and removes it."""

import contextlib
import json
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from components.distributed_trainer.chief_log import ChiefLog
from components.distributed_trainer.job_status import (
    StatusLog,
    cannot_start,
    condition,
    succeeded,
    why_ended,
)
from components.distributed_trainer.manifest import JOB_LABEL, headless_service
from data.errors import DataError

_log = logging.getLogger("ssd.trainer")
# Holds the namespace of this process's pod.
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Consecutive requests that the API server may leave unanswered.
_MAX_UNANSWERED = 10
# Responses are read as plain JSON: the client's own types reject podFailurePolicy rules that
# Kubernetes allows. The timeout detects dead connections.
_PLAIN = {"_preload_content": False, "_request_timeout": 30}
_UNREACHED = (ApiException, urllib3.exceptions.HTTPError)


def connect() -> client.ApiClient:
    """A client for the cluster this process runs in, or else the one kubectl is set up for.

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
    """An owner reference to the Kubeflow Pipelines pod that this process runs in.

    What the pod owns is removed with it, even if it is killed. None outside such a pod, or if its
    namespace is not `namespace`: Kubernetes deletes objects with an owner in another namespace.
    """
    name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
    if not (name and uid and _NAMESPACE.is_file() and _NAMESPACE.read_text().strip() == namespace):
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


def run(api: client.ApiClient, manifest: dict, poll_seconds: float = 5.0) -> None:
    """Starts a Job and its Service, prints its chief's output until it ends, and removes both.

    An existing Job of that name, left behind by an earlier attempt at the same training, is removed
    first. SIGTERM and Ctrl-C remove the Job too.

    Raises:
        DataError: it cannot be started or has failed, with the cluster's reason.
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
    ) -> None:
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
                # In the foreground: its pods are gone first, so they write no more checkpoints.
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
                    # An earlier Job's Service is removed with that Job, but only after a while.
                    lambda: self._core.delete_namespaced_service(**self._place),
                )
            _log.info("  %s started", self._title)
            self._follow()
        finally:
            self._remove()

    def _create(self, create: Callable, delete: Callable) -> dict:
        """Creates an object, replacing what an earlier attempt left behind; returns it."""
        warned = False
        while True:
            try:
                return json.loads(create().data)
            except ApiException as error:
                if error.status != 409:
                    raise
            if not warned:
                _log.warning("  %s: removing what an earlier attempt left behind", self._title)
            warned = True
            with contextlib.suppress(ApiException):  # Already gone, or the next attempt fails.
                delete()
            self._wait(self._poll_seconds)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise DataError(f"{self._title}: {_refusal(error, self._namespace)}") from error
        except urllib3.exceptions.HTTPError as error:
            raise DataError(f"{self._host}: cannot reach Kubernetes ({error})") from error

    def _remove(self) -> None:
        # Errors here must not hide why a training failed. Kubernetes removes the Service with the
        # Job, and the Job after `ttlSecondsAfterFinished` or with the Trainer's pod.
        with contextlib.suppress(*_UNREACHED):
            self._jobs.delete_namespaced_job(**self._place, propagation_policy="Background")
        with contextlib.suppress(*_UNREACHED):
            self._core.delete_namespaced_service(**self._place)

    def _follow(self) -> None:
        chief = ChiefLog(self._core, self._namespace, _PLAIN)
        status_log = StatusLog(self._title)
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
                        f"{self._title}: lost contact with the cluster ({error})"
                    ) from error
                self._wait(self._poll_seconds)
                continue
            status = job.get("status", {})
            if succeeded(status):
                return
            if failure := condition(status, "Failed", "FailureTarget"):
                why = "; ".join(filter(None, (failure, why_ended(pods))))
                raise DataError(
                    f"{self._title} failed: {why}. The chief's last lines:\n"
                    + "\n".join(chief.last_lines)
                )
            if problem := cannot_start(pods):
                raise DataError(f"{self._title} cannot start: {problem}")
            status_log.update(status, pods)
            self._wait(self._poll_seconds)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[float], None]]:
    """Yields a sleep that SIGTERM ends with SystemExit, so that `finally` blocks run.

    The handler only writes to a pipe: an exception raised in it can be lost, and the code it
    interrupts may hold a lock that it needs.
    """
    reader, writer = os.pipe()

    def stop(number: int, frame: FrameType | None) -> None:
        os.write(writer, b"!")

    def wait(seconds: float) -> None:
        if select.select([reader], [], [], seconds)[0]:
            raise SystemExit(128 + signal.SIGTERM)

    # Only the main thread can set handlers; it must end other threads itself.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield wait
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        os.close(reader)
        os.close(writer)


def _refusal(error: ApiException, namespace: str) -> str:
    if error.status in (401, 403):
        return (
            f"not allowed ({error.status}). Give the Trainer's service account the role from "
            f"pipeline/kubeflow/manifests/training-job.yaml in {namespace}"
        )
    if error.status == 404:
        return f"the cluster has no namespace {namespace}. Check training_job.namespace"
    return f"refused with status {error.status}: {error.body or error.reason}"
