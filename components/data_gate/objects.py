"""Checks of the boxes of one picture, and of how well a detector's anchors can meet them."""

from collections.abc import Sequence

import numpy as np

from trainer.anchors import AnchorSpec, anchor_boxes

SAME_OBJECT_IOU = 0.95
MATCHABLE_IOU = 0.5

# Coordinates are float32; a border may be off by a rounding error.
_ROUNDING = 1e-6


def is_usable(boxes: np.ndarray) -> np.ndarray:
    """bool [n]: finite boxes [n, 4] with an area."""
    # A comparison with NaN is false.
    return (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & np.isfinite(boxes).all(axis=1)


def box_problems(boxes: np.ndarray, names: Sequence[str]) -> list[str]:
    """What is wrong with boxes [n, 4] (relative `ymin, xmin, ymax, xmax`) of a picture."""
    usable = is_usable(boxes)
    outside = (boxes < -_ROUNDING).any(axis=1) | (boxes > 1 + _ROUNDING).any(axis=1)
    problems = []
    for index in np.flatnonzero(outside | ~usable):
        what = "reaches out of the picture" if usable[index] else "has no area"
        problems.append(f"object {index + 1} ({names[index]}): box {_text(boxes[index])} {what}")
    return problems


def repeated_objects(boxes: np.ndarray, names: Sequence[str]) -> list[str]:
    """Pairs of boxes of one class that are the same but for a hair (IoU above 0.95)."""
    overlap = np.triu(_iou(boxes, boxes), k=1)
    return [
        f"objects {first + 1} and {second + 1} ({names[first]}): IoU {overlap[first, second]:.3f}"
        for first, second in np.argwhere(overlap > SAME_OBJECT_IOU)
        if names[first] == names[second]
    ]


class AnchorGrid:
    """The anchors of a detector, arranged to find the best one of a box without trying all."""

    def __init__(self, spec: AnchorSpec):
        self._levels = []
        anchors = anchor_boxes(spec).astype(np.float64)
        for level, size in enumerate(spec.feature_sizes):
            count = size * size * spec.per_cell(level)
            self._levels.append(anchors[:count].reshape(size, size, -1, 4))
            anchors = anchors[count:]

    def best_iou(self, boxes: np.ndarray) -> np.ndarray:
        """The highest IoU [n] of usable boxes [n, 4] with any anchor.

        Of the anchors of one shape the nearest overlaps most, so one cell of a map is enough.
        """
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        best = np.zeros(len(boxes))
        for grid in self._levels:
            row = np.abs(grid[:, 0, 0, 0] - centre[:, :1]).argmin(axis=1)
            column = np.abs(grid[0, :, 0, 1] - centre[:, 1:]).argmin(axis=1)
            anchors = grid[row, column]
            corners = np.concatenate(
                [anchors[..., :2] - anchors[..., 2:] / 2, anchors[..., :2] + anchors[..., 2:] / 2],
                axis=-1,
            )
            for shape in range(corners.shape[1]):
                best = np.maximum(best, _pairwise(boxes, corners[:, shape]))
        return best


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU [n, m] of boxes [n, 4] and [m, 4]."""
    return _pairwise(boxes[:, None], others[None])


def _pairwise(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    side = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    shared = np.prod(np.maximum(side, 0), axis=-1)
    area, other_area = (np.prod(b[..., 2:] - b[..., :2], axis=-1) for b in (boxes, others))
    union = area + other_area - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def _text(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{side:.4g}" for side in box) + "]"
