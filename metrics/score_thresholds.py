"""Right and wrong detections of each class above every score threshold."""

import numpy as np

from metrics.voc import ClassResult, VocResult

SCORE_THRESHOLDS = np.linspace(0.0, 1.0, 101)


def counts_above(row: ClassResult) -> dict:
    """`found` and `wrong` int lists at each of SCORE_THRESHOLDS, and `objects`, all there are.

    A detection counts when its score reaches the threshold.
    """
    above = len(row.scores) - np.searchsorted(row.scores[::-1], SCORE_THRESHOLDS, "left")
    found = np.append(0, np.cumsum(row.hits))[above]
    return {
        "objects": int(row.positives),
        "found": found.tolist(),
        "wrong": (above - found).tolist(),
    }


def sum_counts(counts: list[dict]) -> dict:
    """The counts of several classes together."""
    return {
        "objects": sum(entry["objects"] for entry in counts),
        "found": np.sum([entry["found"] for entry in counts], axis=0).tolist(),
        "wrong": np.sum([entry["wrong"] for entry in counts], axis=0).tolist(),
    }


def best_f1(counts: dict) -> dict | None:
    """The lowest threshold with the best F1, with `threshold`, `precision`, `recall`, `f1`.

    None when there is nothing to find.
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


def explore(result: VocResult) -> dict[str, dict]:
    """The counts of all classes together under "", then of each class by name."""
    classes = {name: counts_above(row) for name, row in result.classes.items()}
    return {"": sum_counts(list(classes.values())), **classes}
