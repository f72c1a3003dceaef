"""Pascal VOC annotation files and image lists.

Light on purpose: evaluating a detector parses thousands of annotations, so nothing heavy is
imported here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException, ElementTree
from numpy.typing import ArrayLike

from data.errors import DataError

_EDGES = ("xmin", "ymin", "xmax", "ymax")


# With slots, for COCO's 860,000 objects are in memory at once.
@dataclass(frozen=True, slots=True)
class VocObject:
    """One annotated object; flags that the data does not state are False."""

    name: str
    box_px: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax: 1-based inclusive pixels
    difficult: bool
    truncated: bool
    occluded: bool
    is_crowd: bool | None = None  # None where the data set does not mark crowds


@dataclass(frozen=True)
class Annotation:
    """What is said of one picture; `width` and `height` are 0 where they are not said."""

    source: str  # names the file, and in a file of many pictures the picture, in errors
    filename: str
    width: int
    height: int
    objects: tuple[VocObject, ...]


def read_annotation(path: Path | str) -> Annotation:
    """Reads one VOC XML file; the parts of a person (`<part>`) are not objects.

    Raises:
        DataError: the file is missing, is not a VOC annotation, declares XML entities, names a
            picture in another folder, or an object lacks its class or box.
    """
    path = Path(path)
    root = _parse(path)
    filename = _text(root, "filename")
    # The picture is found by its id, as the devkit does; such a name has no honest use.
    if filename in (".", "..") or any(separator in filename for separator in "/\\"):
        raise DataError(
            f"{path}: <filename> is {filename!r}, which leads out of the folder of pictures. "
            "Write the bare file name"
        )
    size = root.find("size")
    return Annotation(
        source=str(path),
        filename=filename,
        width=_side(path, size, "width"),
        height=_side(path, size, "height"),
        objects=tuple(
            _object(path, number, element)
            for number, element in enumerate(root.findall("object"), start=1)
        ),
    )


def read_image_set(path: Path | str) -> list[str]:
    """Reads the picture ids of a list such as `ImageSets/Main/trainval.txt`, in its order.

    Raises:
        DataError: the file is missing or not text, a line is not one plain id, or an id occurs
            twice.
    """
    path = Path(path)
    try:
        # Windows' editors begin a file with a mark that is no part of the first id.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot read the image list ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a text file in UTF-8, which a list of picture ids is. Save it as one"
        ) from error
    first_lines: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) > 1:
            remedy = (
                "This looks like the list of one class; give the list of all pictures, such as "
                "trainval.txt"
                if words[1] in ("-1", "0", "1")
                else "Give each id a line; ids have no spaces, so rename files that do"
            )
            raise DataError(
                f"{path}: line {number} is {line.strip()!r}, not one picture id. {remedy}"
            )
        image_id = words[0]
        if image_id in (".", "..") or any(separator in image_id for separator in "/\\"):
            raise DataError(
                f"{path}: line {number}: id {image_id!r} leads out of the folder of pictures. "
                "Write the file name without folder and extension"
            )
        if image_id in first_lines:
            raise DataError(
                f"{path}: {image_id} is on line {first_lines[image_id]} and again on line "
                f"{number}. Remove one of them"
            )
        first_lines[image_id] = number
    return list(first_lines)


def pixel_edges(boxes_px: ArrayLike) -> np.ndarray:
    """The edges of VOC's pixel boxes: float64 [n, 4] ymin, xmin, ymax, xmax in pixels, from 0.

    VOC counts pixels from 1 and includes the last, so a box covers the picture from xmin - 1 to
    xmax. With these edges the plain IoU equals the devkit's, which adds 1 to every side.

    Args:
        boxes_px: [n, 4], xmin, ymin, xmax, ymax, 1-based inclusive pixels.
    """
    edges = np.asarray(boxes_px, np.float64).reshape(-1, 4) - (1, 1, 0, 0)
    return edges[:, [1, 0, 3, 2]]


def relative_boxes(
    boxes_px: Sequence[tuple[float, float, float, float]], width: int, height: int
) -> np.ndarray:
    """Turns VOC pixel boxes into the boxes used everywhere else (`pixel_edges`).

    Args:
        boxes_px: xmin, ymin, xmax, ymax each, 1-based inclusive pixels.
        width: of the picture in pixels.
        height: of the picture in pixels.

    Returns:
        float32 [num_boxes, 4]: ymin, xmin, ymax, xmax, relative to the picture.
    """
    return (pixel_edges(boxes_px) / (height, width, height, width)).astype(np.float32)


def _parse(path: Path) -> Element:
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise DataError(f"{path}: the annotation does not exist") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read the annotation ({error.strerror})") from error
    except (ParseError, LookupError, ValueError) as error:
        if isinstance(error, DefusedXmlException):
            raise DataError(
                f"{path}: declares XML entities, which no VOC annotation does and which can blow "
                "up memory or read other files. Remove the DOCTYPE"
            ) from error
        raise DataError(f"{path}: not XML ({error}). Write the file again") from error
    if root.tag != "annotation":
        raise DataError(f"{path}: the root element is <{root.tag}>, a VOC file has <annotation>")
    return root


def _object(path: Path, number: int, element: Element) -> VocObject:
    name = _text(element, "name")
    if not name:
        raise DataError(f"{path}: object {number} has no class. Add <name>")
    where = f"{path}: object {number} ({name})"
    box = element.find("bndbox")
    if box is None:
        raise DataError(f"{where} has no box. Add <bndbox>, or remove the object")
    return VocObject(
        name=name,
        box_px=tuple(_edge(where, box, tag) for tag in _EDGES),
        difficult=_flag(where, element, "difficult"),
        truncated=_flag(where, element, "truncated"),
        occluded=_flag(where, element, "occluded"),
    )


def _edge(where: str, box: Element, tag: str) -> float:
    # VOC2011 and later have a few boxes with fractions of pixels.
    text = _text(box, tag)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: <{tag}> is {text!r}, not a number. Write it in pixels")
    return value


def _flag(where: str, element: Element, tag: str) -> bool:
    text = _text(element, tag) or "0"
    if text not in ("0", "1"):
        raise DataError(f"{where}: <{tag}> is {text!r}. Write 0 or 1")
    return text == "1"


def _side(path: Path, size: Element | None, tag: str) -> int:
    text = "" if size is None else _text(size, tag)
    if text and not text.isdecimal():
        raise DataError(f"{path}: <{tag}> of the picture is {text!r}. Write it in whole pixels")
    return int(text or 0)


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()
