"""Moving averages of weights and statistics, compared with numpy."""

import keras
import numpy as np
import pytest

from trainer.moving_averages import MovingAverages


def _network():
    layers = [keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    return keras.Sequential(layers)


def _values(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def _set(network, step):
    """Sets different values for each step, like training."""
    rng = np.random.default_rng(step)
    network.set_weights([rng.uniform(0, 10, v.shape) for v in network.variables])


@pytest.mark.parametrize("ema", [0.3, 0.999])
def test_equal_to_numpy(ema):
    """The decay is 2/11, 3/12, 4/13, ... while that is less than `ema`."""
    network = _network()
    assert len(network.variables) == 6 and len(network.trainable_variables) == 4
    _set(network, 0)
    averages = MovingAverages(network, ema)
    expected = network.get_weights()
    for step in range(1, 8):
        _set(network, step)
        averages.update(step)
        decay = min(ema, (1 + step) / (10 + step))
        pairs = zip(expected, network.get_weights(), strict=True)
        expected = [decay * average + (1 - decay) * value for average, value in pairs]
    last = network.get_weights()
    with averages.in_network():
        served = network.get_weights()
    for value, wanted in zip(served, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for value, wanted in zip(network.get_weights(), last, strict=True):
        np.testing.assert_array_equal(value, wanted)
    averages.put_into_network()
    for value, wanted in zip(network.get_weights(), served, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_late_steps_use_the_full_ema():
    network = _network()
    _set(network, 0)
    averages = MovingAverages(network, 0.9)
    before = network.get_weights()
    _set(network, 1)
    averages.update(100_000)
    pairs = zip(_values(averages.variables), before, network.get_weights(), strict=True)
    for average, old, new in pairs:
        np.testing.assert_allclose(average, 0.9 * old + 0.1 * new, rtol=1e-5)


def test_the_networks_values_are_restored_after_an_error():
    network = _network()
    averages = MovingAverages(network, 0.5)
    _set(network, 1)
    last = network.get_weights()
    with pytest.raises(KeyError), averages.in_network():
        raise KeyError
    for value, wanted in zip(network.get_weights(), last, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_without_ema_nothing_is_stored_or_changed():
    network = _network()
    averages = MovingAverages(network, 0.0)
    assert averages.variables == []
    _set(network, 1)
    last = network.get_weights()
    averages.update(1)
    averages.put_into_network()
    for value, wanted in zip(network.get_weights(), last, strict=True):
        np.testing.assert_array_equal(value, wanted)
