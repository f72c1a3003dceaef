"""Counts right and wrong detections at every score threshold, and finds the best F1."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from metrics.voc import ClassResult, VocResult

SCORE_THRESHOLDS = np.linspace(0.0, 1.0, 101)


class BestF1(TypedDict):
    """The numbers at the threshold with the best F1, ready for JSON."""

    threshold: float
    precision: float | None
    recall: float
    f1: float


def counts_above(row: ClassResult) -> dict[str, Any]:
    """A class's `objects`, and `found` and `wrong` at each of SCORE_THRESHOLDS, int lists.

    A detection counts if its score reaches the threshold.
    """
    above = len(row.scores) - np.searchsorted(row.scores[::-1], SCORE_THRESHOLDS, "left")
    found = np.append(0, np.cumsum(row.hits))[above]
    return {
        "objects": int(row.positives),
        "found": found.tolist(),
        "wrong": (above - found).tolist(),
    }


def sum_counts(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several classes' counts."""
    return {
        "objects": sum(entry["objects"] for entry in counts),
        "found": np.sum([entry["found"] for entry in counts], axis=0).tolist(),
        "wrong": np.sum([entry["wrong"] for entry in counts], axis=0).tolist(),
    }


def best_f1(counts: dict[str, Any]) -> BestF1 | None:
    """`threshold`, `precision`, `recall` and `f1` at the lowest threshold with the best F1.

    None without objects. Precision is None where no detection reaches the threshold.
    """
    if not counts["objects"]:
        return None
    found, wrong = np.array(counts["found"], float), np.array(counts["wrong"], float)
    f1 = 2 * found / (found + wrong + counts["objects"])
    best = int(np.argmax(f1))
    shown = found[best] + wrong[best]
    return {
        "threshold": float(SCORE_THRESHOLDS[best]),
        "precision": float(found[best] / shown) if shown else None,
        "recall": float(found[best] / counts["objects"]),
        "f1": float(f1[best]),
    }


def explore(result: VocResult) -> dict[str, dict[str, Any]]:
    """The counts of all classes together under "", then of each class by name."""
    classes = {name: counts_above(row) for name, row in result.classes.items()}
    return {"": sum_counts(list(classes.values())), **classes}
