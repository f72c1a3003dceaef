"""Matches anchors to objects (SSD paper, section 2.2, "Matching strategy")."""

from keras import KerasTensor, ops

from trainer.boxes import encode, iou, to_corners

_LAST = 2**31 - 1


def match(
    gt_boxes: KerasTensor, gt_labels: KerasTensor, anchors: KerasTensor, matching_iou: float
) -> tuple[KerasTensor, KerasTensor]:
    """Assigns objects to anchors.

    First every object gets its own anchor: the pair with the highest IoU is matched and set aside,
    and so on, so that no object loses its only anchor to another. Each anchor left over then takes
    the object it overlaps most, if their IoU is at least `matching_iou` (0.5 in the paper).

    Args:
      gt_boxes: float32 [batch, num_boxes, 4], corner boxes; padded rows are zero.
      gt_labels: int32 [batch, num_boxes], 1..num_classes; padded rows are 0.
      anchors: float32 [num_anchors, 4], centre boxes.

    Returns:
      (labels, codes): int32 [batch, num_anchors], 0 for background, and float32
      [batch, num_anchors, 4], meaningful where the label is not 0.
    """
    # An extra row for "no object" keeps argmax defined for pictures without objects.
    gt_boxes = ops.pad(gt_boxes, [[0, 0], [0, 1], [0, 0]])
    gt_labels = ops.pad(gt_labels, [[0, 0], [0, 1]])
    no_object = ops.shape(gt_boxes)[1] - 1
    # Anchors last: there are many, and every operation runs along them.
    overlaps = iou(gt_boxes, to_corners(anchors)[None])
    overlaps = ops.where(ops.expand_dims(gt_labels > 0, 2), overlaps, -1.0)

    best_object = ops.cast(ops.argmax(overlaps, axis=1), "int32")
    assigned = ops.where(ops.max(overlaps, axis=1) >= matching_iou, best_object, no_object)
    forced = _join_best_pairs(overlaps)
    assigned = ops.where(forced >= 0, forced, assigned)

    # All rows of the batch at once: `take_along_axis` would look up each coordinate separately.
    batch, num_objects = ops.shape(gt_labels)
    rows = assigned + num_objects * ops.arange(batch)[:, None]
    labels = ops.take(ops.reshape(gt_labels, (-1,)), rows, axis=0)
    boxes = ops.take(ops.reshape(gt_boxes, (-1, 4)), rows, axis=0)
    return labels, encode(boxes, anchors)


def _join_best_pairs(overlaps: KerasTensor) -> KerasTensor:
    """The object matched to each anchor: int32 [batch, num_anchors], -1 for none.

    Each round matches the best remaining pair of every picture; ties go to the first anchor, then
    to the first object. Every other object takes at most one anchor, so only the best `num_objects`
    anchors of an object need to be looked at.

    Args:
      overlaps: float32 [batch, num_objects, num_anchors].
    """
    batch, num_objects, num_anchors = ops.shape(overlaps)
    # JAX needs the number when it compiles the step.
    minimum = min if isinstance(num_objects, int) else ops.minimum
    tried = minimum(num_objects, num_anchors)
    remaining, anchor_ids = ops.top_k(overlaps, tried)
    anchor_ids = ops.cast(anchor_ids, "int32")
    object_ids = ops.broadcast_to(ops.arange(num_objects)[None, :, None], ops.shape(anchor_ids))
    order = ops.reshape(anchor_ids * num_objects + object_ids, (batch, -1))

    def join_best_pair(
        _: int, state: tuple[KerasTensor, KerasTensor]
    ) -> tuple[KerasTensor, KerasTensor]:
        remaining, taken = state
        flat = ops.reshape(remaining, (batch, -1))
        best = ops.max(flat, axis=1, keepdims=True)
        pair = ops.min(ops.where(flat == best, order, _LAST), axis=1)[:, None, None]
        anchor, owner = pair // num_objects, pair % num_objects
        mine = (object_ids == owner) & (best > 0.0)[:, :, None]
        taken = ops.where(mine[:, :, 0], anchor[:, :, 0], taken)
        remaining = ops.where((anchor_ids == anchor) | (object_ids == owner), -1.0, remaining)
        return remaining, taken

    # An extra column for objects without an anchor.
    taken = ops.full((batch, num_objects), num_anchors, dtype="int32")
    _, taken = ops.fori_loop(0, num_objects - 1, join_best_pair, (remaining, taken))
    rows = ops.broadcast_to(ops.arange(batch)[:, None], ops.shape(taken))
    places = ops.reshape(ops.stack([rows, taken], axis=-1), (-1, 2))
    owners = ops.reshape(object_ids[:, :, 0], (-1,))
    forced = ops.full((batch, num_anchors + 1), -1, dtype="int32")
    return ops.scatter_update(forced, places, owners)[:, :num_anchors]
