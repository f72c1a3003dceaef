"""Reads and writes detections in Pascal VOC's format, and reads the matching annotations.

A folder has one file `comp4_det_test_CLASS.txt` per class, with lines of `LINE`, in pixels counted
from 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.voc import VocObject, pixel_edges, read_annotation, read_image_set
from metrics.accumulator import DetectionAccumulator

LINE = "id score xmin ymin xmax ymax"
_PREFIX = "comp4_det_test_"


def file_name(class_name: str) -> str:
    """The name of a class's detection file."""
    return f"{_PREFIX}{class_name}.txt"


def format_line(image_id: str, score: float, box_px: Sequence[float]) -> str:
    """One line of `LINE`, including the newline.

    box_px: `ymin, xmin, ymax, xmax`, edges in pixels from 0.

    Raises:
        DataError: the id has spaces, which the format does not allow.
    """
    if len(image_id.split()) != 1:
        raise DataError(f"{image_id!r}: the comp4 format cannot hold ids with spaces")
    ymin, xmin, ymax, xmax = box_px
    return f"{image_id} {score:.9g} {xmin + 1:.6f} {ymin + 1:.6f} {xmax:.6f} {ymax:.6f}\n"


class ClassDetections(NamedTuple):
    """The detections of one class, in the order of its file."""

    image_ids: list[str]
    scores: np.ndarray  # float64 [detections]
    boxes_px: np.ndarray  # float64 [detections, 4]: xmin, ymin, xmax, ymax


class VocData(NamedTuple):
    """The listed pictures with their objects and detections."""

    class_names: list[str]
    image_ids: list[str]  # [pictures]
    truth: list[tuple[VocObject, ...]]  # [pictures]
    # [pictures] of: boxes float64 [n, 4] `ymin, xmin, ymax, xmax` in pixels from 0, scores float64
    # [n] and class indices int64 [n].
    detections: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    warnings: list[str]  # for the user


def write_detections(accumulator: DetectionAccumulator, folder: Path) -> None:
    """Writes all detections into a new folder, one file per class.

    Raises:
        DataError: a picture's id has spaces, which the format does not allow.
    """
    columns = accumulator.columns()
    ids = columns.image_ids[columns.det_image].tolist()
    lines = [format_line(*row) for row in zip(ids, columns.det_score, columns.det_box, strict=True)]
    folder.mkdir(parents=True)
    for number, name in enumerate(accumulator.class_names):
        rows = np.flatnonzero(columns.det_class == number)
        text = "".join(lines[row] for row in rows)
        (folder / file_name(name)).write_text(text, encoding="utf-8")


def read_folders(annotations: Path, image_set: Path, detections: Path) -> VocData:
    """Reads detection files and the annotations of the listed pictures.

    The classes are those with objects in these pictures or with a detection file. Warnings name
    classes with objects but no file, whose AP is 0, and files of classes without objects.

    Args:
        annotations: folder of the XML files.
        image_set: list of picture ids.
        detections: folder of the detection files.

    Raises:
        DataError: a folder, an annotation or the list is missing or broken; there are no detection
            files; a line is malformed, has a number that is not finite or an inverted box, or
            names a picture outside the list.
    """
    if not annotations.is_dir():
        raise DataError(f"{annotations}: no such folder. Give VOC's folder of XML files")
    found = read_detections(detections)
    image_ids = read_image_set(image_set)
    if not image_ids:
        raise DataError(f"{image_set}: the list is empty, so there is nothing to evaluate")
    truth = [_objects(annotations / f"{image_id}.xml") for image_id in image_ids]
    annotated = {item.name for objects in truth for item in objects}
    if not annotated:
        raise DataError(f"{annotations}: no object in the {len(image_ids)} pictures of {image_set}")

    class_names = sorted(annotated | found.keys())
    rows = _by_picture(found, class_names, image_ids, detections, image_set)
    warnings = [
        f"{detections / file_name(name)} is missing, so the AP of {name} is 0"
        for name in sorted(annotated - found.keys())
    ]
    warnings += [
        f"{detections / file_name(name)}: {name} is in none of the pictures, so it has no AP"
        for name in sorted(found.keys() - annotated)
    ]
    return VocData(class_names, image_ids, truth, rows, warnings)


