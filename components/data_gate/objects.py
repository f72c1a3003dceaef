"""Checks one picture's boxes, and how well a detector's anchors can match them."""

from collections.abc import Sequence

import numpy as np

from metrics.boxes import box_iou
from trainer.anchors import AnchorSpec, anchor_boxes

SAME_OBJECT_IOU = 0.95

# Why no anchor matches an object.
TOO_SMALL, TOO_LARGE, TOO_TALL, TOO_WIDE = "too small", "too large", "too tall", "too wide"
BETWEEN = "between two anchors"

# Coordinates are float32, so edges may be off by a rounding error.
_ROUNDING = 1e-6


def is_usable(boxes: np.ndarray) -> np.ndarray:
    """bool [n]: whether boxes [n, 4] are finite and have an area."""
    # Comparisons with NaN are false.
    return (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & np.isfinite(boxes).all(axis=1)


def box_problems(boxes: np.ndarray, names: Sequence[str]) -> list[str]:
    """What is wrong with a picture's boxes [n, 4] (relative `ymin, xmin, ymax, xmax`)."""
    usable = is_usable(boxes)
    outside = (boxes < -_ROUNDING).any(axis=1) | (boxes > 1 + _ROUNDING).any(axis=1)
    problems = []
    for index in np.flatnonzero(outside | ~usable).tolist():
        what = "reaches outside the picture" if usable[index] else "has no area"
        problems.append(f"object {index + 1} ({names[index]}): box {_text(boxes[index])} {what}")
    return problems


def repeated_objects(boxes: np.ndarray, names: Sequence[str]) -> list[str]:
    """Pairs of almost identical boxes of one class (IoU above 0.95)."""
    first, second = np.triu_indices(len(boxes), k=1)
    overlap = box_iou(boxes[first], boxes[second])
    return [
        f"objects {one + 1} and {other + 1} ({names[one]}): IoU {iou:.3f}"
        for one, other, iou in zip(first.tolist(), second.tolist(), overlap, strict=True)
        if iou > SAME_OBJECT_IOU and names[one] == names[other]
    ]


class AnchorGrid:
    """A detector's anchors, arranged to find a box's best one without trying all."""

    def __init__(self, spec: AnchorSpec) -> None:
        self._levels = []
        shapes = [shape for level in range(len(spec.feature_sizes)) for shape in spec.shapes(level)]
        self._shapes = np.array(shapes) / spec.image_size
        anchors = anchor_boxes(spec).astype(np.float64)
        for level, size in enumerate(spec.feature_sizes):
            count = size * size * spec.per_cell(level)
            self._levels.append(anchors[:count].reshape(size, size, -1, 4))
            anchors = anchors[count:]

    def best_iou(self, boxes: np.ndarray) -> np.ndarray:
        """The highest IoU [n] of usable boxes [n, 4] with any anchor.

        Of the anchors of one shape the nearest overlaps most, so one cell per map is enough.
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
            shapes = corners.shape[1]
            overlap = box_iou(np.repeat(boxes, shapes, axis=0), corners.reshape(-1, 4))
            best = np.maximum(best, overlap.reshape(-1, shapes).max(axis=1, initial=0.0))
        return best

    def misfits(self, boxes: np.ndarray, matching_iou: float) -> list[str]:
        """Why no anchor reaches `matching_iou` with each of the boxes [n, 4]."""
        size = boxes[:, 2:] - boxes[:, :2]
        area, areas = size.prod(axis=1), self._shapes.prod(axis=1)
        shared = np.minimum(size[:, None], self._shapes).prod(axis=-1)
        # The IoU if an anchor of each shape had the box's centre.
        fits = (shared / (area[:, None] + areas - shared)).max(axis=1) >= matching_iou
        kinds = np.select(
            [fits, area < areas.min(), area > areas.max(), size[:, 0] > size[:, 1]],
            [BETWEEN, TOO_SMALL, TOO_LARGE, TOO_TALL],
            TOO_WIDE,
        )
        return kinds.tolist()


def _text(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{side:.4g}" for side in box) + "]"
