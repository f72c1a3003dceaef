"""The training step on JAX (`KERAS_BACKEND=jax`); TensorFlow is not imported."""

import jax
import keras

from trainer.objective import objective


def initial_state(network, optimizer) -> tuple[list, list, list]:
    """(trainable, other, optimiser) values of a network and its optimiser, for the step."""
    optimizer.build(network.trainable_variables)
    return tuple(
        [variable.value for variable in variables]
        for variables in (
            network.trainable_variables,
            network.non_trainable_variables,
            optimizer.variables,
        )
    )


def make_step(network, optimizer, anchors):
    """A compiled step: (state, images, boxes, labels) -> state, (total, class, box, positives).

    The given state's memory is used for the new one. The network itself stays as it is until its
    variables are assigned.
    """

    def losses(trainable, other, optimizer_values, images, boxes, labels):
        outputs, other = network.stateless_call(trainable, other, images, training=True)
        total, *rest = objective(outputs, boxes, labels, anchors)
        # The loss scale is part of the optimiser's state.
        scale = zip(optimizer.variables, optimizer_values, strict=True)
        with keras.StatelessScope(state_mapping=list(scale)):
            scaled = optimizer.scale_loss(total)
        return scaled, (other, (total, *rest))

    def step(state, images, boxes, labels):
        trainable, other, optimizer_values = state
        gradients, (other, results) = jax.grad(losses, has_aux=True)(
            trainable, other, optimizer_values, images, boxes, labels
        )
        trainable, optimizer_values = optimizer.stateless_apply(
            optimizer_values, gradients, trainable
        )
        return (trainable, other, optimizer_values), results

    return jax.jit(step, donate_argnums=0)
