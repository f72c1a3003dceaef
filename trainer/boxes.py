"""Box arithmetic on any Keras backend.

Corner boxes are `ymin, xmin, ymax, xmax`, centre boxes `cy, cx, height, width`, all relative to the
picture. Codes are SSD's regression targets with variances 0.1, 0.1, 0.2, 0.2.
"""

from keras import KerasTensor, ops

# Smallest side, relative: keeps logarithms and divisions finite for padded (all zero) boxes.
_EPSILON = 1e-6
CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2


def to_corners(centre_boxes: KerasTensor) -> KerasTensor:
    """Centre boxes [..., 4] -> corner boxes [..., 4]."""
    centre, size = centre_boxes[..., :2], centre_boxes[..., 2:]
    return ops.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def to_centres(corner_boxes: KerasTensor) -> KerasTensor:
    """Corner boxes [..., 4] -> centre boxes [..., 4]."""
    low, high = corner_boxes[..., :2], corner_boxes[..., 2:]
    return ops.concatenate([(low + high) / 2, high - low], axis=-1)


def iou(boxes_a: KerasTensor, boxes_b: KerasTensor) -> KerasTensor:
    """Intersection over union of corner boxes [..., n, 4] and [..., m, 4]: [..., n, m].

    Boxes with no area have IoU 0 with everything.
    """
    a, b = ops.expand_dims(boxes_a, -2), ops.expand_dims(boxes_b, -3)

    def overlap(low: int, high: int) -> KerasTensor:
        # Coordinates apart, not stacked: operations on whole rows of boxes are several times
        # faster.
        shared = ops.minimum(a[..., high], b[..., high]) - ops.maximum(a[..., low], b[..., low])
        return ops.maximum(shared, 0.0)

    intersection = overlap(0, 2) * overlap(1, 3)
    union = _area(a) + _area(b) - intersection
    return intersection / ops.maximum(union, _EPSILON**2)


def _area(boxes: KerasTensor) -> KerasTensor:
    size = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return size[..., 0] * size[..., 1]


def encode(corner_boxes: KerasTensor, anchors: KerasTensor) -> KerasTensor:
    """Codes [..., n, 4] of corner boxes [..., n, 4] against centre anchors [n, 4]."""
    boxes = to_centres(corner_boxes)
    centre = (boxes[..., :2] - anchors[..., :2]) / anchors[..., 2:]
    size = ops.log(ops.maximum(boxes[..., 2:], _EPSILON) / anchors[..., 2:])
    return ops.concatenate([centre / CENTRE_VARIANCE, size / SIZE_VARIANCE], axis=-1)


def decode(codes: KerasTensor, anchors: KerasTensor) -> KerasTensor:
    """Corner boxes [..., n, 4] of codes [..., n, 4] against centre anchors [n, 4]; not clipped."""
    centre = codes[..., :2] * CENTRE_VARIANCE * anchors[..., 2:] + anchors[..., :2]
    size = ops.exp(codes[..., 2:] * SIZE_VARIANCE) * anchors[..., 2:]
    return to_corners(ops.concatenate([centre, size], axis=-1))
