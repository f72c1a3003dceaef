"""Exponential moving averages of a network's variables, on any Keras backend."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops


class MovingAverages:
    """`average = decay * average + (1 - decay) * variable` for every variable of a network.

    The moving statistics of batch normalisation are averaged too: averaged weights give activations
    of other means and variances than the last weights do. The decay after n steps is
    `min(ema, (1 + n) / (10 + n))`, as TensorFlow's ExponentialMovingAverage has it: with a constant
    one, weights of the first steps would outweigh what was learned for some `1 / (1 - ema)` steps.

    With `ema` 0 nothing is averaged and nothing stored.
    """

    def __init__(self, network: keras.Model, ema: float) -> None:
        self._ema = ema
        self._averaged = network.variables if ema else []
        self.variables = [
            keras.Variable(ops.convert_to_numpy(v), trainable=False, name=f"{v.name}_average")
            for v in self._averaged
        ]

    def update(self, steps: keras.KerasTensor) -> None:
        """Takes in the values of the network's variables after so many steps."""
        steps = ops.cast(steps, "float32")
        decay = ops.minimum(self._ema, (1.0 + steps) / (10.0 + steps))
        for average, variable in zip(self.variables, self._averaged, strict=True):
            average.assign(decay * average + (1.0 - decay) * variable)

    def put_into_network(self) -> None:
        """Gives the network's variables their averages."""
        for variable, average in zip(self._averaged, self.variables, strict=True):
            variable.assign(average)

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """The network with the averages for a while, then with its own values again."""
        trained = [ops.convert_to_numpy(variable) for variable in self._averaged]
        self.put_into_network()
        try:
            yield
        finally:
            for variable, value in zip(self._averaged, trained, strict=True):
                variable.assign(value)
