"""Box geometry in numpy: float64 [n, 4] `ymin, xmin, ymax, xmax`, compared row by row."""

import math

import numpy as np

# COCO's sizes: lowest and highest area in square pixels; a box on the border has both sizes.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Areas [n] of boxes [n, 4], in the square of their unit."""
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def intersection_area(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas [n] of the overlap of boxes [n, 4] and others [n, 4] in the same row."""
    top_left = np.maximum(boxes[:, :2], others[:, :2])
    bottom_right = np.minimum(boxes[:, 2:], others[:, 2:])
    return np.prod(np.maximum(bottom_right - top_left, 0), axis=1)


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union [n] of boxes [n, 4] in the same row; 0 for two empty boxes."""
    intersection = intersection_area(boxes, others)
    union = box_area(boxes) + box_area(others) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
