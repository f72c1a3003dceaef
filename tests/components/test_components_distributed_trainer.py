"""The Job of a training on several hosts, with the real client and a fake API."""

import json
import logging
import os
import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from kubernetes import client, config

from components.distributed_trainer import indexed_job, launch
from data.errors import DataError
from tests.components import kubernetes_api
from tests.components.training_job import JOB, OWNER, job_manifest
from trainer.worker import ARGUMENTS, read_arguments

JOBS = "/apis/batch/v1/namespaces/vision/jobs"
CORE = "/api/v1/namespaces/vision"


def _status(*conditions, **more):
    """A Job's status; a condition is a type, or (type, reason, message)."""
    kinds = [c if isinstance(c, tuple) else (c, "", "") for c in conditions]
    return {
        "conditions": [
            {"type": kind, "status": "True", "reason": reason, "message": message}
            for kind, reason, message in kinds
        ],
        **more,
    }


def _pod(state=None, index=0, attempt=1, phase="Running", conditions=()):
    """A pod from the API server; `state` is its container's."""
    container = {"name": "worker", "state": state or {"running": {}}}
    return {
        "metadata": {
            "name": f"ssd-1-{index}-{attempt}",
            "creationTimestamp": f"2026-01-01T00:00:0{attempt}Z",
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "status": {"phase": phase, "containerStatuses": [container], "conditions": conditions},
    }


def _failed(status, at=0, **more):
    reason = more.pop("reason", "Error")
    ended = {"exitCode": status, "reason": reason, "finishedAt": f"2026-01-01T00:01:{at:02}Z"}
    return _pod({"terminated": ended}, phase="Failed", **more)


class Cluster:
    """The API server's answers: one entry of `steps` per poll of the Job, then the last one.

    A step is (the Job's status, pods, logs by pod), or an HTTP status as int.
    """

    def __init__(self):
        self.created, self.deleted, self.asked = [], [], []
        self.steps, self.refusals, self.on_create = [], {}, lambda body: None
        self.looks = 0

    @property
    def now(self):
        return self.steps[min(max(self.looks, 1), len(self.steps)) - 1]

    def answer(self, method, path, body):
        path, _, query = path.partition("?")
        if method == "POST":
            kind = path.rpartition("/")[2]
            assert path == {"jobs": JOBS, "services": f"{CORE}/services"}[kind]
            if refusals := self.refusals.get(kind):
                return refusals.pop(0), {"message": "refused"}
            self.created.append(body)
            self.on_create(body)
            return 201, {**body, "metadata": {**body["metadata"], "uid": "job-uid"}}
        if method == "DELETE":
            options = (body or {}).get("propagationPolicy") or query.partition("=")[2]
            self.deleted.append((*path.split("/")[-2:], options))
            return 200, {}
        if path.startswith(JOBS):
            self.looks += 1
            if isinstance(self.now, int):
                return self.now, {"message": "not now"}
            return 200, {**self.created[0], "status": self.now[0]}
        if path == f"{CORE}/pods":
            assert query == "labelSelector=job-name%3Dssd-1"
            return 200, {"items": self.now[1]}
        if match := re.fullmatch(f"{CORE}/pods/(.*)/log", path):
            self.asked.append(query)
            text = self.now[2].get(match[1])
            return (400, {"message": "waiting to start"}) if text is None else (200, text)
        raise AssertionError((method, path))


@pytest.fixture
def cluster():
    """A Cluster behind a server, with a client as `api`."""
    cluster = Cluster()
    with kubernetes_api.serving(lambda *request: cluster.answer(*request)) as cluster.api:
        yield cluster


@pytest.fixture
def lines():
    """The trainer's log lines."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    log = logging.getLogger("ssd.trainer")
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


def _run(cluster, **more):
    indexed_job.run(cluster.api, job_manifest(**more), poll_seconds=0)


REMOVED = [("jobs", "ssd-1", "Background"), ("services", "ssd-1", "")]


def _stamped(*words, start=0):
    return "".join(
        f"2026-01-01T00:00:{start + number:02d}.000000000Z {word}\n"
        for number, word in enumerate(words)
    )


def test_a_job_is_followed_to_its_end_and_removed(cluster, lines):
    other = _pod(index=1)
    first, second = "ssd-1-0-1", "ssd-1-0-2"
    lost = _failed(138)
    cluster.steps = [
        (_status(), [], {}),
        (_status(), [_pod({"waiting": {"reason": "ContainerCreating"}}, phase="Pending")], {}),
        (_status(), [_pod(), other], {first: _stamped("step=1", "step=2")}),
        503,
        (_status(), [_pod(), other], {first: _stamped("step=1", "step=2", "step=3 more")}),
        (_status(), [lost], {first: _stamped("step=1", "step=2", "step=3 more", "lost")}),
        (_status(), [_pod(attempt=2), lost], {second: _stamped("resume")}),
        (
            _status("SuccessCriteriaMet", "Complete"),
            [lost, _pod(attempt=2, phase="Succeeded")],
            {second: _stamped("resume", "end")},
        ),
    ]
    _run(cluster)
    said = [line for line in lines if "Job" not in line]
    assert said == ["step=1", "step=2", "step=3 more", "lost", "resume", "end"]
    assert all("timestamps=True" in query and "sinceSeconds=" in query for query in cluster.asked)
    job, service = cluster.created
    assert job == json.loads(json.dumps(job_manifest()))
    assert service["metadata"]["ownerReferences"][0]["uid"] == "job-uid"
    assert cluster.deleted == REMOVED
    # Only the worker at fault is reported, not those that lost it.
    assert not any("continues without" in line for line in lines)


def test_the_jobs_success_is_the_chiefs(cluster):
    """Kubernetes before 1.31 has no success policy."""
    cluster.steps = [
        (_status(completedIndexes="1"), [], {}),
        (_status(completedIndexes="0"), [], {}),
    ]
    _run(cluster)
    assert cluster.looks == 2
    cluster.steps = [(_status(completedIndexes="0-1"), [], {})]
    _run(cluster)


def test_a_failed_job_says_why(cluster):
    limit = ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    pods = [_failed(138, at=9), _failed(1, index=1, at=8), _failed(137, index=1, at=1)]
    log = {"ssd-1-0-1": _stamped("error: no TFRecord shards match")}
    cluster.steps = [(_status(limit), pods, log)]
    with pytest.raises(
        DataError, match="(?s)BackoffLimit.*; ssd-1-1-1: ended with status 1.*: no TFR"
    ):
        _run(cluster)
    assert cluster.deleted == REMOVED


def test_too_little_memory_is_named(cluster):
    cluster.steps = [(_status("FailureTarget"), [_failed(137, index=1, reason="OOMKilled")], {})]
    with pytest.raises(DataError, match="ssd-1-1-1: out of memory, raise training_job.memory_gb"):
        _run(cluster)


def test_a_job_past_its_time_says_so(cluster):
    late = ("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    # Kubernetes kills its pods then.
    cluster.steps = [(_status(late), [_failed(137)], {})]
    with pytest.raises(DataError, match="DeadlineExceeded: Job was active longer"):
        _run(cluster)


def test_an_image_that_cannot_be_pulled_ends_the_wait(cluster):
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}}
    cluster.steps = [(_status(), [_pod(index=1), _pod(waiting, phase="Pending")], {})]
    with pytest.raises(DataError, match="ssd-1-0-1: ImagePullBackOff, no such tag.*_job.image"):
        _run(cluster)
    assert cluster.deleted == REMOVED


def test_what_a_job_waits_for_is_logged_once(cluster, lines):
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes have a GPU"}
    pending = (_status(), [_pod(phase="Pending", conditions=[unscheduled])], {})
    restarted = (_status(), [_failed(137, index=1, reason="OOMKilled")], {})
    queued = (_status("Suspended"), [], {})
    nothing = (_status(), [], {})
    cluster.steps = [
        *[queued] * 2,
        *[pending] * 2,
        *[restarted] * 2,
        *[nothing] * 9,
        (_status("Complete"), [], {}),
    ]
    _run(cluster, queue="gpus")
    assert [line.partition("vision/ssd-1 ")[2] for line in lines[1:]] == [
        "waits: it is suspended until its queue has room for all workers",
        "waits: ssd-1-0-1: 0/3 nodes have a GPU",
        "continues without ssd-1-1-1: out of memory, raise training_job.memory_gb",
        "waits: it has no pods yet, perhaps because of a quota; see kubectl describe job",
    ]


def test_leftovers_of_an_earlier_attempt_are_removed_first(cluster, lines):
    """After the Trainer was killed, it is retried: same training, same name."""
    cluster.refusals = {"jobs": [409, 409], "services": [409]}
    cluster.steps = [(_status("Complete"), [], {})]
    _run(cluster)
    # In the foreground: no old pods are left when the new Job starts.
    left = [("jobs", "ssd-1", "Foreground")] * 2 + [("services", "ssd-1", "")]
    assert cluster.deleted == left + REMOVED
    assert [body["kind"] for body in cluster.created] == ["Job", "Service"]
    assert sum("an earlier attempt left behind" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (403, "not allowed.*manifests/training-job.yaml in vision"),
        (404, "no namespace vision. Check training_job.namespace"),
        (422, "refused with status 422"),
    ],
)
@pytest.mark.parametrize("kind", ["jobs", "services"])
def test_a_refused_job_says_what_to_do(cluster, status, advice, kind):
    cluster.refusals = {kind: [status]}
    with pytest.raises(DataError, match=advice):
        _run(cluster)
    assert cluster.deleted == ([] if kind == "jobs" else REMOVED)


@pytest.mark.parametrize("status", [404, 500])
def test_losing_the_job_or_the_cluster_ends_the_wait(cluster, status):
    cluster.steps = [status]
    with pytest.raises(DataError, match="lost contact with the cluster"):
        _run(cluster)
    assert cluster.looks == (1 if status == 404 else 11)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_trainer_removes_the_job(cluster, number):
    before = signal.getsignal(signal.SIGTERM)
    cluster.steps = [(_status(), [_pod()], {})]

    def interrupt():
        while cluster.looks < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        indexed_job.run(cluster.api, job_manifest(), poll_seconds=0.05)
    assert cluster.deleted == REMOVED
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_job_is_owned_by_the_trainers_pod(monkeypatch, tmp_path):
    monkeypatch.setenv("KFP_POD_NAME", "trainer-impl-1")
    monkeypatch.setenv("KFP_POD_UID", "u-1")
    assert indexed_job.own_pod("vision") is None
    monkeypatch.setattr(indexed_job, "_NAMESPACE", tmp_path / "namespace")
    (tmp_path / "namespace").write_text("vision")
    assert indexed_job.own_pod("vision") == OWNER
    # Kubernetes deletes objects whose owner is in another namespace.
    assert indexed_job.own_pod("elsewhere") is None
    monkeypatch.delenv("KFP_POD_UID")
    assert indexed_job.own_pod("vision") is None


def test_an_unreachable_host_is_named():
    api = client.ApiClient(client.Configuration(host="http://127.0.0.1:9"))
    api.configuration.retries = 0
    with pytest.raises(DataError, match="http://127.0.0.1:9: cannot reach Kubernetes"):
        indexed_job.run(api, job_manifest())


def test_without_a_cluster_the_error_says_what_to_do(monkeypatch):
    def none(*_, **__):
        raise config.ConfigException("nothing set up")

    monkeypatch.setattr(config, "load_incluster_config", none)
    monkeypatch.setattr(config, "load_kube_config", none)
    with pytest.raises(DataError, match="training_job.workers=0"):
        indexed_job.connect()


@pytest.fixture
def arguments(tmp_path):
    """The arguments of the Trainer's run_fn; examples are outside the workers' volume."""
    outside, volume = tmp_path / "artifacts", tmp_path / "volume"
    for split in ("train", "eval"):
        (outside / "examples" / split).mkdir(parents=True)
        (outside / "examples" / split / "data-0.gz").write_text(split)
    (volume / "transform").mkdir(parents=True)
    (outside / "run").mkdir()
    (outside / "base").mkdir()
    (outside / "base" / "base.txt").write_text("base")
    values = dict.fromkeys(ARGUMENTS)
    values |= {
        "train_files": [str(outside / "examples/train/*")],
        "eval_files": [str(outside / "examples/eval/*")],
        "transform_graph_path": str(volume / "transform"),
        "base_model": str(outside / "base"),
        "hyperparameters": {"values": {"learning_rate": 0.5}},
        "serving_model_dir": str(outside / "model/Format-Serving"),
        "model_run_dir": str(outside / "run"),
        "custom_config": {
            "trainer": {"batch_size": 8},
            "work_dir": str(volume / "work"),
            "training_job": {**JOB, "volumes": [f"claim:{volume}"]},
        },
    }
    return SimpleNamespace(**values)


def _train_as_a_worker(body):
    """Acts as the chief: reads its inputs and writes a model."""
    (container,) = body["spec"]["template"]["spec"]["containers"]
    given = read_arguments(Path(container["command"][4]))
    for key, name in (("train_files", "train"), ("eval_files", "eval")):
        (pattern,) = getattr(given, key)
        assert [p.read_text() for p in Path(pattern).parent.glob("*")] == [name]
    assert (Path(given.base_model) / "base.txt").read_text() == "base"
    targets = {"model": given.serving_model_dir, "run": given.model_run_dir}
    for name, target in targets.items():
        Path(target).mkdir(parents=True)
        (Path(target) / f"{name}.txt").write_text(name)
    return given


def test_run_fn_shares_inputs_with_the_workers_and_fetches_the_model(
    cluster, monkeypatch, arguments, tmp_path
):
    given = []
    cluster.on_create = lambda body: (
        body["kind"] == "Job" and given.append(_train_as_a_worker(body))
    )
    cluster.steps = [(_status("Complete"), [], {})]
    cluster.answer, plain = lambda m, p, b: plain(m, _as_ssd_1(p), b), cluster.answer
    monkeypatch.setattr(indexed_job, "connect", lambda: cluster.api)
    launch.run_fn(arguments)
    (seen,) = given
    volume = tmp_path / "volume"
    assert seen.transform_graph_path == arguments.transform_graph_path
    places = (*seen.train_files, *seen.eval_files, seen.base_model, seen.model_run_dir)
    assert all(Path(path).is_relative_to(volume) for path in places)
    assert seen.hyperparameters == arguments.hyperparameters
    assert (Path(arguments.serving_model_dir) / "model.txt").read_text() == "model"
    assert (Path(arguments.model_run_dir) / "run.txt").read_text() == "run"
    assert list((volume / "work").iterdir()) == []


def _as_ssd_1(path):
    """Replaces any Job's name in a path by the fake's."""
    return re.sub("ssd-[0-9a-f]{12}", "ssd-1", path)


def test_a_job_that_leaves_no_model_is_an_error(cluster, monkeypatch, arguments):
    cluster.steps = [(_status("Complete"), [], {})]
    cluster.answer, plain = lambda m, p, b: plain(m, _as_ssd_1(p), b), cluster.answer
    monkeypatch.setattr(indexed_job, "connect", lambda: cluster.api)
    with pytest.raises(DataError, match="left no model.*same volume"):
        launch.run_fn(arguments)


def test_a_work_dir_that_workers_cannot_see_is_refused(arguments):
    arguments.custom_config["training_job"]["volumes"] = ["claim:/elsewhere"]
    with pytest.raises(DataError, match="cannot see this folder.*training_job.volumes=CLAIM"):
        launch.run_fn(arguments)
