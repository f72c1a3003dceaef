"""Kubernetes manifests of a training on several hosts: an Indexed Job and its Service."""

from collections.abc import Mapping, Sequence

from data.errors import BAD_INPUT
from trainer.worker import LOST_WORKER

CONTAINER = "worker"
# All Kubernetes versions with Indexed Jobs set this label on their pods.
JOB_LABEL = "job-name"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GPU = "nvidia.com/gpu"
# Long enough to inspect a failed Job that nobody was left to remove.
KEPT_SECONDS = 3600


def indexed_job(name: str, job: Mapping, command: Sequence[str], owner: Mapping | None) -> dict:
    """The manifest of a Job whose pods all run `command`, with options that name the workers.

    Pod 0 is the chief: the Job is done when it is. A worker that dies takes the others down, so
    only the first counts against `retries`: status 138 ("another worker was lost") does not, nor
    does losing a pod's node. Bad input ends the Job at once.

    Args:
      job: the fields of `pipeline.config.TrainingJob`; resources are per worker.
      owner: owner reference to an object that the Job must not outlive.
    """
    spec = {
        "completionMode": "Indexed",
        "completions": job["workers"],
        "parallelism": job["workers"],
        "backoffLimit": job["retries"] or 0,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                _on_status("Ignore", LOST_WORKER),
                _on_status("FailJob", BAD_INPUT),
            ]
        },
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        "template": {
            "metadata": {
                # Istio's proxy would outlive the training and cut the workers' own protocol.
                "labels": {"sidecar.istio.io/inject": "false"},
            },
            "spec": _pod(name, job, command),
        },
    }
    if job["timeout_s"]:
        spec["activeDeadlineSeconds"] = job["timeout_s"]
    metadata = {"name": name, "namespace": job["namespace"]}
    if job["queue"]:
        metadata["labels"] = {QUEUE_LABEL: job["queue"]}
        # Kueue resumes it once all workers fit.
        spec["suspend"] = True
    if owner:
        metadata["ownerReferences"] = [dict(owner)]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def headless_service(job: Mapping, uid: str) -> dict:
    """The manifest of the Service that gives a Job's pods DNS names; removed with the Job.

    Args:
      job: the manifest of the Job.
      uid: the Job's uid on the cluster.
    """
    name = job["metadata"]["name"]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": name, "uid": uid}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": job["metadata"]["namespace"],
            "ownerReferences": [owner],
        },
        "spec": {
            "clusterIP": "None",
            "selector": {JOB_LABEL: name},
            # The workers look for each other before they are ready.
            "publishNotReadyAddresses": True,
        },
    }


def _on_status(action: str, status: int) -> dict:
    codes = {"containerName": CONTAINER, "operator": "In", "values": [status]}
    return {"action": action, "onExitCodes": codes}


def _pod(name: str, job: Mapping, command: Sequence[str]) -> dict:
    claims = [entry.split(":", 1) for entry in job["volumes"]]
    container = {
        "name": CONTAINER,
        "image": job["image"],
        "command": [*command, "--workers", str(job["workers"]), "--service", name],
        "env": [_secret(entry) for entry in job["secrets"]],
        "resources": {"limits": _limits(job), "requests": _limits(job)},
        # Required by the "restricted" Pod Security Standard; the image sets a user.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": f"volume{index}", "mountPath": path} for index, (_, path) in enumerate(claims)
        ],
    }
    pod = {
        "containers": [container],
        # The Job replaces failed pods itself, and counts them by exit status.
        "restartPolicy": "Never",
        "subdomain": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": f"volume{index}", "persistentVolumeClaim": {"claimName": claim}}
            for index, (claim, _) in enumerate(claims)
        ],
    }
    if job["node_selector"]:
        pod["nodeSelector"] = dict(entry.split("=", 1) for entry in job["node_selector"])
    if job["tolerations"]:
        pod["tolerations"] = [toleration(entry) for entry in job["tolerations"]]
    return pod


def _limits(job: Mapping) -> dict[str, str]:
    limits = {}
    if job["cpu"]:
        limits["cpu"] = f"{job['cpu']:g}"
    if job["memory_gb"]:
        limits["memory"] = f"{round(job['memory_gb'] * 1000)}M"
    if job["gpu_count"]:
        limits[job["gpu_type"] or GPU] = str(job["gpu_count"])
    return limits


def _secret(entry: str) -> dict:
    variable, _, source = entry.partition("=")
    name, _, key = source.partition("/")
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def toleration(entry: str) -> dict:
    """The toleration of a taint in kubectl's notation (`key=value:Effect`, `key:Effect`)."""
    taint, _, effect = entry.rpartition(":")
    key, equals, value = taint.partition("=")
    match = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
    return {"key": key, "effect": effect, **match}
