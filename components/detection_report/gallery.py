"""Selects pictures worth looking at and draws objects and detections on them."""

import base64
import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data.palette import class_colour
from metrics.accumulator import Columns
from metrics.boxes import box_area
from metrics.confusion import Outcomes
from metrics.error_types import ERROR_TYPES

_LONGER_SIDE_PX = 480
_JPEG_QUALITY = 80
_HIT, _MISTAKE, _FOUND, _MISSED, _DIFFICULT = "hit", "mistake", "found", "missed", "difficult"


def worst_misses(columns: Columns, outcomes: Outcomes, most: int) -> list[dict]:
    """Pictures by the area of their largest missed object.

    Returns entries of `picture`, the picture's index, and `focus`, the ground truth row.
    """
    missed = np.flatnonzero(outcomes.countable & (outcomes.detection_of < 0))
    order = missed[np.argsort(-box_area(columns.gt_box[missed]), kind="stable")]
    return _first_of_each_picture(columns.gt_image, order, most)


def most_confident_mistakes(
    columns: Columns, outcomes: Outcomes, kinds: np.ndarray, most: int
) -> list[dict]:
    """Pictures by the score of their most confident false positive at `outcomes`' threshold.

    kinds: each detection's, from `error_types.analyse`.
    Returns entries of `picture` and `focus`, the detection row.
    """
    wrong = np.flatnonzero(outcomes.shown & np.isin(kinds, ERROR_TYPES))
    order = wrong[np.argsort(-columns.det_score[wrong], kind="stable")]
    return _first_of_each_picture(columns.det_image, order, most)


def typical_hits(columns: Columns, outcomes: Outcomes, most: int) -> list[dict]:
    """Pictures with the highest F1; ties go to the most usual scores.

    By F1, because crowded pictures are rarely without errors. Returns entries of `picture` and
    `focus`, which is -1.
    """
    num_pictures = len(columns.image_ids)

    def count(rows: np.ndarray, of: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(of[rows], weights, minlength=num_pictures)

    objects = count(outcomes.countable, columns.gt_image)
    hits = outcomes.found & outcomes.countable
    found = count(hits, columns.gt_image)
    shown = count(outcomes.shown, columns.det_image)
    candidates = np.flatnonzero(found)
    scores = columns.det_score[outcomes.detection_of[hits]]
    means = count(hits, columns.gt_image, scores)[candidates] / found[candidates]
    f1 = (2 * found / np.maximum(objects + shown, 1))[candidates]
    typical = np.abs(means - np.median(means)) if len(candidates) else means
    order = np.lexsort((typical, -f1))
    return [{"picture": int(number), "focus": -1} for number in candidates[order[:most]]]


def draw(
    number: int, encoded: bytes, columns: Columns, outcomes: Outcomes, class_names: Sequence[str]
) -> dict:
    """A picture for the template: a small JPEG, and boxes in its pixels.

    Boxes are dicts of `x`, `y`, `width`, `height`, `label`, `colour` (of the class) and `kind`; the
    kinds of `objects` are found, missed and difficult, those of `detections` hit and mistake. `row`
    is the box's row.
    """
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    full_width = image.width
    image.thumbnail((_LONGER_SIDE_PX, _LONGER_SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    scale = image.width / full_width
    objects = np.flatnonzero(columns.gt_image == number)
    shown = np.flatnonzero((columns.det_image == number) & outcomes.shown)
    return {
        "id": str(columns.image_ids[number]),
        "width": image.width,
        "height": image.height,
        "jpeg": base64.b64encode(buffer.getvalue()).decode(),
        "objects": [
            _box(columns.gt_box[row] * scale)
            | {
                "row": row,
                "label": class_names[columns.gt_class[row]],
                "colour": class_colour(columns.gt_class[row] + 1),
                "kind": _object_kind(outcomes, row),
            }
            for row in objects.tolist()
        ],
        "detections": [
            _box(columns.det_box[row] * scale)
            | {
                "row": int(row),
                "label": f"{class_names[columns.det_class[row]]} {columns.det_score[row]:.2f}",
                "colour": class_colour(columns.det_class[row] + 1),
                "kind": _HIT if _is_hit(columns, outcomes, row) else _MISTAKE,
            }
            for row in shown[np.argsort(columns.det_score[shown], kind="stable")]
        ],
    }


def summary(drawn: dict) -> str:
    """What `draw` shows, in words such as "14 of 15 found, 2 wrong"."""
    objects = Counter(box["kind"] for box in drawn["objects"])
    wrong = sum(box["kind"] == _MISTAKE for box in drawn["detections"])
    text = f"{objects[_FOUND]} of {objects[_FOUND] + objects[_MISSED]} found"
    return f"{text}, {wrong} wrong" if wrong else text


def _object_kind(outcomes: Outcomes, row: int) -> str:
    if not outcomes.countable[row]:
        return _DIFFICULT
    return _FOUND if outcomes.found[row] else _MISSED


def _is_hit(columns: Columns, outcomes: Outcomes, row: int) -> bool:
    meant = outcomes.object_of[row]
    return meant >= 0 and columns.gt_class[meant] == columns.det_class[row]


def _box(box_px: np.ndarray) -> dict:
    ymin, xmin, ymax, xmax = (round(float(edge), 1) for edge in box_px)
    return {"x": xmin, "y": ymin, "width": round(xmax - xmin, 1), "height": round(ymax - ymin, 1)}


def _first_of_each_picture(image_of: np.ndarray, rows: np.ndarray, most: int) -> list[dict]:
    """The first row of each picture, in the order of `rows`."""
    _, first = np.unique(image_of[rows], return_index=True)
    chosen = rows[np.sort(first)[:most]]
    return [{"picture": int(image_of[row]), "focus": int(row)} for row in chosen]
