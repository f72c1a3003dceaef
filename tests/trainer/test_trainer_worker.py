"""`python -m trainer.worker` in real processes: on one device, on two, as two workers, killed."""

import contextlib
import dataclasses
import functools
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from components.distributed_trainer import indexed_job, launch
from data.errors import BAD_INPUT, DataError
from pipeline.config import TrainingJob
from tests.components.local_cluster import LocalCluster, running
from tests.forked_python import ROOT, ForkedPython
from trainer import reporting, run, worker
from trainer.worker import ARGUMENTS, LOST_WORKER, read_arguments, write_arguments

_SCRIPT = Path(__file__).with_name("tiny_worker.py")
_STEPS = 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, make, sample_classes):
    """A folder with twelve training pictures, one without an object."""
    folder = tmp_path_factory.mktemp("inputs")
    records = []
    for number in range(12):
        picture = make.encode(make.smooth_picture(40, 50, number))
        boxes = [(0.1, 0.2, 0.4 + 0.05 * number, 0.6)] * (number != 4)
        names = [sample_classes[number % 3]] * len(boxes)
        records.append(make.record(number, picture, boxes, names))
    make.write_shards(folder / "train", records, 2)
    return folder


@pytest.fixture(scope="module")
def arguments(inputs, transform_folder, sample_classes):
    """Makes the arguments of a `run_fn` that trains in a folder."""

    def arguments(folder):
        settings = {
            "detector": "ssd128-small",
            "augmentation": "light",
            "batch_size": 4,
            "steps": _STEPS,
            "learning_rate": 0.02,
            "warmup_steps": 2,
            "warmup_learning_rate": 0.01,
            "clip_norm": 5.0,
            "ema": 0.5,
            "log_every": 1,
            "checkpoint_every": 2,
        }
        values = {
            **dict.fromkeys(ARGUMENTS),
            "train_files": [str(inputs / "train/*")],
            "eval_files": [str(inputs / "train/*")],
            "transform_graph_path": str(transform_folder),
            "serving_model_dir": str(folder / "model"),
            "model_run_dir": str(folder / "run"),
            "custom_config": {
                "preset": "tiny",
                "classes": sample_classes,
                "code_version": "1",
                "work_dir": str(folder / "work"),
                "trainer": settings,
            },
        }
        return SimpleNamespace(**values)

    return arguments


