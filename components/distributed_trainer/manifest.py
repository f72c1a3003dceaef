"""The TFJob that a training on several hosts is, as the Kubernetes API takes it."""

from collections.abc import Mapping, Sequence

# The Training Operator finds the container of a replica by this name.
CONTAINER = "tensorflow"
GPU = "nvidia.com/gpu"


def tfjob(name: str, job: Mapping, command: Sequence[str]) -> dict:
    """The manifest of a job whose workers all run `command`.

    Worker 0 is the chief. A worker that is lost is started again, one whose command ends with a
    status below 128 is not: the job has failed.

    Args:
      job: the fields of `pipeline.config.TrainingJob`; resources are those of each worker.
    """
    run_policy = {"cleanPodPolicy": "Running", "backoffLimit": job["retries"] or 0}
    if job["timeout_s"]:
        run_policy["activeDeadlineSeconds"] = job["timeout_s"]
    worker = {
        "replicas": job["workers"],
        "restartPolicy": "ExitCode",
        "template": {
            # Istio's proxy would outlive the training and cut the workers' own protocol.
            "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}},
            "spec": _pod(job, command),
        },
    }
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "TFJob",
        "metadata": {"name": name, "namespace": job["namespace"]},
        "spec": {"runPolicy": run_policy, "tfReplicaSpecs": {"Worker": worker}},
    }


def _pod(job: Mapping, command: Sequence[str]) -> dict:
    claims = [entry.split(":", 1) for entry in job["volumes"]]
    container = {
        "name": CONTAINER,
        "image": job["image"],
        "command": list(command),
        "env": [_secret(entry) for entry in job["secrets"]],
        "resources": {"limits": _limits(job), "requests": _limits(job)},
        "volumeMounts": [
            {"name": f"volume{index}", "mountPath": path} for index, (_, path) in enumerate(claims)
        ],
    }
    pod = {
        "containers": [container],
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
    """A taint as kubectl writes it (`key=value:Effect`, `key:Effect`) as what tolerates it."""
    taint, _, effect = entry.rpartition(":")
    key, equals, value = taint.partition("=")
    match = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
    return {"key": key, "effect": effect, **match}