def accumulate(data: VocData) -> DetectionAccumulator:
    """Puts the data into an accumulator, in pixels."""
    accumulator = DetectionAccumulator(data.class_names)
    for image_id, objects, (boxes, scores, classes) in zip(
        data.image_ids, data.truth, data.detections, strict=True
    ):
        accumulator.add(
            image_id,
            pixel_edges([item.box_px for item in objects]),
            [item.name for item in objects],
            [item.difficult for item in objects],
            boxes,
            scores,
            classes,
        )
    return accumulator


def read_detections(folder: Path) -> dict[str, ClassDetections]:
    """Reads every `comp4_det_test_CLASS.txt` of a folder, by class; blank lines are skipped.

    Raises:
        DataError: the folder has no such files, or a line is not six words with finite numbers and
            a valid box; names folder, file and line.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder of the detection files")
    paths = sorted(folder.glob(file_name("*")))
    if not paths:
        raise DataError(f"{folder}: no detection files; expected {file_name('CLASS')}")
    return {path.stem.removeprefix(_PREFIX): _read_class(path) for path in paths}


def _objects(path: Path) -> tuple[VocObject, ...]:
    # Only this flag counts here, so bad values of others are no error.
    annotation = read_annotation(path, flags=("difficult",))
    if annotation.problems:
        raise DataError(str(annotation.problems[0]))
    return annotation.objects


def _read_class(path: Path) -> ClassDetections:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the detections ({error})") from error
    words = [line.split() for line in lines if line and not line.isspace()]
    try:
        numbers = np.array([row[1:] for row in words] or np.zeros((0, 5)), np.float64)
    except ValueError:
        raise _bad_line(path, lines) from None
    if numbers.shape != (len(words), 5):
        raise _bad_line(path, lines)
    boxes = numbers[:, 1:]
    edges = pixel_edges(boxes)
    if not (np.isfinite(numbers).all() and (edges[:, :2] <= edges[:, 2:]).all()):
        raise _bad_line(path, lines)
    return ClassDetections([row[0] for row in words], numbers[:, 0], boxes)


def _bad_line(path: Path, lines: Sequence[str]) -> DataError:
    """An error that names the file's first malformed line."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}:{number}: {line.strip()!r}"
        if len(words) != 6:
            return DataError(f"{where} has {len(words)} words; expected `{LINE}`")
        try:
            values = np.array(words[1:], np.float64)
        except ValueError:
            return DataError(f"{where} has a word that is not a number; expected `{LINE}`")
        if not np.isfinite(values).all():
            return DataError(f"{where} has a number that is not finite; fix the detector's output")
        edges = pixel_edges(values[1:])[0]
        if not (edges[:2] <= edges[2:]).all():
            return DataError(f"{where} has an inverted box; expected `{LINE}`")
    return DataError(f"{path}: not a detection file; expected lines of `{LINE}`")


def _by_picture(
    found: dict[str, ClassDetections],
    class_names: Sequence[str],
    image_ids: Sequence[str],
    folder: Path,
    image_set: Path,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes, scores and class indices of each picture's detections."""
    picture_index = {image_id: index for index, image_id in enumerate(image_ids)}
    pictures = []
    for name, detections in found.items():
        indices = [picture_index.get(image_id, -1) for image_id in detections.image_ids]
        if -1 in indices:
            stranger = detections.image_ids[indices.index(-1)]
            raise DataError(
                f"{folder / file_name(name)}: a detection in picture {stranger}, which is not in "
                f"{image_set}. Give the list that the detector ran on, or remove the line"
            )
        pictures.append(np.array(indices, np.int64))
    picture = np.concatenate(pictures)
    order = np.argsort(picture, kind="stable")
    cuts = np.searchsorted(picture[order], np.arange(1, len(image_ids)))
    columns = (
        pixel_edges(np.concatenate([detections.boxes_px for detections in found.values()])),
        np.concatenate([detections.scores for detections in found.values()]),
        np.repeat([class_names.index(name) for name in found], [len(rows) for rows in pictures]),
    )
    return list(zip(*(np.split(column[order], cuts) for column in columns), strict=True))
