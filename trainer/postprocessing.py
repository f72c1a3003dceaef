"""From the network's outputs to detections; part of the exported model."""

from collections.abc import Sequence

import tensorflow as tf

from data.saved_model import BOXES, CLASS_NAMES, CLASSES, COUNT, SCORES
from trainer.boxes import decode
from trainer.config import TrainerConfig


def output_specs(max_detections: int) -> dict[str, tuple[tf.DType, list[int]]]:
    """Type and shape, without the batch, of everything `detect` returns."""
    return {
        BOXES: (tf.float32, [max_detections, 4]),
        SCORES: (tf.float32, [max_detections]),
        CLASSES: (tf.int64, [max_detections]),
        CLASS_NAMES: (tf.string, [max_detections]),
        COUNT: (tf.int64, []),
    }


def detect(
    box_codes: tf.Tensor,
    class_logits: tf.Tensor,
    anchors: tf.Tensor,
    class_names: Sequence[str],
    config: TrainerConfig,
) -> dict[str, tf.Tensor]:
    """Softmax, score threshold, best boxes per class, class-wise NMS and a cap per picture.

    The configuration's defaults are the paper's (section 3.1 and its Caffe release).

    Args:
      box_codes: float32 [batch, num_anchors, 4].
      class_logits: float32 [batch, num_anchors, 1 + num_classes].
      anchors: float32 [num_anchors, 4], centre boxes.
      class_names: names of classes 1..num_classes.

    Returns:
      dict of `output_specs`, each with the batch in front. Best detections first; boxes are clipped
      to the picture; rows from `num_detections` on are zero and "".
    """
    boxes = decode(box_codes, anchors)
    scores = tf.transpose(tf.nn.softmax(class_logits)[..., 1:], [0, 2, 1])
    top = min(config.candidates_per_class, anchors.shape[0])
    scores, indices = tf.math.top_k(scores, k=top)
    boxes = tf.gather(boxes, indices, axis=1, batch_dims=1)
    found = tf.image.combined_non_max_suppression(
        # The operator wants [batch, boxes, classes, 4] and [batch, boxes, classes].
        tf.transpose(boxes, [0, 2, 1, 3]),
        tf.transpose(scores, [0, 2, 1]),
        max_output_size_per_class=top,
        max_total_size=config.max_detections,
        iou_threshold=config.nms_iou,
        score_threshold=config.score_threshold,
        clip_boxes=True,
    )
    valid = tf.sequence_mask(found.valid_detections, config.max_detections)
    classes = tf.where(valid, tf.cast(found.nmsed_classes, tf.int64) + 1, 0)
    return {
        BOXES: found.nmsed_boxes,
        SCORES: found.nmsed_scores,
        CLASSES: classes,
        CLASS_NAMES: tf.gather(tf.constant(["", *class_names]), classes),
        COUNT: tf.cast(found.valid_detections, tf.int64),
    }
