"""The Kubernetes manifests of a training on several hosts."""

import pytest

from components.distributed_trainer import manifest
from tests.components import kubernetes_api
from tests.components.training_job import COMMAND, JOB, OWNER, job_manifest


@pytest.mark.parametrize("queue", ["", "gpus"])
@pytest.mark.parametrize("owner", [None, OWNER])
def test_kubernetes_accepts_the_manifests(queue, owner):
    job = manifest.indexed_job("ssd-1", {**JOB, "queue": queue}, COMMAND, owner)
    kubernetes_api.check(job)
    kubernetes_api.check(manifest.headless_service(job, "job-uid"))
    assert job["metadata"].get("ownerReferences") == (owner and [owner])
    # Kueue resumes suspended Jobs with its label; without Kueue nothing would.
    assert job["metadata"].get("labels") == (
        {"kueue.x-k8s.io/queue-name": "gpus"} if queue else None
    )
    assert job["spec"].get("suspend", False) == bool(queue)


def test_the_job_restarts_workers_and_counts_only_their_own_failures():
    spec = job_manifest()["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (3, 3600)
    assert spec["ttlSecondsAfterFinished"] >= 600
    # The first matching rule applies (matchPodFailurePolicy in
    # pkg/controller/job/pod_failure_policy.go of Kubernetes 1.34).
    rules = [
        (rule["action"], rule.get("onExitCodes", {}).get("values") or rule["onPodConditions"])
        for rule in spec["podFailurePolicy"]["rules"]
    ]
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    assert rules == [("Ignore", disrupted), ("Ignore", [138]), ("FailJob", [2])]
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}


def test_pods_are_found_by_name_and_get_the_requested_resources():
    job = job_manifest()
    service = manifest.headless_service(job, "job-uid")
    pod = job["spec"]["template"]["spec"]
    # DNS has NAME-INDEX.SUBDOMAIN for pods selected by a headless Service of that name, even before
    # they are ready (kubernetes.io, "Job with Pod-to-Pod Communication", Kubernetes 1.34).
    assert pod["subdomain"] == service["metadata"]["name"] == job["metadata"]["name"]
    assert "hostname" not in pod
    assert service["spec"] == {
        "clusterIP": "None",
        "selector": {"job-name": "ssd-1"},
        "publishNotReadyAddresses": True,
    }
    (owner,) = service["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Job", "ssd-1", "job-uid")
    (container,) = pod["containers"]
    assert container["command"] == [*COMMAND, "--workers", "2", "--service", "ssd-1"]
    limits = {"cpu": "3.5", "memory": "16000M", "nvidia.com/gpu": "4"}
    assert container["resources"] == {"limits": limits, "requests": limits}
    secret = {"secretKeyRef": {"name": "keys", "key": "token"}}
    assert container["env"] == [{"name": "TOKEN", "valueFrom": secret}]
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/volume"}
    assert volume["persistentVolumeClaim"] == {"claimName": "claim"}
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "effect": "NoSchedule", "operator": "Exists"},
        {"key": "team", "effect": "NoExecute", "operator": "Equal", "value": "vision"},
    ]
    assert pod["restartPolicy"] == "Never"
