"""What a training step minimises and with what, on any Keras backend."""

import keras
from keras import ops

from trainer.config import TrainerConfig
from trainer.loss import multibox_loss, multibox_sums
from trainer.matching import match
from trainer.schedule import WarmupSteps


def make_optimizer(config: TrainerConfig) -> keras.optimizers.Optimizer:
    """SGD with momentum and the configured schedule; weight decay is added to the gradients."""
    return keras.optimizers.SGD(
        WarmupSteps(config),
        momentum=config.momentum,
        global_clipnorm=config.clip_norm or None,
    )


def objective(outputs, boxes, labels, anchors):
    """(total, class, box) losses per positive anchor, and how many there are, float32 scalars.

    Args:
      outputs: box codes and class logits, as `detector.build_network`'s network gives them.
      boxes: float32 [batch, num_boxes, 4], corner boxes; padded rows are zero.
      labels: int32 [batch, num_boxes], 1..num_classes; padded rows are 0.
      anchors: float32 [num_anchors, 4], centre boxes.
    """
    box_codes, class_logits = outputs
    anchor_labels, codes = match(boxes, labels, anchors)
    sums = multibox_sums(box_codes, class_logits, anchor_labels, codes)
    return *multibox_loss(*sums), sums[2]


def add_weight_decay(gradients, variables, weight_decay: float) -> list:
    """Gradients with weight decay, which the momentum sees too, as in Caffe.

    The paper's rule: on weights alone, not on biases and normalisation parameters.
    """
    return [
        gradient + weight_decay * ops.convert_to_tensor(variable)
        if len(variable.shape) > 1
        else gradient
        for gradient, variable in zip(gradients, variables, strict=True)
    ]
