"""From ranked hits and misses to average precision."""

import math

import numpy as np

# k * 0.1, not k / 10: as the published VOC evaluations compute them. Three of these are a rounding
# error above the tenth they stand for, so a recall of exactly 0.3, 0.6 or 0.7 does not reach its
# point. With k / 10 a class of 480 objects moves by 0.1 % AP and no published number is met.
_ELEVEN_RECALLS = np.arange(11) * 0.1


def precision_recall(hits: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall after each detection.

    hits: bool [detections], falling score; True is a found object, False a false positive.
    positives: number of objects to find; more than 0.
    """
    found = np.cumsum(hits)
    return found / np.arange(1, len(hits) + 1), found / positives


def interpolated_precision(
    precision: np.ndarray, recall: np.ndarray, recalls: np.ndarray
) -> np.ndarray:
    """The highest precision at each of `recalls` or above; 0 where the recall is never reached."""
    envelope = np.append(_envelope(precision), 0.0)
    return envelope[np.searchsorted(recall, recalls, "left")]


def ap_11_point(precision: np.ndarray, recall: np.ndarray) -> float:
    """VOC2007: mean of the interpolated precision at recall 0, 0.1 ... 1."""
    return float(interpolated_precision(precision, recall, _ELEVEN_RECALLS).mean())


def ap_area(precision: np.ndarray, recall: np.ndarray) -> float:
    """VOC2010 and later: area under the monotone precision envelope over recall."""
    return float(np.sum(np.diff(recall, prepend=0.0) * _envelope(precision)))


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN when there is nothing."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _envelope(precision: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(precision[::-1])[::-1]
