"""The tests' configuration of a training on several hosts."""

from components.distributed_trainer import manifest

JOB = {
    "workers": 2,
    "image": "registry/ssd:1",
    "namespace": "vision",
    "queue": "",
    "cpu": 3.5,
    "memory_gb": 16.0,
    "gpu_count": 4,
    "gpu_type": None,
    "retries": 3,
    "timeout_s": 3600,
    "node_selector": ("pool=gpu",),
    "tolerations": ("nvidia.com/gpu:NoSchedule", "team=vision:NoExecute"),
    "volumes": ("claim:/volume",),
    "secrets": ("TOKEN=keys/token",),
}
COMMAND = ["python", "-m", "trainer.worker", "--config", "/volume/a.json"]
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "trainer-impl-1", "uid": "u-1"}


def job_manifest(**more):
    return manifest.indexed_job("ssd-1", {**JOB, **more}, COMMAND, None)
