"""Detections of one picture as the model answers them, and how the command lines give them out."""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import DataError
from data.saved_model import BOXES, CLASS_NAMES, COUNT
from serving.drawing import draw_detections

_SIDES = ("ymin", "xmin", "ymax", "xmax")


@dataclass(frozen=True)
class Detection:
    """One object found: class name and id, score, and box `ymin, xmin, ymax, xmax` in [0, 1]."""

    name: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Prediction:
    """What was found on one picture, and where its drawing is."""

    image: Path
    drawing: Path
    detections: list[Detection]


def detections_of(outputs: Mapping[str, np.ndarray], score_threshold: float) -> list[Detection]:
    """The model's padded outputs for one picture as a list, best first.

    Args:
      outputs: `OUTPUTS` without the batch dimension; names as bytes or str.
      score_threshold: detections below it are left out.

    Raises DataError where the outputs contradict each other, or are of another kind.
    """
    found = []
    count = outputs[COUNT]
    try:
        for i in range(int(count)):
            name = outputs[CLASS_NAMES][i]
            ymin, xmin, ymax, xmax = map(float, outputs[BOXES][i])
            found.append(
                Detection(
                    name=name.decode() if isinstance(name, bytes) else str(name),
                    class_id=int(outputs["detection_classes"][i]),
                    score=float(outputs["detection_scores"][i]),
                    box=(ymin, xmin, ymax, xmax),
                )
            )
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(
            f"num_detections is {count}, but number {len(found) + 1} is no class name, class, "
            f"score and box ({error})."
        ) from error
    likely = (detection for detection in found if not detection.score < score_threshold)
    return sorted(likely, key=lambda detection: -detection.score)


def drawing_paths(images: Sequence[Path], folder: Path) -> list[Path]:
    """`folder/<name>.detections.jpg` for each picture; DataError where two would be the same."""
    paths: dict[Path, Path] = {}
    for image in images:
        path = folder / f"{image.stem}.detections.jpg"
        if path in paths:
            raise DataError(
                f"{paths[path]} and {image} would both be drawn to {path}. "
                "Pass them in two calls with a different --output each."
            )
        paths[path] = image
    return list(paths)


def save_drawing(picture: Image.Image, detections: Sequence[Detection], path: Path) -> None:
    """Draws the detections and writes a JPEG that appears only when it is complete."""
    drawing = draw_detections(
        picture,
        np.array([detection.box for detection in detections]),
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


def print_results(results: Sequence[Prediction], as_json: bool) -> None:
    """One line a picture, or one JSON list with every box and score."""
    if as_json:
        text = json.dumps([_as_dict(result) for result in results], indent=2, ensure_ascii=False)
    else:
        lines = (f"{r.image}: {summary(r.detections)} -> {r.drawing}" for r in results)
        text = "\n".join(lines)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Who reads, `head` for one, has seen enough. Python would try once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def summary(detections: Sequence[Detection]) -> str:
    """`3 objects: 2 dog, 1 person`."""
    if not detections:
        return "no objects"
    counts = Counter(detection.name for detection in detections).most_common()
    noun = "object" if len(detections) == 1 else "objects"
    return f"{len(detections)} {noun}: " + ", ".join(f"{count} {name}" for name, count in counts)


def _as_dict(result: Prediction) -> dict:
    return {
        "image": str(result.image),
        "drawing": str(result.drawing),
        "detections": [
            {
                "name": detection.name,
                "class": detection.class_id,
                "score": round(detection.score, 6),
                "box": {
                    side: round(value, 6) for side, value in zip(_SIDES, detection.box, strict=True)
                },
            }
            for detection in result.detections
        ],
    }
