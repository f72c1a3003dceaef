"""Which anchor answers for which object (SSD paper, section 2.2, "Matching strategy")."""

from keras import ops

from trainer.boxes import encode, iou, to_corners

POSITIVE_IOU = 0.5


def match(gt_boxes, gt_labels, anchors):
    """Assigns objects to anchors.

    First every object gets an anchor of its own: the pair with the highest IoU of all is joined,
    both leave, and so on, so that no object loses its only anchor to another. Then every anchor
    still free takes the object it overlaps most, if their IoU is at least 0.5.

    Args:
      gt_boxes: float32 [batch, num_boxes, 4], corner boxes; padded rows are zero.
      gt_labels: int32 [batch, num_boxes], 1..num_classes; padded rows are 0.
      anchors: float32 [num_anchors, 4], centre boxes.

    Returns:
      (labels, codes): int32 [batch, num_anchors], 0 for background, and float32
      [batch, num_anchors, 4], meaningful where the label is not 0.
    """
    num_boxes = ops.shape(gt_boxes)[1]
    real = ops.expand_dims(gt_labels > 0, 1)
    # A column of its own for "no object" keeps argmax defined for pictures without any.
    overlaps = ops.where(real, iou(to_corners(anchors)[None], gt_boxes), -1.0)
    overlaps = ops.pad(overlaps, [[0, 0], [0, 0], [0, 1]], constant_values=0.0)

    best_object = ops.argmax(overlaps, axis=-1)
    assigned = ops.where(ops.max(overlaps, axis=-1) >= POSITIVE_IOU, best_object, num_boxes)
    assigned = ops.cast(assigned, "int32")

    # Bipartite part. Each round joins the best remaining pair of every picture at once.
    num_anchors = ops.shape(anchors)[0]
    anchor_ids = ops.arange(num_anchors)
    object_ids = ops.arange(num_boxes + 1)

    def join_best_pair(_, state):
        remaining, forced = state
        flat = ops.reshape(remaining, (-1, num_anchors * (num_boxes + 1)))
        best = ops.argmax(flat, axis=-1)
        anchor, box = best // (num_boxes + 1), best % (num_boxes + 1)
        here = ops.equal(anchor_ids[None], ops.cast(anchor, anchor_ids.dtype)[:, None])
        this = ops.equal(object_ids[None], ops.cast(box, object_ids.dtype)[:, None])
        found = ops.max(flat, axis=-1) > 0.0
        forced = ops.where(here & found[:, None], ops.cast(box, "int32")[:, None], forced)
        remaining = ops.where(here[:, :, None] | this[:, None, :], -1.0, remaining)
        return remaining, forced

    forced = ops.full_like(assigned, -1)
    _, forced = ops.fori_loop(0, num_boxes, join_best_pair, (overlaps, forced))
    assigned = ops.where(forced >= 0, forced, assigned)

    labels = ops.pad(gt_labels, [[0, 0], [0, 1]])
    boxes = ops.pad(gt_boxes, [[0, 0], [0, 1], [0, 0]])
    labels = ops.take_along_axis(labels, assigned, axis=1)
    boxes = ops.take_along_axis(boxes, assigned[:, :, None], axis=1)
    return labels, encode(boxes, anchors)
