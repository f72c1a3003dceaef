"""The training step's loss and optimiser, on any Keras backend."""

import re
from collections.abc import Callable, Sequence

import keras
from keras import ops

from trainer.config import MIXED_FLOAT16, ConfigInSteps, TrainerConfig
from trainer.detector import detector_spec
from trainer.loss import multibox_loss, multibox_sums
from trainer.matching import match
from trainer.schedule import LearningRate


def make_optimizer(config: ConfigInSteps) -> keras.optimizers.Optimizer:
    """The configured optimiser, with dynamic loss scaling where the precision needs it."""
    optimizer = CaffeSGD(config)
    if config.precision == MIXED_FLOAT16:
        # Named, because Keras would number it and checkpoints identify variables by name.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
    return optimizer


class CaffeSGD(keras.optimizers.SGD):
    """SGD with momentum and weight decay in the order of Caffe's solver.

    Weight decay is added to the clipped gradients, before momentum. Only kernels decay, not biases
    or normalisation parameters. If configured, biases learn at twice the rate (the SSD release's
    `lr_mult`) and the backbone at its own rate.

    On several replicas, pass `apply` gradients already summed over all of them. Keras would sum
    them only after clipping, so the result would depend on the number of replicas.
    """

    def __init__(self, config: ConfigInSteps) -> None:
        super().__init__(
            LearningRate(config),
            momentum=float(config.momentum),
            global_clipnorm=config.clip_norm or None,
            name="sgd",
        )
        self.config = config

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Determines which rules apply to each variable."""
        super().build(variables)
        self.kernels = [len(variable.shape) > 1 for variable in variables]
        self.biases = [variable.name == "bias" for variable in variables]
        backbone = "|".join(detector_spec(self.config).stages)
        layers = [variable.path.split("/")[0] for variable in variables]
        self.backbone = [bool(backbone and re.match(backbone, layer)) for layer in layers]

    def update_step(
        self,
        gradient: keras.KerasTensor,
        variable: keras.Variable,
        learning_rate: keras.KerasTensor,
    ) -> None:
        """One variable's update from its clipped gradient."""
        index = self._get_variable_index(variable)
        if self.kernels[index]:
            gradient = gradient + self.config.weight_decay * ops.convert_to_tensor(variable)
        if self.config.double_bias_rate and self.biases[index]:
            learning_rate = 2.0 * learning_rate
        if self.backbone[index]:
            learning_rate = self.config.backbone_rate * learning_rate
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict:
        """The configuration, which determines all of SGD's own arguments."""
        return {"config": self.config}

    def _all_reduce_sum_gradients(self, grads_and_vars: list[tuple]) -> list[tuple]:
        return grads_and_vars


def objective(
    outputs: Sequence[keras.KerasTensor],
    boxes: keras.KerasTensor,
    labels: keras.KerasTensor,
    anchors: keras.KerasTensor,
    config: TrainerConfig,
    over_replicas: Callable = lambda positives: positives,
) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]:
    """(total, class, box) losses per positive anchor and the number of those, float32 scalars.

    Args:
      outputs: box codes and class logits from `detector.build_network`'s network.
      boxes: float32 [batch, num_boxes, 4], corner boxes; padded rows are zero.
      labels: int32 [batch, num_boxes], 1..num_classes; padded rows are 0.
      anchors: float32 [num_anchors, 4], centre boxes.
      over_replicas: sums a value over a batch's replicas. Every replica divides by the positives of
        all, so that losses and gradients add up to the whole batch's.
    """
    box_codes, class_logits = outputs
    anchor_labels, codes = match(boxes, labels, anchors, config.matching_iou)
    class_sum, box_sum, positives = multibox_sums(
        box_codes, class_logits, anchor_labels, codes, config.negatives_per_positive
    )
    positives = over_replicas(positives)
    return *multibox_loss(class_sum, box_sum, positives), positives
