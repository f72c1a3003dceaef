from types import SimpleNamespace

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


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": 3}', '{"cluster": {"worker": 2}}'])
def test_an_unreadable_cluster_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(DataError, match='TF_CONFIG cannot be read.*"cluster"'):
        devices.choose_strategy()


@pytest.mark.parametrize(
    ("batch", "near"), [(32, "30 or 33"), (2, "such as 3"), (100, "99 or 102")]
)
def test_a_batch_that_cannot_be_dealt_out_is_refused(batch, near):
    with pytest.raises(DataError, match=f"batch_size: {batch} .*3 devices.*{near}"):
        devices.check_fit(TrainerConfig(batch_size=batch), _replicas(3))


def test_batches_that_fit():
    devices.check_fit(TrainerConfig(batch_size=33), _replicas(3))
    devices.check_fit(TrainerConfig(batch_size=7, xla=True), _replicas(1))


def test_xla_on_several_devices_is_refused():
    with pytest.raises(DataError, match="trainer.xla: works on one device, not on 2"):
        devices.check_fit(TrainerConfig(xla=True), _replicas(2))


@pytest.mark.parametrize("number", [1, 2])
def test_normalisation_is_synchronised_only_where_there_is_something_to_synchronise(number):
    inputs = keras.Input((4,))
    layer = keras.layers.BatchNormalization()
    network = keras.Model(inputs, layer(inputs))
    devices.synchronise_normalisation(network, _replicas(number))
    assert layer.synchronized == (number > 1)
