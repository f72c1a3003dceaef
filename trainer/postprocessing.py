"""From the network's outputs to detections; the only copy, part of the exported model."""

import tensorflow as tf

from trainer.boxes import decode

SCORE_THRESHOLD = 0.01
NMS_IOU = 0.45
TOP_PER_CLASS = 400
MAX_DETECTIONS = 200

# Type and shape, without the batch, of everything `detect` returns.
OUTPUTS = {
    "detection_boxes": (tf.float32, [MAX_DETECTIONS, 4]),
    "detection_scores": (tf.float32, [MAX_DETECTIONS]),
    "detection_classes": (tf.int64, [MAX_DETECTIONS]),
    "detection_class_names": (tf.string, [MAX_DETECTIONS]),
    "num_detections": (tf.int64, []),
}


def detect(box_codes, class_logits, anchors, class_names):
    """Softmax, score threshold, best boxes per class, class-wise NMS and a cap per picture.

    The numbers are the paper's (section 3.1 and its Caffe release).

    Args:
      box_codes: float32 [batch, num_anchors, 4].
      class_logits: float32 [batch, num_anchors, 1 + num_classes].
      anchors: float32 [num_anchors, 4], centre boxes.
      class_names: names of classes 1..num_classes.

    Returns:
      dict of OUTPUTS, each with the batch in front. Best detection first; boxes are clipped to
      the picture; rows from `num_detections` on are zero and "".
    """
    boxes = decode(box_codes, anchors)
    scores = tf.transpose(tf.nn.softmax(class_logits)[..., 1:], [0, 2, 1])
    top = min(TOP_PER_CLASS, anchors.shape[0])
    scores, indices = tf.math.top_k(scores, k=top)
    boxes = tf.gather(boxes, indices, axis=1, batch_dims=1)
    found = tf.image.combined_non_max_suppression(
        # The operator wants [batch, boxes, classes, 4] and [batch, boxes, classes].
        tf.transpose(boxes, [0, 2, 1, 3]),
        tf.transpose(scores, [0, 2, 1]),
        max_output_size_per_class=top,
        max_total_size=MAX_DETECTIONS,
        iou_threshold=NMS_IOU,
        score_threshold=SCORE_THRESHOLD,
        clip_boxes=True,
    )
    valid = tf.sequence_mask(found.valid_detections, MAX_DETECTIONS)
    classes = tf.where(valid, tf.cast(found.nmsed_classes, tf.int64) + 1, 0)
    return {
        "detection_boxes": found.nmsed_boxes,
        "detection_scores": found.nmsed_scores,
        "detection_classes": classes,
        "detection_class_names": tf.gather(tf.constant(["", *class_names]), classes),
        "num_detections": tf.cast(found.valid_detections, tf.int64),
    }
