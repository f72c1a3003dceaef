"""A TFJob against a stub of the Kubernetes API that speaks HTTP to the real client."""

import json
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from kubernetes import client, config

from components.distributed_trainer import launch, manifest, training_operator
from data.errors import DataError
from trainer.worker import ARGUMENTS, read_arguments

JOB = {
    "workers": 2,
    "image": "registry/ssd:1",
    "namespace": "vision",
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
JOBS = "/apis/kubeflow.org/v1/namespaces/vision/tfjobs"
POD = "/api/v1/namespaces/vision/pods"
COMMAND = ["python", "-m", "trainer.worker", "--config", "/volume/a.json"]


def _condition(kind, message=""):
    return {"type": kind, "status": "True", "message": message}


def _pod(state, index=0, conditions=()):
    name = f"ssd-1-worker-{index}"
    container = {"name": "tensorflow", "state": state, "image": "", "imageID": "", "ready": True}
    status = {"containerStatuses": [{**container, "restartCount": 0}], "conditions": conditions}
    return {"metadata": {"name": name}, "spec": {"containers": []}, "status": status}


class Cluster:
    """What the API server answers: one entry of `steps` for each look at the job, then the last.

    A step is (conditions of the TFJob, pods, lines of the chief's log); an int is a status of HTTP.
    """

    def __init__(self):
        self.created, self.deleted, self.asked = [], [], []
        self.steps, self.refusal, self.on_create = [], None, lambda body: None
        self.looks = 0

    @property
    def now(self):
        return self.steps[min(max(self.looks, 1), len(self.steps)) - 1]

    def answer(self, method, path, body):
        path, _, query = path.partition("?")
        if method == "POST" and path == JOBS:
            if self.refusal:
                return self.refusal, {"message": "refused"}
            self.created.append(body)
            self.on_create(body)
            return 201, body
        if method == "DELETE" and path.startswith(JOBS):
            self.deleted.append(path.rpartition("/")[2])
            return 200, {}
        if method == "GET" and path.startswith(JOBS):
            self.looks += 1
            if isinstance(self.now, int):
                return self.now, {"message": "not now"}
            return 200, {"status": {"conditions": self.now[0]}}
        if method == "GET" and path == POD:
            assert query == "labelSelector=training.kubeflow.org%2Fjob-name%3Dssd-1"
            return 200, {"items": self.now[1]}
        if method == "GET" and path == f"{POD}/ssd-1-worker-0/log":
            self.asked.append(query)
            lines = self.now[2]
            return (400, {"message": "waiting to start"}) if lines is None else (200, lines)
        raise AssertionError((method, path))


@pytest.fixture
def cluster():
    """A Cluster behind a server, and `api`, a client of it."""
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or "null")
            status, answer = cluster.answer(self.command, self.path, body)
            data = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            kind = "text/plain" if isinstance(answer, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(data.encode())

        do_GET = do_POST = do_DELETE = handle_one

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    cluster.api = client.ApiClient(client.Configuration(host=host))
    yield cluster
    server.shutdown()
    server.server_close()


@pytest.fixture
def lines():
    """What the trainer's logger has said."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    log = logging.getLogger("ssd.trainer")
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


def _run(cluster):
    training_operator.run(cluster.api, manifest.tfjob("ssd-1", JOB, COMMAND), poll_seconds=0)


def _stamped(*words, start=0):
    return "".join(
        f"2026-01-01T00:00:{start + number:02d}.000000000Z {word}\n"
        for number, word in enumerate(words)
    )


def test_manifest():
    made = manifest.tfjob("ssd-1", JOB, COMMAND)
    assert made["metadata"] == {"name": "ssd-1", "namespace": "vision"}
    assert made["spec"]["runPolicy"] == {
        "cleanPodPolicy": "Running",
        "backoffLimit": 3,
        "activeDeadlineSeconds": 3600,
    }
    (worker,) = made["spec"]["tfReplicaSpecs"].values()
    assert (worker["replicas"], worker["restartPolicy"]) == (2, "ExitCode")
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "tensorflow"
    assert container["command"] == COMMAND
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
    json.dumps(made)


def test_a_job_is_followed_to_its_end_and_removed(cluster, lines):
    running, started = [_condition("Created"), _condition("Running")], _pod({"running": {}})
    restarting = {**_condition("Running"), "status": "False"}
    cluster.steps = [
        ([], [], None),
        ([_condition("Created")], [_pod({"waiting": {"reason": "ContainerCreating"}})], None),
        (running, [started], _stamped("step=1", "step=2")),
        503,
        (running, [started], _stamped("step=1", "step=2", "step=3 more")),
        ([restarting, _condition("Restarting")], [_pod({"terminated": {"exitCode": 137}})], None),
        (running, [started], _stamped("resume", start=40)),
        ([_condition("Running"), _condition("Succeeded")], [], _stamped("resume", "end", start=40)),
    ]
    _run(cluster)
    said = [line for line in lines if "TFJob" not in line]
    assert said == ["step=1", "step=2", "step=3 more", "resume", "end"]
    assert all("timestamps=True" in query and "sinceSeconds=" in query for query in cluster.asked)
    assert cluster.created == [json.loads(json.dumps(manifest.tfjob("ssd-1", JOB, COMMAND)))]
    assert cluster.deleted == ["ssd-1"]


def test_a_failed_job_says_why(cluster):
    failed = [_condition("Running"), _condition("Failed", "TFJob ssd-1 is failed")]
    pod = _pod({"terminated": {"exitCode": 2, "reason": "Error"}})
    cluster.steps = [(failed, [pod], _stamped("error: no TFRecord shards match"))]
    with pytest.raises(DataError, match="(?s)ssd-1-worker-0: ended with status 2.*error: no TFR"):
        _run(cluster)
    assert cluster.deleted == ["ssd-1"]


def test_too_little_memory_is_named(cluster):
    pod = _pod({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, index=1)
    cluster.steps = [([_condition("Failed")], [pod], "")]
    with pytest.raises(DataError, match="worker-1: out of memory, raise training_job.memory_gb"):
        _run(cluster)


def test_a_job_past_its_time_says_so(cluster):
    late = _condition("Failed", "TFJob ssd-1 has failed because it was active longer than 3600 s")
    cluster.steps = [([late], [], None)]
    with pytest.raises(DataError, match="active longer than 3600 s"):
        _run(cluster)


def test_an_image_that_cannot_be_pulled_ends_the_wait(cluster):
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}}
    others = [_pod({"running": {}}, 1), _pod(waiting)]
    cluster.steps = [([_condition("Running")], others, None)]
    with pytest.raises(DataError, match="worker-0: ImagePullBackOff, no such tag.*_job.image"):
        _run(cluster)
    assert cluster.deleted == ["ssd-1"]


def test_a_full_cluster_is_told_once(cluster, lines):
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes have a GPU"}
    pending = ([_condition("Created")], [_pod({}, conditions=[unscheduled])], None)
    cluster.steps = [pending, pending, ([_condition("Succeeded")], [], "")]
    _run(cluster)
    assert [line.rpartition(": ")[2] for line in lines if "waits" in line] == [
        "0/3 nodes have a GPU"
    ]


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (403, "not allowed.*create, get and delete tfjobs"),
        (404, "Install the Kubeflow Training Operator"),
        (409, "is there already.*kubectl get tfjob -n vision"),
        (422, "refused with status 422"),
    ],
)
def test_a_refused_job_says_what_to_do(cluster, status, advice):
    cluster.refusal = status
    with pytest.raises(DataError, match=advice):
        _run(cluster)
    assert cluster.deleted == []


@pytest.mark.parametrize("status", [404, 500])
def test_a_job_that_vanishes_ends_the_wait(cluster, status):
    cluster.steps = [status]
    with pytest.raises(DataError, match="no longer answers"):
        _run(cluster)
    assert cluster.looks == (1 if status == 404 else 11)


def test_a_host_that_is_not_reached():
    api = client.ApiClient(client.Configuration(host="http://127.0.0.1:9"))
    api.configuration.retries = 0
    with pytest.raises(DataError, match="http://127.0.0.1:9: Kubernetes is not reached"):
        training_operator.run(api, manifest.tfjob("ssd-1", JOB, COMMAND))


def test_no_cluster_at_all(monkeypatch):
    def none(*_, **__):
        raise config.ConfigException("nothing set up")

    monkeypatch.setattr(config, "load_incluster_config", none)
    monkeypatch.setattr(config, "load_kube_config", none)
    with pytest.raises(DataError, match="training_job.workers=0"):
        training_operator.connect()


@pytest.fixture
def arguments(tmp_path):
    """What TFX would hand to the Trainer's run_fn; examples lie outside the workers' volume."""
    outside, volume = tmp_path / "artifacts", tmp_path / "volume"
    for split in ("train", "eval"):
        (outside / "examples" / split).mkdir(parents=True)
        (outside / "examples" / split / "data-0.gz").write_text(split)
    (volume / "transform").mkdir(parents=True)
    (outside / "run").mkdir()
    values = dict.fromkeys(ARGUMENTS)
    values |= {
        "train_files": [str(outside / "examples/train/*")],
        "eval_files": [str(outside / "examples/eval/*")],
        "transform_graph_path": str(volume / "transform"),
        "serving_model_dir": str(outside / "model/Format-Serving"),
        "model_run_dir": str(outside / "run"),
        "custom_config": {
            "work_dir": str(volume / "work"),
            "training_job": {**JOB, "volumes": [f"claim:{volume}"]},
        },
    }
    return SimpleNamespace(**values)


def _train_as_a_worker(body, left=("model", "run")):
    """Does what the chief does: reads what it is given, leaves a model."""
    (container,) = body["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    given = read_arguments(Path(container["command"][-1]))
    for key, name in (("train_files", "train"), ("eval_files", "eval")):
        (pattern,) = getattr(given, key)
        assert [p.read_text() for p in Path(pattern).parent.glob("*")] == [name]
    targets = {"model": given.serving_model_dir, "run": given.model_run_dir}
    for name in left:
        Path(targets[name]).mkdir(parents=True)
        (Path(targets[name]) / f"{name}.txt").write_text(name)
    return given


def test_run_fn_gives_the_workers_what_they_need_and_fetches_the_model(
    cluster, monkeypatch, arguments, tmp_path
):
    given = []
    cluster.on_create = lambda body: given.append(_train_as_a_worker(body))
    cluster.steps = [([_condition("Succeeded")], [], "")]
    cluster.answer, plain = lambda m, p, b: plain(m, _as_ssd_1(p), b), cluster.answer
    monkeypatch.setattr(training_operator, "connect", lambda: cluster.api)
    launch.run_fn(arguments)
    (seen,) = given
    volume = tmp_path / "volume"
    assert seen.transform_graph_path == arguments.transform_graph_path
    assert all(Path(p).is_relative_to(volume) for p in (*seen.train_files, seen.model_run_dir))
    assert (Path(arguments.serving_model_dir) / "model.txt").read_text() == "model"
    assert (Path(arguments.model_run_dir) / "run.txt").read_text() == "run"
    assert list((volume / "work").iterdir()) == []


def _as_ssd_1(path):
    """Any job's pods under the name that the stub knows."""
    return re.sub("ssd-[0-9a-f]{12}", "ssd-1", path)


def test_a_job_that_leaves_no_model_is_an_error(cluster, monkeypatch, arguments):
    cluster.on_create = lambda body: _train_as_a_worker(body, left=())
    cluster.steps = [([_condition("Succeeded")], [], "")]
    cluster.answer, plain = lambda m, p, b: plain(m, _as_ssd_1(p), b), cluster.answer
    monkeypatch.setattr(training_operator, "connect", lambda: cluster.api)
    with pytest.raises(DataError, match="left no model.*same volume"):
        launch.run_fn(arguments)


def test_a_work_dir_that_workers_do_not_see_is_refused(arguments):
    arguments.custom_config["training_job"]["volumes"] = ["claim:/elsewhere"]
    with pytest.raises(DataError, match="do not see this folder.*training_job.volumes=CLAIM"):
        launch.run_fn(arguments)
