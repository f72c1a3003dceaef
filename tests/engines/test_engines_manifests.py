"""The manifests of a Flink cluster, as far as they can be checked without one."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from data.beam_runner import DEFAULT_JOB_PORT, beam_arguments
from data.worker_pool import main as worker_pool
from engines import local

_ENGINES = Path(local.__file__).parent
_DOCUMENTS = list(yaml.safe_load_all((_ENGINES / "kubernetes" / "flink.yaml").read_text()))


def _one(kind, name="ssd-flink"):
    (found,) = (d for d in _DOCUMENTS if (d["kind"], d["metadata"]["name"]) == (kind, name))
    return found


def _containers(deployment):
    pod = _one("Deployment", deployment)["spec"]["template"]["spec"]
    return {container["name"]: container for container in pod["containers"]}


def _properties():
    return yaml.safe_load(_one("ConfigMap")["data"]["FLINK_PROPERTIES"])


@pytest.mark.parametrize(
    "document", _DOCUMENTS, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}"
)
def test_objects_fit_kubernetes_schemas(document):
    kubernetes_validate.validate(document, "1.31", strict=True)


def test_a_pool_runs_beside_each_task_manager():
    containers = _containers("ssd-flink-taskmanager")
    assert set(containers) == {"taskmanager", "workers"}
    command = containers["workers"]["command"]
    assert command == ["python", "-m", worker_pool.__module__]
    # There is room for spilled shuffles, which hold pictures.
    (mount,) = containers["taskmanager"]["volumeMounts"]
    assert mount["mountPath"] == "/tmp"


def test_the_configuration_is_large_enough_for_the_pipeline():
    properties = _properties()
    assert properties["taskmanager.network.sort-shuffle.min-buffers"] == 64
    assert properties["taskmanager.memory.network.min"] == "256mb"
    assert properties["taskmanager.memory.network.max"] == "256mb"
    assert properties["classloader.resolve-order"] == "parent-first"
    assert properties["restart-strategy.type"] == "exponential-delay"
    replicas = _one("Deployment", "ssd-flink-taskmanager")["spec"]["replicas"]
    slots = properties["taskmanager.numberOfTaskSlots"]
    assert properties["parallelism.default"] == replicas * slots
    # The same as for the engine on one machine, which tests run.
    for name in (
        "taskmanager.network.sort-shuffle.min-buffers",
        "restart-strategy.type",
        "restart-strategy.exponential-delay.initial-backoff",
    ):
        assert f"{name}: {properties[name]}" in local._FLINK_CONF


def test_a_restart_waits_until_beam_forgets_a_lost_worker():
    options = dict(word.split("=", 1) for word in beam_arguments("flink"))
    kept_seconds = int(options["--environment_cache_millis"]) / 1000
    delay = re.fullmatch(
        r"(\d+) s", _properties()["restart-strategy.exponential-delay.initial-backoff"]
    )
    assert int(delay[1]) > kept_seconds


def test_java_options_are_the_same_as_on_one_machine(tmp_path):
    opened = _one("ConfigMap")["data"]["JDK_JAVA_OPTIONS"].split()
    command = local._java("flink", tmp_path, local.Address())
    assert opened == [word for word in command if word.startswith("--add-opens")]


def test_the_services_ports_match_the_containers():
    service = _one("Service")["spec"]
    labels = _one("Deployment", "ssd-flink-jobmanager")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    ports = {
        port["name"]: port["containerPort"]
        for container in _containers("ssd-flink-jobmanager").values()
        for port in container["ports"]
    }
    assert {port["name"]: port["port"] for port in service["ports"]} == ports
    assert ports["jobs"] == DEFAULT_JOB_PORT
    assert _properties()["blob.server.port"] == ports["blob"]
    (script,) = _containers("ssd-flink-jobmanager")["job-server"]["args"]
    # Flink's REST API is reached at the job server's address.
    assert f"--flink-master=localhost:{ports['rest']}" in script
    assert f"--job-port={ports['jobs']} --artifact-port={ports['artifacts']}" in script


def test_the_image_has_beams_jars_in_flinks_lib():
    text = (_ENGINES / "Dockerfile").read_text()
    assert re.search(r"^COPY --from=jars /jars/ /opt/flink/lib/$", text, re.M)
    assert local._COPY_JARS in text
    beam_of = re.search(r"beam-runners-flink-([\d.]+)<", (_ENGINES / "pom.xml").read_text())[1]
    assert f"FROM docker.io/library/flink:{beam_of}." in text
