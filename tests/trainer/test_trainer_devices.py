import json
from types import SimpleNamespace
from unittest import mock

import keras
import pytest
import tensorflow as tf

from data.errors import DataError
from trainer import devices
from trainer.config import TrainerConfig


def _replicas(number):
    return SimpleNamespace(num_replicas_in_sync=number)


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": {"worker": ["localhost:1"]}}'])
def test_one_device_needs_no_strategy(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    strategy = devices.choose_strategy()
    assert strategy is tf.distribute.get_strategy()
    assert devices.is_chief(strategy)
    assert devices.describe(strategy) == "1xCPU"
    assert devices.same_everywhere(strategy, 7)


def test_workers_that_differ_wait_until_all_know():
    gathered = []

    def gather(values, axis):
        gathered.append(axis)
        if len(gathered) == 2:
            raise tf.errors.UnavailableError(None, None, "another worker has ended")
        return tf.constant([0, 4])

    strategy = mock.Mock(num_replicas_in_sync=2, gather=gather)
    assert not devices.same_everywhere(strategy, 4)
    assert len(gathered) == 2


def test_other_keras_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(DataError, match="KERAS_BACKEND: Keras runs on jax, .* Unset it, or"):
        devices.choose_strategy()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "Expecting property name"),
        ("[]", "not a JSON object with an object `cluster`"),
        ('{"cluster": 3}', "not a JSON object with an object `cluster`"),
        ('{"cluster": {"worker": 2}}', 'cluster.worker is not a list of "host:port"'),
        ('{"cluster": {"worker": "host:1"}}', 'cluster.worker is not a list of "host:port"'),
        ('{"cluster": {"chief": ["host:1", 2]}}', 'cluster.chief is not a list of "host:port"'),
        ('{"cluster": {"worker": ["host", "1"]}}', 'cluster.worker is not a list of "host:port"'),
    ],
)
def test_an_unreadable_cluster_is_refused(monkeypatch, text, fault):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(DataError) as error:
        devices.choose_strategy()
    assert str(error.value).startswith(f"TF_CONFIG: {fault}")
    assert f', in {text}. Write {{"cluster": ' in str(error.value)


_WORKERS = {"worker": ["a:1", "b:2"]}


def _tf_config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (json.dumps({"cluster": _WORKERS}), "`task` is not an object"),
        (json.dumps({"cluster": _WORKERS, "task": "worker"}), "`task` is not an object"),
        (_tf_config(_WORKERS, None), "task.type is null, not chief or worker"),
        (_tf_config(_WORKERS, "ps"), 'task.type is "ps", not chief or worker'),
        (_tf_config(_WORKERS, "evaluator"), 'task.type is "evaluator"'),
        (
            _tf_config(_WORKERS, index=None),
            "task.index is null, but cluster.worker has 2, counted from 0",
        ),
        (
            _tf_config(_WORKERS, index=5),
            "task.index is 5, but cluster.worker has 2, counted from 0",
        ),
        (
            _tf_config(_WORKERS, index=2),
            "task.index is 2, but cluster.worker has 2, counted from 0",
        ),
        (_tf_config(_WORKERS, index=-1), "task.index is -1,"),
        (_tf_config(_WORKERS, index=0.5), "task.index is 0.5,"),
        (_tf_config(_WORKERS, index="one"), 'task.index is "one",'),
        (_tf_config(_WORKERS, "chief"), "task.index is 0, but cluster.chief has 0, counted from 0"),
        (_tf_config(_WORKERS | {"ps": ["c:3"]}), "cluster.ps takes no part in this training"),
        (_tf_config({"chief": ["a:1", "b:2"]}), "cluster.chief names more than one"),
    ],
)
def test_a_task_that_does_not_train_in_its_cluster_is_refused(monkeypatch, text, fault):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(DataError, match=f"TF_CONFIG: {fault}.*Write"):
        devices.choose_strategy()


@pytest.mark.parametrize(
    ("text", "others"),
    [
        (_tf_config(_WORKERS, index=1), 1),
        (_tf_config(_WORKERS, index="1"), 1),
        (_tf_config(_WORKERS | {"chief": ["c:3"]}, "chief"), 2),
        (_tf_config(_WORKERS | {"evaluator": ["c:3"]}), 1),
    ],
)
def test_the_log_says_how_many_workers_it_waits_for(monkeypatch, messages, text, others):
    monkeypatch.setenv("TF_CONFIG", text)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", messages)
    logged = devices.choose_strategy()
    assert set(logged) == {f"  waiting for the other workers of TF_CONFIG: {others}"}


@pytest.mark.parametrize(
    ("batch", "near"), [(32, "30 or 33"), (2, "such as 3"), (100, "99 or 102")]
)
def test_a_batch_that_cannot_be_split_evenly_is_refused(batch, near):
    with pytest.raises(DataError, match=f"batch_size: {batch} .*3 devices.*{near}"):
        devices.check_fit(TrainerConfig(batch_size=batch), _replicas(3))


def test_batches_that_fit():
    devices.check_fit(TrainerConfig(batch_size=33), _replicas(3))
    devices.check_fit(TrainerConfig(batch_size=7, xla=True), _replicas(1))


def test_xla_on_several_devices_is_refused():
    with pytest.raises(DataError, match="trainer.xla: works on one device, not on 2"):
        devices.check_fit(TrainerConfig(xla=True), _replicas(2))


@pytest.mark.parametrize("number", [1, 2])
def test_normalisation_is_synchronised_only_over_several_replicas(number):
    inputs = keras.Input((4,))
    layer = keras.layers.BatchNormalization()
    network = keras.Model(inputs, layer(inputs))
    devices.synchronise_normalisation(network, _replicas(number))
    assert layer.synchronized == (number > 1)
