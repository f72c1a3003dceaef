"""The multibox loss with hard negative mining (SSD paper, section 2.2, "Training objective")."""

from keras import KerasTensor, ops


def multibox_sums(
    box_codes: KerasTensor,
    class_logits: KerasTensor,
    labels: KerasTensor,
    codes: KerasTensor,
    negatives_per_positive: int,
) -> tuple[KerasTensor, KerasTensor, KerasTensor]:
    """Sums of both loss terms over the batch; divide by the number of positives to get the loss.

    Sums rather than means, so that replicas can be added up before dividing. Of a picture's
    background anchors only those with the highest loss count: `negatives_per_positive` (3 in the
    paper) per positive, and that many in a picture without positives, so that empty pictures still
    teach what background is.

    Args:
      box_codes: float [batch, num_anchors, 4], predicted.
      class_logits: float [batch, num_anchors, 1 + num_classes], predicted; class 0 is background.
      labels: int32 [batch, num_anchors], 0 for background (from `matching.match`).
      codes: float32 [batch, num_anchors, 4], targets where the label is not 0.

    Returns:
      (class_sum, box_sum, num_positives), float32 scalars.
    """
    box_codes = ops.cast(box_codes, "float32")
    log_probabilities = ops.log_softmax(ops.cast(class_logits, "float32"), axis=-1)
    positive = labels > 0

    picked = ops.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]
    positives = ops.sum(ops.cast(positive, "int32"), axis=1)
    background_loss = ops.where(positive, -1.0, -log_probabilities[..., 0])
    wanted = negatives_per_positive * ops.maximum(positives, 1)
    negative = _highest(ops.stop_gradient(background_loss), wanted) & ~positive
    class_sum = -ops.sum(ops.where(positive | negative, picked, 0.0))

    # A background anchor's code may be anything, even infinite: mask it before taking the loss.
    error = ops.abs(ops.where(positive[..., None], box_codes - codes, 0.0))
    box_sum = ops.sum(ops.where(error < 1.0, 0.5 * error**2, error - 0.5))
    return class_sum, box_sum, ops.cast(ops.sum(positives), "float32")


def _highest(losses: KerasTensor, wanted: KerasTensor) -> KerasTensor:
    """bool [batch, num_anchors]: the `wanted` highest losses of each row; ties go to the first.

    Finds the threshold by bisection, which is four times as fast as sorting. Losses that end up on
    the same side of it differ by less than 2**-32 of the range and count as ties.

    Args:
      losses: float32 [batch, num_anchors], at least -1.
      wanted: int32 [batch], at least 1.
    """
    wanted = wanted[:, None]

    def halve(_: int, bracket: tuple[KerasTensor, KerasTensor]) -> tuple[KerasTensor, KerasTensor]:
        low, high = bracket
        middle = (low + high) / 2.0
        enough = _count(losses >= middle) >= wanted
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    top = ops.max(losses, axis=1, keepdims=True)
    low, high = ops.fori_loop(0, 32, halve, (ops.full_like(top, -1.0), 2.0 * top + 3.0))
    above = losses >= high
    level = (losses >= low) & ~above
    rank = ops.cumsum(ops.cast(level, "int32"), axis=1)
    return above | (level & (rank <= wanted - _count(above)))


def _count(holds: KerasTensor) -> KerasTensor:
    return ops.sum(ops.cast(holds, "int32"), axis=1, keepdims=True)


def multibox_loss(
    class_sum: KerasTensor, box_sum: KerasTensor, num_positives: KerasTensor
) -> tuple[KerasTensor, KerasTensor, KerasTensor]:
    """(total, class, box) losses per positive anchor; a batch without positives divides by 1."""
    divisor = ops.maximum(num_positives, 1.0)
    return (class_sum + box_sum) / divisor, class_sum / divisor, box_sum / divisor
