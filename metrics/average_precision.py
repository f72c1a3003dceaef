"""Average precision from ranked hits and misses."""

import math

import numpy as np

# k * 0.1, not k / 10, as in the published VOC evaluations. Three of these are a rounding error too
# high, so a recall of exactly 0.3, 0.6 or 0.7 does not reach its point. With k / 10 a class of 480
# objects moves by 0.1 % AP, and published numbers are not reproduced.
_ELEVEN_RECALLS = np.arange(11) * 0.1


def precision_recall(hits: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall after each detection, float64 [detections] each.

    hits: bool [detections] by descending score; True for an object found, False for a false
    positive.
    positives: number of objects to find, more than 0.
    """
    found = np.cumsum(hits)
    return found / np.arange(1, len(hits) + 1), found / positives


def interpolated_precision(
    precision: np.ndarray, recall: np.ndarray, recalls: np.ndarray
) -> np.ndarray:
    """The highest precision at each of `recalls` or above; 0 if that recall is never reached.

    precision, recall: float64 [detections], as `precision_recall` returns them.
    recalls: float64 [points].
    Returns float64 [points].
    """
    envelope = np.append(_envelope(precision), 0.0)
    return envelope[np.searchsorted(recall, recalls, "left")]


def ap_11_point(precision: np.ndarray, recall: np.ndarray) -> float:
    """VOC2007's AP: the mean interpolated precision at recall 0, 0.1 ... 1."""
    return float(interpolated_precision(precision, recall, _ELEVEN_RECALLS).mean())


def ap_area(precision: np.ndarray, recall: np.ndarray) -> float:
    """AP since VOC2010: the area under the monotone envelope of precision over recall."""
    return float(np.sum(np.diff(recall, prepend=0.0) * _envelope(precision)))


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _envelope(precision: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(precision[::-1])[::-1]
