"""Reads a record's objects and the detections in a model's answer, picture by picture."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from data.errors import DataError
from data.fields import Fields
from data.saved_model import BOXES, CLASS_NAMES, COUNT, SCORES
from metrics.accumulator import Columns, DetectionAccumulator


class GroundTruth(NamedTuple):
    """The objects of a picture."""

    image_id: str
    size_px: tuple[float, float]  # height, width
    boxes_px: np.ndarray  # float64 [n, 4]: ymin, xmin, ymax, xmax
    classes: list[bytes]  # [n], like the lists below
    difficult: list[int]
    truncated: list[int]
    occluded: list[int]
    crowd: list[int]


class Detections(NamedTuple):
    """The detections in a picture, without the model's padding."""

    boxes_px: np.ndarray  # float64 [k, 4]: ymin, xmin, ymax, xmax
    scores: np.ndarray  # float [k] in [0, 1]
    classes: np.ndarray  # bytes [k]


def read_ground_truth(features: Mapping[str, Any], fields: Fields) -> GroundTruth:
    """Reads the objects of a record; a record without object features has none.

    features: by feature name: lists, arrays, sparse or ragged tensor values, or None.

    Raises:
        DataError: the record has no id or size, or its lists of objects differ in length.
    """
    ids = [_values(features, name) for name in (fields.source_id, fields.filename)]
    image_id = next((values[0].decode() for values in ids if values and values[0]), None)
    if image_id is None:
        raise DataError(
            f"a record has neither {fields.source_id or 'an id'} nor {fields.filename}, which "
            "break ties between scores. Convert the data with `ssd convert`"
        )
    size = [_values(features, name) for name in (fields.height, fields.width)]
    if not all(len(values) == 1 and values[0] > 0 for values in size):
        raise DataError(
            f"{image_id}: {fields.height} is {size[0]} and {fields.width} is {size[1]}; expected "
            "one number of pixels each. Convert the data with `ssd convert`"
        )
    height, width = size[0][0], size[1][0]
    classes = _values(features, fields.text)
    edges = [
        _values(features, name) for name in (fields.ymin, fields.xmin, fields.ymax, fields.xmax)
    ]
    if any(len(edge) != len(classes) for edge in edges):
        raise DataError(
            f"{image_id}: {len(classes)} names in {fields.text}, but "
            f"{', '.join(str(len(edge)) for edge in edges)} values of ymin, xmin, ymax, xmax"
        )
    no_flags = [0] * len(classes)
    flags = [
        _values(features, name) or no_flags
        for name in (fields.difficult, fields.truncated, fields.occluded, fields.is_crowd)
    ]
    boxes = np.array(edges, np.float64).T * (height, width, height, width)
    return GroundTruth(image_id, (height, width), boxes, classes, *flags)


def read_detections(answer: Mapping[str, Any] | None, truth: GroundTruth) -> Detections:
    """Reads a model's answer for the picture of `truth`.

    answer: the outputs of `data.saved_model` for one picture, as arrays of any shape.

    Raises:
        DataError: an output is missing, the count is impossible, or a score is not in [0, 1].
    """
    image_id = truth.image_id
    answer = answer or {}
    missing = [key for key in (BOXES, SCORES, CLASS_NAMES, COUNT) if key not in answer]
    if missing:
        raise DataError(
            f"{image_id}: the model's answer lacks {', '.join(missing)}; it has "
            f"{', '.join(sorted(answer)) or 'nothing'}. Evaluate a signature that returns them"
        )
    scores = np.reshape(answer[SCORES], -1)
    count = int(np.reshape(answer[COUNT], -1)[0])
    if not 0 <= count <= len(scores):
        raise DataError(f"{image_id}: {COUNT} is {count} with {len(scores)} rows of detections")
    scores = scores[:count]
    # Comparisons with NaN are false.
    good = (scores >= 0) & (scores <= 1)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{image_id}: detection {row}: score {scores[row]} is not in [0, 1]. NaN means that "
            "training diverged: check its losses, lower trainer.learning_rate"
        )
    boxes = np.reshape(answer[BOXES], (-1, 4))[:count].astype(np.float64)
    return Detections(
        boxes * (truth.size_px * 2), scores, np.reshape(answer[CLASS_NAMES], -1)[:count]
    )


def as_columns(accumulator: DetectionAccumulator, truth: GroundTruth, found: Detections) -> Columns:
    """Checks the picture and returns it as columns for `accumulator.add_columns`."""
    return accumulator.picture(
        truth.image_id,
        truth.boxes_px,
        truth.classes,
        truth.difficult,
        found.boxes_px,
        found.scores,
        found.classes,
        gt_crowd=truth.crowd,
        gt_truncated=truth.truncated,
        gt_occluded=truth.occluded,
    )


def _values(features: Mapping[str, Any], name: str | None) -> list[Any]:
    """A feature's values; TFMA delivers it dense, sparse, ragged, as None or not at all."""
    value = features.get(name) if name else None
    if value is None:
        return []
    values = np.reshape(getattr(value, "values", value), -1).tolist()
    return [entry for entry in values if entry is not None]
