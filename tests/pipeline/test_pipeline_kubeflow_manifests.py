"""What has to be on the cluster before the first run, against Kubernetes' types."""

import json
import re
from pathlib import Path

import pytest
import yaml
from kubernetes import client

_ROOT = Path(__file__).parents[2]
_MANIFESTS = _ROOT / "pipeline" / "kubeflow" / "manifests"
_KINDS = {
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("batch/v1", "Job"): "V1Job",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
}
_OBJECTS = {
    document["kind"]: document
    for path in sorted(_MANIFESTS.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}


class _Answer:
    def __init__(self, value):
        self.data = json.dumps(value)


@pytest.mark.parametrize("document", _OBJECTS.values(), ids=_OBJECTS)
def test_objects_have_the_fields_kubernetes_knows_and_needs(document):
    """Through the client's types and back: a field it does not know is lost on the way."""
    api = client.ApiClient()
    kind = _KINDS[document["apiVersion"], document["kind"]]
    assert api.sanitize_for_serialization(api.deserialize(_Answer(document), kind)) == document


def test_the_claim_is_given_to_the_user_of_the_image():
    pod = _OBJECTS["Job"]["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (user,) = set(re.findall(r"^USER (.*)", (_ROOT / "Dockerfile").read_text(), re.M))
    (mount,) = container["volumeMounts"]
    assert container["command"] == ["chown", user, mount["mountPath"]]
    assert container["securityContext"]["runAsUser"] == 0
    assert mount["name"] == volume["name"]
    claim = _OBJECTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    # Where the documented pipeline pushes to, and servers look.
    assert f"resources.all.volumes={claim}:" in (_ROOT / "docs" / "kubeflow.md").read_text()
    deployment = (_ROOT / "serving" / "kubernetes" / "deployment.yaml").read_text()
    assert f"claimName: {claim}," in deployment


def test_the_trainer_may_start_and_follow_a_job():
    role, binding = _OBJECTS["Role"], _OBJECTS["RoleBinding"]
    allowed = {
        (group, resource): rule["verbs"]
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert allowed == {
        ("kubeflow.org", "tfjobs"): ["create", "get", "delete"],
        ("", "pods"): ["get", "list"],
        ("", "pods/log"): ["get", "list"],
    }
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
