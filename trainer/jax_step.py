"""The training step on JAX (`KERAS_BACKEND=jax`); TensorFlow is not imported."""

from collections.abc import Callable

import jax
import keras
import numpy as np

from trainer.config import ConfigInSteps
from trainer.moving_averages import MovingAverages
from trainer.objective import objective


def initial_state(
    network: keras.Model, optimizer: keras.optimizers.Optimizer, averages: MovingAverages
) -> tuple[list, list, list, list]:
    """Initial (trainable, other, optimiser, average) values of a training."""
    optimizer.build(network.trainable_variables)
    trainable, other, optimizer_values, average_values = (
        [variable.value for variable in variables]
        for variables in (
            network.trainable_variables,
            network.non_trainable_variables,
            optimizer.variables,
            averages.variables,
        )
    )
    return trainable, other, optimizer_values, average_values


def make_step(
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    averages: MovingAverages,
    anchors: np.ndarray,
    config: ConfigInSteps,
) -> Callable:
    """A compiled step: (state, images, boxes, labels) -> state, (total, class, box, positives).

    The new state reuses the given one's memory. The network itself does not change until its
    variables are assigned.
    """

    def losses(
        trainable: list[jax.Array],
        other: list[jax.Array],
        optimizer_values: list[jax.Array],
        images: jax.Array,
        boxes: jax.Array,
        labels: jax.Array,
    ) -> tuple:
        outputs, other = network.stateless_call(trainable, other, images, training=True)
        total, *rest = objective(outputs, boxes, labels, anchors, config)
        # The loss scale is part of the optimiser's state.
        scale = zip(optimizer.variables, optimizer_values, strict=True)
        with keras.StatelessScope(state_mapping=list(scale)):
            scaled = optimizer.scale_loss(total)
        return scaled, (other, (total, *rest))

    def step(
        state: tuple[list[jax.Array], ...], images: jax.Array, boxes: jax.Array, labels: jax.Array
    ) -> tuple:
        trainable, other, optimizer_values, average_values = state
        gradients, (other, results) = jax.grad(losses, has_aux=True)(
            trainable, other, optimizer_values, images, boxes, labels
        )
        trainable, optimizer_values = optimizer.stateless_apply(
            optimizer_values, gradients, trainable
        )
        values = zip(
            (
                *network.trainable_variables,
                *network.non_trainable_variables,
                *optimizer.variables,
                *averages.variables,
            ),
            (*trainable, *other, *optimizer_values, *average_values),
            strict=True,
        )
        with keras.StatelessScope(state_mapping=list(values)) as scope:
            averages.update(optimizer.iterations)
        average_values = [scope.get_current_value(v) for v in averages.variables]
        return (trainable, other, optimizer_values, average_values), results

    return jax.jit(step, donate_argnums=0)