@pytest.fixture(scope="module")
def start(arguments):
    """Starts a worker process that trains in a folder and writes to `log` there."""

    def start(folder, workers=(), index=None, **environment):
        folder.mkdir(exist_ok=True)
        write_arguments(folder / "arguments.json", arguments(folder))
        if workers:
            task = {"type": "worker", "index": index}
            cluster = {"cluster": {"worker": workers}, "task": task}
            environment["TF_CONFIG"] = json.dumps(cluster)
        return ForkedPython(
            *(_SCRIPT, "--config", folder / "arguments.json"),
            stdout=folder / "log",
            environment={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )

    return start


def _free_ports(number):
    """The first of `number` consecutive free ports."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = 0
            for offset in range(number):
                each = stack.enter_context(socket.socket())
                each.bind(("", first + offset if first else 0))
                first = first or each.getsockname()[1]
            return first


def _addresses(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def _finish(folder, *processes):
    statuses = [process.wait(timeout=600) for process in processes]
    assert statuses == [0] * len(processes), (folder / "log").read_text()[-3000:]
    return _results(folder)


def _results(folder):
    """A finished training's losses by step and exported weights by name."""
    losses = {}
    for path in sorted((folder / "run" / "logs").glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == "loss/total":
                    losses[event.step] = float(tf.make_ndarray(value.tensor))
    model = tf.saved_model.load(str(folder / "model"))
    return losses, {name: values.numpy() for name, values in model.weights.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, start):
    """The results of one process on one device."""
    folder = tmp_path_factory.mktemp("alone")
    return _finish(folder, start(folder))


def _assert_close(results, wanted):
    (losses, weights), (wanted_losses, wanted_weights) = results, wanted
    assert list(losses) == list(wanted_losses)
    np.testing.assert_allclose(list(losses.values()), list(wanted_losses.values()), rtol=1e-4)
    assert weights.keys() == wanted_weights.keys()
    for name, values in weights.items():
        np.testing.assert_allclose(values, wanted_weights[name], rtol=1e-3, atol=1e-4)


@pytest.mark.e2e
def test_a_single_process_trains(alone):
    losses, weights = alone
    assert list(losses) == list(range(1, _STEPS + 1))
    assert losses[_STEPS] < losses[1]
    assert len(weights) == 20


@pytest.mark.e2e
def test_two_devices_train_like_one(alone, start, tmp_path):
    results = _finish(tmp_path, start(tmp_path, VIRTUAL_DEVICES="2"))
    assert "devices=2xCPU" in (tmp_path / "log").read_text()
    _assert_close(results, alone)


@pytest.mark.e2e
def test_a_killed_process_resumes_exactly(alone, start, tmp_path):
    """`kill -9` after step 5: the last checkpoint is from step 4."""
    assert start(tmp_path, KILL_AT="5").wait(timeout=600) == -9
    assert not (tmp_path / "model").exists()
    losses, weights = _finish(tmp_path, start(tmp_path))
    assert "resume step=4" in (tmp_path / "log").read_text()
    assert losses == alone[0]
    assert weights.keys() == alone[1].keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(values, alone[1][name])


@pytest.mark.e2e
def test_a_job_of_two_workers_trains_like_one_even_if_one_is_killed(
    alone, arguments, tmp_path, monkeypatch
):
    """Starts at the Trainer's `run_fn`, with the Job's pods as processes."""
    fn_args = arguments(tmp_path)
    fn_args.custom_config["training_job"] = {
        **dataclasses.asdict(
            TrainingJob(workers=2, image="registry/ssd:1", volumes=("claim:/x",), retries=1)
        ),
        "volumes": [
            f"claim:{folder}" for folder in (tmp_path, Path(fn_args.train_files[0]).parents[1])
        ],
    }
    cluster = LocalCluster(
        tmp_path,
        python=_SCRIPT.with_name("tiny_python.py"),
        environment={"PYTHONPATH": str(ROOT), "FIRST_PORT": str(_free_ports(2))},
        faults={1: {"KILL_AT": "5"}},
    )
    run = functools.partial(indexed_job.run, poll_seconds=0.5)
    monkeypatch.setattr(indexed_job, "run", run)
    with running(cluster) as api:
        monkeypatch.setattr(indexed_job, "connect", lambda: api)
        launch.run_fn(fn_args)
    log = "\n".join(pod.log.read_text() for pod in cluster.pods)
    # Only the first of the two failures counts, and one is allowed.
    assert cluster.events == [
        "job created",
        "service created",
        *sorted(
            [f"pod 0 ended with {LOST_WORKER}: Ignore", "pod 1 ended with 137: Count"],
            key=cluster.events.index,
        ),
        "jobs deleted",
        "services deleted",
    ], log[-3000:]
    # The Job ends with pod 0; the other pod may still be exiting.
    first, second = sorted((pod.index, pod.status) for pod in cluster.pods[2:])
    assert first == (0, 0)
    assert second in ((1, 0), (1, 137))
    assert "another worker was lost. Start all workers again" in log
    assert "resume step=4" in log
    _assert_close(_results(tmp_path), alone)


@pytest.mark.e2e
def test_workers_that_see_different_checkpoints_exit_with_advice(start, tmp_path):
    """The chief has step 4's checkpoint, the other worker an empty folder."""
    folders = (tmp_path / "chief", tmp_path / "other")
    assert start(folders[0], KILL_AT="5").wait(timeout=600) == -9
    addresses = _addresses(2)
    workers = [start(folder, addresses, index) for index, folder in enumerate(folders)]
    statuses = [worker.wait(timeout=600) for worker in workers]
    for folder, step in zip(folders, (4, 0), strict=True):
        log = (folder / "log").read_text()
        assert f"error: {folder / 'work'}{os.sep}" in log, log[-3000:]
        assert f"see different checkpoints, this one sees step {step}. Mount the same" in log
        assert not (folder / "model").exists()
    assert statuses == [BAD_INPUT] * 2


def test_arguments_survive_the_file(tmp_path, monkeypatch):
    # Everything `run_fn` reads.
    values = {
        "train_files": ["train/*"],
        "eval_files": ["eval/*"],
        "transform_graph_path": "graph",
        "serving_model_dir": "model",
        "model_run_dir": "run",
        "base_model": "base",
        "hyperparameters": {"values": {"learning_rate": 0.5}},
        "custom_config": {"trainer": {"steps": 9}, "classes": ["dog"]},
    }
    write_arguments(tmp_path / "file", SimpleNamespace(**values, working_dir="elsewhere"))
    assert vars(read_arguments(tmp_path / "file")) == values
    # Workers do not inherit this process's environment.
    monkeypatch.setenv(reporting.VARIABLE, '{"log_every": 7}')
    write_arguments(tmp_path / "file", SimpleNamespace(**values))
    found = read_arguments(tmp_path / "file").custom_config
    assert found == {"trainer": {"steps": 9, "log_every": 7}, "classes": ["dog"]}


@pytest.mark.parametrize("error", [tf.errors.UnavailableError, tf.errors.AbortedError])
def test_losing_a_worker_has_its_own_exit_status(tmp_path, monkeypatch, capsys, error):
    seen = {}

    def lost(fn_args):
        seen.update(json.loads(os.environ["TF_CONFIG"]))
        raise error(None, None, "connection reset\nby peer")

    monkeypatch.setattr(run, "run_fn", lost)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("TF_CONFIG", "")
    (tmp_path / "file").write_text(json.dumps(dict.fromkeys(ARGUMENTS)))
    options = ["--config", str(tmp_path / "file"), "--workers", "2", "--service", "ssd-1"]
    assert worker.main(options) == LOST_WORKER
    assert "(connection reset)" in capsys.readouterr().err
    assert seen == worker.tf_config(2, "ssd-1", "1")


@pytest.mark.parametrize(
    "text",
    [None, "{", "[]", '{"train_files": []}', json.dumps(dict.fromkeys((*ARGUMENTS, "more")))],
)
def test_a_bad_file_is_refused(tmp_path, capsys, text):
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=f"--config {path}"):
        read_arguments(path)
    assert worker.main(["--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --config {path}: ")


def test_a_pod_knows_all_workers_by_name():
    """Kubernetes names the pods of an Indexed Job JOB-INDEX (kubernetes.io, "Job with Pod-to-Pod
    Communication", Kubernetes 1.34)."""
    assert worker.tf_config(3, "ssd-1", "2") == {
        "cluster": {
            "worker": ["ssd-1-0.ssd-1:2222", "ssd-1-1.ssd-1:2223", "ssd-1-2.ssd-1:2224"],
        },
        "task": {"type": "worker", "index": 2},
    }


@pytest.mark.parametrize("index", [None, "", "3", "-1", "first"])
def test_a_process_outside_the_job_is_refused(tmp_path, monkeypatch, capsys, index):
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    if index is not None:
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    (tmp_path / "file").write_text(json.dumps(dict.fromkeys(ARGUMENTS)))
    options = ["--config", str(tmp_path / "file"), "--workers", "3", "--service", "ssd-1"]
    assert worker.main(options) == BAD_INPUT
    assert f"JOB_COMPLETION_INDEX: {index!r} is not one of the 3 workers" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        worker.main(options[:4])
