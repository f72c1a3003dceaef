"""The manifests to apply before the first run, and every other shipped manifest."""

import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.components.kubernetes_api import VERSIONS

_ROOT = Path(__file__).parents[2]
# Custom resources, which have their own schemas, and files that only kubectl reads.
_OF_OTHERS = (
    "serving.kserve.io/v1beta1",
    "monitoring.coreos.com/v1",
    "kustomize.config.k8s.io/v1beta1",
)
_MANIFESTS = _ROOT / "pipeline" / "kubeflow" / "manifests"
_OBJECTS = {
    document["kind"]: document
    for path in sorted(_MANIFESTS.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}


def _shipped() -> list:
    """Every object of a built-in kind in the repository's files, as test cases."""
    names = subprocess.run(
        ["git", "ls-files", "*.yaml", "*.yml"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [
        pytest.param(document, id=f"{name}-{document['kind']}")
        for name in names.stdout.split()
        for document in yaml.safe_load_all((_ROOT / name).read_text())
        if isinstance(document, dict)
        and {"apiVersion", "kind"} <= document.keys()
        and document["apiVersion"] not in _OF_OTHERS
    ]


@pytest.mark.parametrize("document", _shipped())
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_shipped_manifest(document, version):
    """Strictly, since Kubernetes silently drops unknown fields."""
    kubernetes_validate.validate(document, version, strict=True)


def test_the_volume_belongs_to_the_images_user():
    pod = _OBJECTS["Job"]["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (user,) = set(re.findall(r"^USER (.*)", (_ROOT / "Dockerfile").read_text(), re.M))
    (mount,) = container["volumeMounts"]
    assert container["command"] == ["chown", user, mount["mountPath"]]
    assert container["securityContext"]["runAsUser"] == 0
    assert mount["name"] == volume["name"]
    claim = _OBJECTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    # The documented pipeline pushes to it, and servers read from it.
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
        ("batch", "jobs"): ["create", "get", "delete"],
        ("", "services"): ["create", "delete"],
        ("", "pods"): ["list"],
        ("", "pods/log"): ["get"],
    }
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
