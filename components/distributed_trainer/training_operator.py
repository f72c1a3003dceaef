"""A TFJob on a cluster: started, followed to its end, removed."""

import contextlib
import logging
import time
from collections.abc import Iterator

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from components.distributed_trainer.manifest import CONTAINER
from data.errors import DataError

_log = logging.getLogger("ssd.trainer")
_KIND = {"group": "kubeflow.org", "version": "v1", "plural": "tfjobs"}
_JOB_LABEL = "training.kubeflow.org/job-name"
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
_LOG_OVERLAP_SECONDS = 60
# Of the chief's log in the error of a job that has failed.
_LAST_LINES = 20


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


def run(api: client.ApiClient, manifest: dict, poll_seconds: float = 5.0) -> None:
    """Starts a TFJob, prints what its chief prints until it has ended, and removes it.

    Raises:
        DataError: it cannot be started, or has failed: what the operator and the pods say of it.
    """
    name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
    jobs = client.CustomObjectsApi(api)
    try:
        jobs.create_namespaced_custom_object(namespace=namespace, body=manifest, **_KIND)
    except ApiException as error:
        raise DataError(f"TFJob {namespace}/{name}: {_refusal(error, namespace)}") from error
    except urllib3.exceptions.HTTPError as error:
        raise DataError(f"{api.configuration.host}: Kubernetes is not reached ({error})") from error
    _log.info("  TFJob %s/%s started", namespace, name)
    try:
        _follow(api, name, namespace, poll_seconds)
    finally:
        # What goes wrong here is not why the training failed, and the job has ended or will end.
        with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError):
            jobs.delete_namespaced_custom_object(
                namespace=namespace, name=name, propagation_policy="Background", **_KIND
            )


def _follow(api: client.ApiClient, name: str, namespace: str, poll_seconds: float) -> None:
    jobs, chief = client.CustomObjectsApi(api), _ChiefLog(api, name, namespace)
    unanswered, unscheduled = 0, ""
    while True:
        try:
            found = jobs.get_namespaced_custom_object(namespace=namespace, name=name, **_KIND)
            chief.print_new_lines()
            state, text = _state(found)
            if state == "Succeeded":
                return
            pods = _pods(api, name, namespace)
            unanswered = 0
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            gone = isinstance(error, ApiException) and error.status in (401, 403, 404)
            unanswered += 1
            if gone or unanswered > _MAX_UNANSWERED:
                raise DataError(
                    f"TFJob {namespace}/{name}: the cluster no longer answers for it ({error})"
                ) from error
            time.sleep(poll_seconds)
            continue
        if state == "Failed":
            raise DataError(
                f"TFJob {namespace}/{name} failed: {_why_ended(pods) or text}. Its chief's last "
                "lines:\n" + "\n".join(chief.last_lines)
            )
        if problem := _cannot_start(pods):
            raise DataError(f"TFJob {namespace}/{name} cannot start: {problem}")
        # A cluster may grow until it fits, so this is told and not judged.
        if (waiting := _unscheduled(pods)) and waiting != unscheduled:
            _log.warning("  TFJob %s/%s waits for a node: %s", namespace, name, waiting)
        unscheduled = waiting
        time.sleep(poll_seconds)


def _state(job: dict) -> tuple[str, str]:
    """The latest condition of a TFJob that holds, and what the operator says of it."""
    holding = [
        condition
        for condition in job.get("status", {}).get("conditions", [])
        if condition["status"] == "True"
    ]
    if not holding:
        return "", ""
    return holding[-1]["type"], holding[-1].get("message", "")


def _pods(api: client.ApiClient, name: str, namespace: str) -> list:
    selector = f"{_JOB_LABEL}={name}"
    return client.CoreV1Api(api).list_namespaced_pod(namespace, label_selector=selector).items


def _container_states(pods: list) -> Iterator:
    for pod in pods:
        for status in pod.status.container_statuses or ():
            yield pod.metadata.name, status.state


def _cannot_start(pods: list) -> str:
    for pod, state in _container_states(pods):
        if state.waiting and state.waiting.reason in _CANNOT_START:
            return (
                f"{pod}: {state.waiting.reason}, {state.waiting.message}. Check "
                "training_job.image, its registry's secret, and the secrets that are named"
            )
    return ""


def _why_ended(pods: list) -> str:
    for pod, state in _container_states(pods):
        ended = state.terminated
        if ended and ended.reason == "OOMKilled":
            return f"{pod}: out of memory, raise training_job.memory_gb"
        if ended and ended.exit_code:
            return f"{pod}: ended with status {ended.exit_code}"
    return ""


def _unscheduled(pods: list) -> str:
    for pod in pods:
        for condition in pod.status.conditions or ():
            if condition.type == "PodScheduled" and condition.status == "False":
                return f"{pod.metadata.name}: {condition.message}"
    return ""


class _ChiefLog:
    """What worker 0 has printed, line by line as it comes, over its restarts too."""

    def __init__(self, api: client.ApiClient, name: str, namespace: str):
        self._core = client.CoreV1Api(api)
        self._pod, self._namespace = f"{name}-worker-0", namespace
        self._read_until = ""
        self._read_at = time.monotonic()
        self.last_lines: list[str] = []

    def print_new_lines(self) -> None:
        now = time.monotonic()
        try:
            text = self._core.read_namespaced_pod_log(
                self._pod,
                self._namespace,
                container=CONTAINER,
                timestamps=True,
                # More than is new: the clocks of this machine and of the node may differ.
                since_seconds=int(now - self._read_at) + _LOG_OVERLAP_SECONDS,
            )
        except ApiException as error:
            if error.status in (400, 404):
                return  # Not started yet, or about to start again.
            raise
        self._read_at = now
        # Kubernetes writes timestamps of one length, so that they sort as text.
        lines = [line.partition(" ") for line in text.splitlines()]
        new = [(at, words) for at, _, words in lines if at > self._read_until]
        for at, words in new:
            self._read_until = at
            _log.info("%s", words)
        self.last_lines = [*self.last_lines, *(words for _, words in new)][-_LAST_LINES:]


def _refusal(error: ApiException, namespace: str) -> str:
    if error.status in (401, 403):
        return (
            f"not allowed ({error.status}). Let the service account of the Trainer create, get and "
            f"delete tfjobs.kubeflow.org and read pods and their logs in {namespace}"
        )
    if error.status == 404:
        return (
            f"the cluster knows no TFJobs, or no namespace {namespace}. Install the Kubeflow "
            "Training Operator, check training_job.namespace"
        )
    if error.status == 409:
        return (
            "is there already, from a Trainer that was stopped. See that it is over and remove it: "
            f"kubectl get tfjob -n {namespace}"
        )
    return f"refused with status {error.status}: {error.body or error.reason}"
