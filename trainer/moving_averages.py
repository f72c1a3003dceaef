"""Exponential moving averages of a network's variables, on any Keras backend."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops


class MovingAverages:
    """`average = decay * average + (1 - decay) * variable` for every variable of a network.

    Batch normalisation's moving statistics are averaged too: with averaged weights, activations
    have other means and variances than with the last weights. As in TensorFlow's
    ExponentialMovingAverage, the decay after n steps is `min(ema, (1 + n) / (10 + n))`: with a
    constant decay, the initial weights would dominate for some `1 / (1 - ema)` steps.

    With `ema` 0 nothing is averaged or stored.
    """

    def __init__(self, network: keras.Model, ema: float) -> None:
        self._ema = ema
        self._averaged = network.variables if ema else []
        self.variables = [
            keras.Variable(ops.convert_to_numpy(v), trainable=False, name=f"{v.name}_average")
            for v in self._averaged
        ]

    def update(self, steps: keras.KerasTensor) -> None:
        """Updates the averages from the network's variables after `steps` steps."""
        steps = ops.cast(steps, "float32")
        decay = ops.minimum(self._ema, (1.0 + steps) / (10.0 + steps))
        for average, variable in zip(self.variables, self._averaged, strict=True):
            average.assign(decay * average + (1.0 - decay) * variable)

    def put_into_network(self) -> None:
        """Sets the network's variables to their averages."""
        for variable, average in zip(self._averaged, self.variables, strict=True):
            variable.assign(average)

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """Puts the averages into the network within the context, then restores its own values."""
        trained = [ops.convert_to_numpy(variable) for variable in self._averaged]
        self.put_into_network()
        try:
            yield
        finally:
            for variable, value in zip(self._averaged, trained, strict=True):
                variable.assign(value)
