"""Detections in one picture: from the model's outputs to a list, words and a drawing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import DataError
from data.problems import counted
from data.saved_model import BOXES, CLASS_NAMES, CLASSES, COUNT, SCORES
from serving.drawing import draw_detections


@dataclass(frozen=True)
class Detection:
    """One object found: class name and id, score, and box `ymin, xmin, ymax, xmax` in [0, 1]."""

    name: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture.

    `name` is unique among the pictures of a command line, `width` and `height` are pixels of the
    upright picture, and `drawing` is None if nothing was drawn.
    """

    path: Path
    name: str
    width: int
    height: int
    drawing: Path | None
    detections: list[Detection]


def detections_of(outputs: Mapping[str, np.ndarray], score_threshold: float) -> list[Detection]:
    """The model's padded outputs for one picture as a list, best first.

    Args:
      outputs: `OUTPUTS` without the batch dimension; names as bytes or str.
      score_threshold: detections below it are left out, unchecked.

    Raises DataError if the outputs contradict each other or have the wrong types.
    """
    found = []
    count, number = outputs[COUNT], 1
    try:
        for number in range(1, int(count) + 1):
            i = number - 1
            score = float(outputs[SCORES][i])
            if score < score_threshold:
                continue  # before the rest is read: most detections are this faint
            name = outputs[CLASS_NAMES][i]
            ymin, xmin, ymax, xmax = map(float, outputs[BOXES][i])
            found.append(
                Detection(
                    name=name.decode() if isinstance(name, bytes) else str(name),
                    class_id=int(outputs[CLASSES][i]),
                    score=score,
                    box=(ymin, xmin, ymax, xmax),
                )
            )
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(
            f"num_detections is {count}, but detection {number} lacks a valid class name, class, "
            f"score or box ({error})."
        ) from error
    return sorted(found, key=lambda detection: -detection.score)


def save_drawing(picture: Image.Image, detections: Sequence[Detection], path: Path) -> None:
    """Draws the detections and writes a JPEG, which appears only when it is complete."""
    drawing = draw_detections(
        picture,
        np.array([detection.box for detection in detections]),
        [detection.class_id for detection in detections],
        [detection.name for detection in detections],
        [detection.score for detection in detections],
    )
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.save(partial, "JPEG", quality=92)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot write the drawing ({error.strerror}).") from error


def summary(detections: Sequence[Detection]) -> str:
    """`3 objects: 2 dog, 1 person`."""
    if not detections:
        return "no objects"
    counts = Counter(detection.name for detection in detections).most_common()
    names = ", ".join(f"{count} {name}" for name, count in counts)
    return f"{counted(len(detections), 'object')}: {names}"
