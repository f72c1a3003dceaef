"""The training step on JAX (`KERAS_BACKEND=jax`); TensorFlow is not imported."""

import jax

from trainer.config import TrainerConfig
from trainer.objective import add_weight_decay, objective


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


def make_step(network, optimizer, anchors, config: TrainerConfig):
    """A compiled step: (state, images, boxes, labels) -> state, (total, class, box, positives).

    The given state's memory is used for the new one. The network itself stays as it is until its
    variables are assigned.
    """

    def losses(trainable, other, images, boxes, labels):
        outputs, other = network.stateless_call(trainable, other, images, training=True)
        total, *rest = objective(outputs, boxes, labels, anchors)
        return total, (other, (total, *rest))

    def step(state, images, boxes, labels):
        trainable, other, optimizer_values = state
        gradients, (other, results) = jax.grad(losses, has_aux=True)(
            trainable, other, images, boxes, labels
        )
        gradients = add_weight_decay(gradients, trainable, config.weight_decay)
        trainable, optimizer_values = optimizer.stateless_apply(
            optimizer_values, gradients, trainable
        )
        return (trainable, other, optimizer_values), results

    return jax.jit(step, donate_argnums=0)
