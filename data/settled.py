"""Makes one picture and its annotation ready for a record; both passes of the conversion do so."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.boxes_px import find_object_problems, settle_size
from data.image_sets import Picture
from data.jpeg import JpegHeader
from data.options import IGNORE, ConversionOptions
from data.picture_files import find_picture, find_voc_picture, same_stem
from data.pictures import settle_picture
from data.problems import Problem, Unusable
from data.voc import Annotation, VocObject, read_annotation


class Settled(NamedTuple):
    """What was read, its problems, and the changes made to it, in words that the report counts.

    `annotation` has only objects without problems. It, `jpeg` and `header` are empty if a problem
    of the picture (not `of_object`) ended the reading.
    """

    annotation: Annotation | None
    jpeg: bytes
    header: JpegHeader | None
    filename: str
    problems: tuple[Problem, ...]
    changes: tuple[str, ...]
    found: tuple[VocObject, ...] = ()  # all objects read, as in the file


def settle(
    picture: Picture, options: ConversionOptions, classes: Mapping[str, int] | None
) -> Settled:
    """Reads a picture and its annotation.

    Args:
        picture: says where they are.
        options: of the conversion.
        classes: the ids of all classes by name; None accepts any class.
    """
    problems: list[Problem] = []
    annotation, path, settled = None, None, None
    try:
        annotation = picture.annotation or read_annotation(
            picture.annotation_path, pixels_from=options.pixels_from
        )
        problems += annotation.problems
    except Unusable as error:
        problems.append(error.problem)
    try:
        path, content = _read(picture, annotation)
        settled = settle_picture(content, options.exif, options.reencode)
    except Unusable as error:
        problems.append(error.problem if path is None else error.at(path))
    found = annotation.objects if annotation else ()
    if annotation is None or path is None or settled is None or _of_picture(annotation.problems):
        return Settled(None, b"", None, "", tuple(problems), (), found)
    size = settled.header.width, settled.header.height
    try:
        annotation, change = settle_size(
            annotation, size, swapped_sides=settled.swapped_sides, rescale=options.rescale
        )
    except Unusable as error:
        return Settled(None, b"", None, "", (*problems, error.problem), (), found)
    changes = [*settled.changes, *([change] if change else [])]
    left_out = set()
    if options.other_classes == IGNORE and classes is not None:
        left_out = {id(item) for item in annotation.objects if item.name not in classes}
        changes += ["object of another class ignored"] * len(left_out)
    counts_from_1 = picture.annotation is None and options.pixels_from == 1
    for item, problem in find_object_problems(
        annotation, size, classes, counts_from_1=counts_from_1
    ):
        if id(item) not in left_out or problem.kind != "class":
            problems.append(problem)
            left_out.add(id(item))
    if left_out:
        objects = tuple(item for item in annotation.objects if id(item) not in left_out)
        annotation = dataclasses.replace(annotation, objects=objects)
    return Settled(
        *(annotation, settled.jpeg, settled.header, path.name, tuple(problems), tuple(changes)),
        found,
    )


def _of_picture(problems: Sequence[Problem]) -> bool:
    return not all(problem.of_object for problem in problems)


def _read(picture: Picture, annotation: Annotation | None) -> tuple[Path, bytes]:
    """The path and content of the picture's file."""
    path = Path(picture.folder, picture.name if picture.annotation else f"{picture.name}.jpg")
    try:
        return path, path.read_bytes()
    except FileNotFoundError:
        found = _find(picture, annotation)
    except OSError as error:
        raise Unusable("missing", f"{path}: cannot read the picture ({error.strerror})") from error
    if found is None:
        other = same_stem(Path(picture.folder), picture.name) if picture.annotation else None
        hint = f", but there is {other}" if other else ""
        raise Unusable("missing", f"{path}: no such picture{hint}")
    return found, found.read_bytes()


def _find(picture: Picture, annotation: Annotation | None) -> Path | None:
    folder = Path(picture.folder)
    if picture.annotation:
        # Tools write paths relative to where they ran; the folder may be the last part of these.
        names = [name for name in (picture.name, picture.annotation.filename) if name]
        return next((path for name in names if (path := find_picture(folder, name))), None)
    return find_voc_picture(folder, picture.name, annotation.filename if annotation else "")
