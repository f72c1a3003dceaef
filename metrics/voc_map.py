"""Average precision of any detector on Pascal VOC, from its comp4_det_test_CLASS.txt files.

python -m metrics.voc_map --annotations DIR --image-set FILE --detections DIR
    [--year 2007|2012] [--json]

Each line of a detection file is `id score xmin ymin xmax ymax`, in pixels counted from 1.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from data.errors import DataError
from data.voc import VocObject, pixel_edges, read_annotation, read_image_set
from metrics.accumulator import DetectionAccumulator
from metrics.voc import ClassResult, VocResult, evaluate

_PREFIX = "comp4_det_test_"
_LINE = "id score xmin ymin xmax ymax"
_RULES = {2007: "11-point AP", 2012: "area under the curve"}


class ClassDetections(NamedTuple):
    """The detections of one class, in the order of its file."""

    image_ids: list[str]
    scores: np.ndarray  # float64 [detections]
    boxes_px: np.ndarray  # float64 [detections, 4]: xmin, ymin, xmax, ymax


class VocData(NamedTuple):
    """Listed pictures with their objects and detections, and what a user should know of them."""

    class_names: list[str]
    image_ids: list[str]
    truth: list[tuple[VocObject, ...]]
    detections: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # boxes, scores, class indices
    warnings: list[str]


def evaluate_folders(
    annotations: Path, image_set: Path, detections: Path
) -> tuple[VocResult, list[str]]:
    """Scores the detection files of a folder against the annotations of the listed pictures.

    As `read_folders` reads them, whose warnings and errors it has.
    """
    data = read_folders(annotations, image_set, detections)
    return evaluate(accumulate(data)), data.warnings


def read_folders(annotations: Path, image_set: Path, detections: Path) -> VocData:
    """Reads detection files and the annotations of the listed pictures.

    Classes are those with objects in these pictures and those with a detection file. A class with
    objects and no file has AP 0, as with an empty file: that, and a file of a class which has no
    object, is told in the warnings.

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
        raise DataError(f"{image_set}: the list names no picture, so there is nothing to evaluate")
    truth = [_objects(annotations / f"{image_id}.xml") for image_id in image_ids]
    annotated = {item.name for objects in truth for item in objects}
    if not annotated:
        raise DataError(f"{annotations}: no object in the {len(image_ids)} pictures of {image_set}")

    class_names = sorted(annotated | found.keys())
    rows = _by_picture(found, class_names, image_ids, detections, image_set)
    warnings = [
        f"{detections / _file_name(name)} is missing: no detections of {name}, its AP is 0"
        for name in sorted(annotated - found.keys())
    ]
    warnings += [
        f"{detections / _file_name(name)}: the pictures have no {name}, so it has no AP"
        for name in sorted(found.keys() - annotated)
    ]
    return VocData(class_names, image_ids, truth, rows, warnings)


def accumulate(data: VocData) -> DetectionAccumulator:
    """The accumulator that holds the data, in pixels."""
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
        DataError: no such folder or file, or a line that is not six words with finite numbers and
            a box; names file and line.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder of the detection files")
    paths = sorted(folder.glob(_file_name("*")))
    if not paths:
        raise DataError(f"{folder}: no detection files; expected {_file_name('CLASS')}")
    return {path.stem.removeprefix(_PREFIX): _read_class(path) for path in paths}


def as_table(result: VocResult, year: int) -> Table:
    """The result as a table for the terminal, AP in per cent."""
    table = Table(title=f"VOC{year} ({_RULES[year]}), IoU > 0.5")
    table.add_column("class")
    for header in ("AP %", "objects", "detections"):
        table.add_column(header, justify="right")
    for name, row in result.classes.items():
        table.add_row(
            name, _percent(_chosen(row, year)), f"{row.positives:,}", f"{row.detections:,}"
        )
    table.add_section()
    table.add_row(
        "mAP",
        _percent(_mean(result, year)),
        f"{sum(row.positives for row in result.classes.values()):,}",
        f"{sum(row.detections for row in result.classes.values()):,}",
        style="bold",
    )
    return table


def as_json(result: VocResult, year: int, warnings: Sequence[str]) -> str:
    """The result at full precision; AP is null for a class without objects to find."""
    document = {
        "year": year,
        "mAP": _number(_mean(result, year)),
        "mAP_11_point": _number(result.map_11_point),
        "mAP_area": _number(result.map_area),
        "classes": {
            name: {
                "AP": _number(_chosen(row, year)),
                "AP_11_point": _number(row.ap_11_point),
                "AP_area": _number(row.ap_area),
                "objects": row.positives,
                "detections": row.detections,
            }
            for name, row in result.classes.items()
        },
        "warnings": list(warnings),
    }
    return json.dumps(document, indent=1)


def _objects(path: Path) -> tuple[VocObject, ...]:
    objects = read_annotation(path).objects
    for number, item in enumerate(objects, start=1):
        xmin, ymin, xmax, ymax = item.box_px
        if xmin > xmax or ymin > ymax:
            raise DataError(
                f"{path}: object {number} ({item.name}): box from {xmin:g}, {ymin:g} to "
                f"{xmax:g}, {ymax:g} is inverted. Fix the file"
            )
    return objects


def _file_name(class_name: str) -> str:
    return f"{_PREFIX}{class_name}.txt"


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
    """Finds the first line that stands in the way of reading a file as a whole."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}:{number}: {line.strip()!r}"
        if len(words) != 6:
            return DataError(f"{where} has {len(words)} words; expected `{_LINE}`")
        try:
            values = np.array(words[1:], np.float64)
        except ValueError:
            return DataError(f"{where} has a word that is not a number; expected `{_LINE}`")
        if not np.isfinite(values).all():
            return DataError(f"{where} has a number that is not finite; fix the detector's output")
        edges = pixel_edges(values[1:])[0]
        if not (edges[:2] <= edges[2:]).all():
            return DataError(f"{where} has an inverted box; expected `{_LINE}`")
    return DataError(f"{path}: not a detection file; expected lines of `{_LINE}`")


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
                f"{folder / _file_name(name)}: a detection in picture {stranger}, which is not in "
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


def _chosen(row: ClassResult, year: int) -> float:
    return row.ap_11_point if year == 2007 else row.ap_area


def _mean(result: VocResult, year: int) -> float:
    return result.map_11_point if year == 2007 else result.map_area


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m metrics.voc_map",
        description="Average precision of any detector on Pascal VOC, from its "
        f"{_file_name('CLASS')} files (lines of `{_LINE}`, pixels counted from 1).",
    )
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="DIR", help="folder of the XML files"
    )
    parser.add_argument(
        "--image-set", type=Path, required=True, metavar="FILE", help="list of picture ids"
    )
    parser.add_argument(
        "--detections", type=Path, required=True, metavar="DIR", help="folder of detection files"
    )
    parser.add_argument(
        "--year",
        type=int,
        choices=sorted(_RULES),
        default=2007,
        help="the rule of AP: 2007 is 11-point (default), 2012 the area under the curve",
    )
    parser.add_argument("--json", action="store_true", help="print JSON at full precision")
    args = parser.parse_args()
    try:
        result, warnings = evaluate_folders(args.annotations, args.image_set, args.detections)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if args.json:
        print(as_json(result, args.year, warnings))
    else:
        Console().print(as_table(result, args.year))
    return 0


if __name__ == "__main__":
    sys.exit(main())
