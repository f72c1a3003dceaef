"""The training step on JAX (`KERAS_BACKEND=jax`); TensorFlow is not imported."""

import jax
import keras

from trainer.config import TrainerConfig
from trainer.objective import objective


def initial_state(network, optimizer, averages) -> tuple[list, list, list, list]:
    """(trainable, other, optimiser, average) values of a network and what trains it."""
    optimizer.build(network.trainable_variables)
    return tuple(
        [variable.value for variable in variables]
        for variables in (
            network.trainable_variables,
            network.non_trainable_variables,
            optimizer.variables,
            averages.variables,
        )
    )


def make_step(network, optimizer, averages, anchors, config: TrainerConfig):
    """A compiled step: (state, images, boxes, labels) -> state, (total, class, box, positives).

    The given state's memory is used for the new one. The network itself stays as it is until its
    variables are assigned.
    """

    def losses(trainable, other, optimizer_values, images, boxes, labels):
        outputs, other = network.stateless_call(trainable, other, images, training=True)
        total, *rest = objective(outputs, boxes, labels, anchors, config)
        # The loss scale is part of the optimiser's state.
        scale = zip(optimizer.variables, optimizer_values, strict=True)
        with keras.StatelessScope(state_mapping=list(scale)):
            scaled = optimizer.scale_loss(total)
        return scaled, (other, (total, *rest))

    def step(state, images, boxes, labels):
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
