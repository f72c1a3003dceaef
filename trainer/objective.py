"""What a training step minimises and with what, on any Keras backend."""

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
        # A name of its own: Keras would number it, and a checkpoint's variables go by their names.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
    return optimizer


class CaffeSGD(keras.optimizers.SGD):
    """SGD with momentum and weight decay in the order of Caffe's solver.

    Clipped gradients get their weight decay, which the momentum sees too. Decay is on kernels
    alone, not on biases and normalisation parameters; biases learn at twice the rate if configured
    (the SSD release's `lr_mult`), and the backbone at its own.

    On several replicas `apply` wants gradients that are summed over all of them already. Keras
    would add them up only after clipping, so what is clipped would depend on their number.
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
        """Works out for each variable which rules apply to it."""
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
        """The configuration in place of SGD's own arguments, all of which follow from it."""
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
    """(total, class, box) losses per positive anchor, and how many there are, float32 scalars.

    Args:
      outputs: box codes and class logits, as `detector.build_network`'s network gives them.
      boxes: float32 [batch, num_boxes, 4], corner boxes; padded rows are zero.
      labels: int32 [batch, num_boxes], 1..num_classes; padded rows are 0.
      anchors: float32 [num_anchors, 4], centre boxes.
      over_replicas: sums a value over the replicas of a batch. Every replica divides by the
        positives of all, so that their losses and gradients add up to those of the whole batch.
    """
    box_codes, class_logits = outputs
    anchor_labels, codes = match(boxes, labels, anchors, config.matching_iou)
    class_sum, box_sum, positives = multibox_sums(
        box_codes, class_logits, anchor_labels, codes, config.negatives_per_positive
    )
    positives = over_replicas(positives)
    return *multibox_loss(class_sum, box_sum, positives), positives
