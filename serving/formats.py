"""Writes detections as text, JSON, CSV, COCO, VOC XML or comp4 files, picture by picture."""

import csv
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from data.errors import DataError
from metrics.detection_files import file_name, format_line
from serving.detections import Detection, Prediction, summary

Write = Callable[[Prediction], None]

_SIDES = ("ymin", "xmin", "ymax", "xmax")
_CSV = ("image", "width", "height", "name", "class", "score", *_SIDES, *(f"{s}_px" for s in _SIDES))


def text_line(result: Prediction) -> str:
    """`PATH: 2 objects: 1 cat, 1 dog -> DRAWING`."""
    drawing = f" -> {result.drawing}" if result.drawing else ""
    return f"{result.path}: {summary(result.detections)}{drawing}"


def json_line(result: Prediction) -> str:
    """A JSON object on one line, with boxes relative to the picture and in pixels."""
    detections = [
        {
            "name": detection.name,
            "class": detection.class_id,
            "score": round(detection.score, 6),
            "box": _by_side(detection.box, 6),
            "box_px": _by_side(_box_px(detection, result), 2),
        }
        for detection in result.detections
    ]
    entry = {
        "image": str(result.path),
        "width": result.width,
        "height": result.height,
        "drawing": str(result.drawing) if result.drawing else None,
        "detections": detections,
    }
    return json.dumps(entry, ensure_ascii=False)


@contextmanager
def lines(line_of: Callable[[Prediction], str], file: TextIO) -> Iterator[Write]:
    """One line per picture."""
    yield lambda result: _print(file, line_of(result))


@contextmanager
def csv_rows(file: TextIO) -> Iterator[Write]:
    """A header and one row per detection; pictures without detections have no row."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV)

    def write(result: Prediction) -> None:
        for detection in result.detections:
            boxes = (_by_side(detection.box, 6), _by_side(_box_px(detection, result), 2))
            writer.writerow(
                (
                    *(result.path, result.width, result.height),
                    *(detection.name, detection.class_id, round(detection.score, 6)),
                    *(value for box in boxes for value in box.values()),
                )
            )
        file.flush()

    yield write


@contextmanager
def coco(file: TextIO) -> Iterator[Write]:
    """A COCO dataset whose annotations have a score; categories are the classes found."""
    images: list[dict] = []
    categories: dict[int, str] = {}
    count = 0
    file.write('{"annotations": [')

    def write(result: Prediction) -> None:
        nonlocal count
        image_id = len(images) + 1
        images.append(
            {
                "id": image_id,
                "file_name": str(result.path),
                "width": result.width,
                "height": result.height,
            }
        )
        for detection in result.detections:
            count += 1
            categories[detection.class_id] = detection.name
            ymin, xmin, ymax, xmax = _box_px(detection, result)
            box = [xmin, ymin, xmax - xmin, ymax - ymin]
            annotation = {
                "id": count,
                "image_id": image_id,
                "category_id": detection.class_id,
                "bbox": [round(value, 2) for value in box],
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
                "score": round(detection.score, 6),
            }
            file.write(("," if count > 1 else "") + "\n" + json.dumps(annotation))
        file.flush()

    yield write
    rest = {
        "images": images,
        "categories": [{"id": key, "name": name} for key, name in sorted(categories.items())],
    }
    _print(file, "\n], " + json.dumps(rest, ensure_ascii=False)[1:])


@contextmanager
def voc(folder: Path) -> Iterator[Write]:
    """`NAME.xml` for each picture, as in VOC and labelling tools: whole pixels, counted from 1."""

    def write(result: Prediction) -> None:
        root = ET.Element("annotation")
        _add(root, filename=result.path.name, path=str(result.path.resolve()))
        size = ET.SubElement(root, "size")
        _add(size, width=result.width, height=result.height, depth=3)
        for detection in result.detections:
            item = ET.SubElement(root, "object")
            _add(item, name=detection.name, pose="Unspecified", truncated=0, difficult=0)
            _add(item, confidence=round(detection.score, 6))
            _add(ET.SubElement(item, "bndbox"), **_whole_pixels(detection, result))
        ET.indent(root)
        path = folder / f"{result.name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        ET.ElementTree(root).write(partial, encoding="utf-8")
        partial.replace(path)

    yield write


@contextmanager
def comp4(folder: Path) -> Iterator[Write]:
    """The files that `metrics.detection_files` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    if next(folder.glob(file_name("*")), None):
        raise DataError(f"{folder}: already holds detections. Name another folder, or empty it")
    files: dict[str, TextIO] = {}

    def write(result: Prediction) -> None:
        if re.search(r"\s", result.name):
            raise DataError(f"{result.path}: comp4 cannot represent names with spaces")
        for detection in result.detections:
            line = format_line(result.name, detection.score, _box_px(detection, result))
            if detection.name not in files:
                path = folder / file_name(detection.name)
                files[detection.name] = path.open("w", encoding="utf-8")
            files[detection.name].write(line)

    try:
        yield write
    finally:
        for file in files.values():
            file.close()


# Formats that go to a file or standard output, and those that need a folder.
TO_FILE: Mapping[str, Callable] = {
    "text": partial(lines, text_line),
    "json": partial(lines, json_line),
    "csv": csv_rows,
    "coco": coco,
}
TO_FOLDER: Mapping[str, Callable] = {"voc": voc, "comp4": comp4}
FORMATS = (*TO_FILE, *TO_FOLDER)


@contextmanager
def open_format(name: str, output: Path | None) -> Iterator[Write]:
    """A function that writes a result in one of FORMATS.

    Args:
      output: a file, by default standard output; for TO_FOLDER a folder, by default `.`.

    Raises:
        DataError: the output cannot be written.
    """
    try:
        if name in TO_FOLDER:
            with TO_FOLDER[name](output or Path()) as write:
                yield write
        elif output is None:
            with TO_FILE[name](sys.stdout) as write:
                yield write
        else:
            output.parent.mkdir(parents=True, exist_ok=True)
            with (
                output.open("w", encoding="utf-8", newline="") as file,
                TO_FILE[name](file) as write,
            ):
                yield write
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataError(f"{output or 'output'}: cannot be written ({error.strerror})") from error


def _print(file: TextIO, line: str) -> None:
    file.write(f"{line}\n")
    file.flush()


def _by_side(box: tuple[float, ...], digits: int) -> dict[str, float]:
    return {side: round(value, digits) for side, value in zip(_SIDES, box, strict=True)}


def _box_px(detection: Detection, result: Prediction) -> tuple[float, float, float, float]:
    """The box in pixels of the upright picture, from 0 to its height or width."""
    ymin, xmin, ymax, xmax = detection.box
    return (
        ymin * result.height,
        xmin * result.width,
        ymax * result.height,
        xmax * result.width,
    )


def _whole_pixels(detection: Detection, result: Prediction) -> dict[str, int]:
    """The first and last pixel on each axis, counted from 1, at least one pixel wide."""
    ymin, xmin, ymax, xmax = _box_px(detection, result)
    left = min(round(xmin) + 1, result.width)
    top = min(round(ymin) + 1, result.height)
    return {
        "xmin": left,
        "ymin": top,
        "xmax": max(left, min(round(xmax), result.width)),
        "ymax": max(top, min(round(ymax), result.height)),
    }


def _add(parent: ET.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ET.SubElement(parent, tag).text = str(text)
