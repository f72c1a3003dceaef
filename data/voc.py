"""Pascal VOC annotation files and image lists.

Imports nothing heavy, since evaluation imports it only to parse annotations.
"""

import codecs
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException, ElementTree
from numpy.typing import ArrayLike

from data.encodings import encoding_of
from data.errors import DataError
from data.picture_files import EXTENSIONS
from data.problems import Problem, Unusable

FLAGS = ("difficult", "truncated", "occluded")
_EDGES = ("xmin", "ymin", "xmax", "ymax")
# Tags of an object or a box, wherever they are.
_PLACES = ("object", "bndbox", "xmin")
# What tools write for an unset flag.
_UNSET = frozenset(("", "unspecified", "unknown", "none", "null", "n/a"))
_WORDS = {"1": 1.0, "0": 0.0, "true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0} | dict.fromkeys(
    _UNSET, 0.0
)
_DECLARATION = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["'][^>]*\?>""")
# Windows names the smaller character set but writes the larger one.
_LARGER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}


# With slots, since COCO's 860,000 objects are in memory at once.
@dataclass(frozen=True, slots=True)
class VocObject:
    """One annotated object; flags missing from the data are False."""

    name: str
    box_px: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax: 1-based inclusive pixels
    difficult: bool
    truncated: bool
    occluded: bool
    is_crowd: bool | None = None  # None if the data set does not mark crowds
    number: int | str = 0  # its position in a VOC file, from 1, or COCO's annotation id


@dataclass(frozen=True)
class Annotation:
    """The annotation of one picture; `width` and `height` are 0 if they are not stated."""

    source: str  # for errors: the file, and for COCO the picture in it
    filename: str
    width: int
    height: int
    objects: tuple[VocObject, ...]  # without those that have problems
    problems: tuple[Problem, ...] = ()


def read_annotation(
    path: Path | str, *, pixels_from: int = 1, flags: Sequence[str] = FLAGS
) -> Annotation:
    """Reads one VOC XML file; the parts of a person (`<part>`) are not objects.

    The case of tags is ignored. A bad object is not an error but one of the annotation's problems.

    Args:
        path: of the file.
        pixels_from: whether its pixels are counted from 1 or 0; from 0, `xmax` and `ymax` are the
            edges after the last pixel.
        flags: the flags to read; the others are False.

    Raises:
        Unusable: the file is missing, is not a VOC annotation, declares XML entities, or has boxes
            outside of objects.
    """
    path = Path(path)
    root, places = _parse(path)
    elements = root.findall("object")
    objects, problems = [], []
    for number, element in enumerate(elements, start=1):
        try:
            objects.append(_object(number, element, pixels_from, flags))
        except Unusable as error:
            name = _text(element, "name")
            where = f"{path}: object {number} ({name})" if name else f"{path}: object {number}"
            problems.append(error.at(where)._replace(of_object=True))
    # Each good object has one of each tag; if the numbers agree, there are none elsewhere.
    if problems or places != len(_PLACES) * len(elements):
        _check_nesting(path, root, elements)
    size = root.find("size")
    return Annotation(
        source=str(path),
        filename=_text(root, "filename"),
        width=_side(size, "width"),
        height=_side(size, "height"),
        objects=tuple(objects),
        problems=tuple(problems),
    )


def read_image_set(path: Path | str, exists: Callable[[str], bool] = lambda _: False) -> list[str]:
    """Reads the picture ids in a list such as `ImageSets/Main/trainval.txt`, in order.

    Args:
        path: of the list.
        exists: whether an id has an annotation. Only then may it contain spaces, or keep the
            extension of a picture, which is otherwise removed.

    Raises:
        DataError: the file is missing or not text, a line is not one id inside the folder of
            pictures, or an id occurs twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding=encoding_of(path)).splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot read the image list ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a UTF-8 text file, as a list of picture ids must be. Save it as UTF-8"
        ) from error
    first_lines: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        image_id = _image_id(path, number, line.strip(), exists)
        if image_id in first_lines:
            raise DataError(
                f"{path}: {image_id} is on line {first_lines[image_id]} and again on line "
                f"{number}. Remove one of them"
            )
        first_lines[image_id] = number
    return list(first_lines)


def _image_id(path: Path, number: int, line: str, exists: Callable[[str], bool]) -> str:
    image_id, words = line, line.split()
    if len(words) > 1:
        # CVAT quotes ids with spaces.
        image_id = line[1:-1] if line[0] == line[-1] == '"' else line
        if not exists(image_id):
            remedy = (
                "This looks like the list of one class; give the list of all pictures, such as "
                "trainval.txt"
                if words[-1] in ("-1", "0", "1")
                else "Write one id per line; an id with spaces needs an annotation with that name"
            )
            raise DataError(f"{path}: line {number} is {line!r}, not one picture id. {remedy}")
    image_id = image_id.replace("\\", "/")
    inside = PurePosixPath(image_id)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts or ":" in inside.parts[0]:
        raise DataError(
            f"{path}: line {number}: id {image_id!r} points outside the folder of pictures. "
            "Write the file name without extension, relative to that folder"
        )
    if inside.suffix.lower() in EXTENSIONS and not exists(image_id):
        return str(inside.with_suffix(""))
    return str(inside)


def pixel_edges(boxes_px: ArrayLike) -> np.ndarray:
    """The edges of VOC's pixel boxes: float64 [n, 4] ymin, xmin, ymax, xmax in pixels, from 0.

    VOC counts pixels from 1 and includes the last, so a box covers xmin - 1 to xmax. With these
    edges, plain IoU equals the devkit's, which adds 1 to every side.

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
        boxes_px: xmin, ymin, xmax, ymax of each, 1-based inclusive pixels.
        width: of the picture in pixels.
        height: of the picture in pixels.

    Returns:
        float32 [num_boxes, 4]: ymin, xmin, ymax, xmax, relative to the picture.
    """
    return (pixel_edges(boxes_px) / (height, width, height, width)).astype(np.float32)


def _parse(path: Path) -> tuple[Element, int]:
    """The root element, with lower-case tags without namespaces, and the number of `_PLACES`."""
    try:
        root = _parse_bytes(path.read_bytes())
    except FileNotFoundError as error:
        raise Unusable("unannotated", f"{path}: the annotation does not exist") from error
    except OSError as error:
        raise Unusable(
            "annotation", f"{path}: cannot read the annotation ({error.strerror})"
        ) from error
    except DefusedXmlException as error:
        raise Unusable(
            "annotation",
            f"{path}: declares XML entities (<!DOCTYPE>), which VOC annotations do not need and "
            "which can exhaust memory or read other files",
        ) from error
    except UnicodeDecodeError as error:
        raise Unusable("encoding", f"{path}: not text in {error.encoding}") from error
    except (ParseError, LookupError, ValueError) as error:
        raise Unusable("annotation", f"{path}: not XML ({error})") from error
    places = 0
    for element in root.iter():
        tag = element.tag = element.tag.rpartition("}")[2].lower()
        if tag in _PLACES:
            places += 1
    if root.tag != "annotation":
        raise Unusable(
            "annotation",
            f"{path}: the root element is <{root.tag}>, not <annotation>",
        )
    return root, places


def _parse_bytes(content: bytes) -> Element:
    try:
        return ElementTree.fromstring(content)
    except DefusedXmlException:
        raise
    except (ParseError, ValueError):
        marked = content.startswith(codecs.BOM_UTF8)
        # Scripts write blank lines before the declaration.
        bare = content.removeprefix(codecs.BOM_UTF8).lstrip()
        # The parser knows few encodings; Python knows many.
        declared = _DECLARATION.match(bare)
        if not declared:
            bare.decode()  # raises if it is not UTF-8
            if bare == content:
                raise
            return ElementTree.fromstring(bare)
        encoding = codecs.lookup(declared[1].decode()).name
        # The declaration was readable as ASCII, so this is not the UTF-16 that .NET declares.
        if marked or encoding.startswith(("utf-16", "utf-32")):
            encoding = "utf-8"
        text = bare[declared.end() :].decode(_LARGER.get(encoding, encoding))
        return ElementTree.fromstring(text)


def _check_nesting(path: Path, root: Element, objects: Sequence[Element]) -> None:
    """Raises Unusable for an object or a box where no VOC reader would see it."""
    for tag in _PLACES:
        seen = sum(1 for element in objects for _ in element.iter(tag))
        if sum(1 for _ in root.iter(tag)) == seen and (tag != "object" or seen == len(objects)):
            continue
        objects_own = {id(part) for element in objects for part in element.iter()}
        for parent in root.iter():
            at_its_place = parent is root if tag == "object" else id(parent) in objects_own
            if not at_its_place and parent.find(tag) is not None:
                raise Unusable("nesting", f"{path}: there is a <{tag}> in <{parent.tag}>")


def _object(number: int, element: Element, pixels_from: int, flags: Sequence[str]) -> VocObject:
    name = _text(element, "name")
    if not name:
        raise Unusable("name", "there is no <name>")
    boxes = element.findall("bndbox")
    if len(boxes) != 1:
        raise Unusable(
            "box", f"it has {len(boxes)} boxes (<bndbox>)" if boxes else _no_box(element)
        )
    box = xmin, ymin, xmax, ymax = [_edge(boxes[0], tag) for tag in _EDGES]
    if pixels_from == 0:
        xmin, ymin = xmin + 1, ymin + 1
    # As in the devkit, a box from a pixel to the same pixel is one pixel wide.
    for low, high in ((0, 2), (1, 3)):
        if box[low] > box[high] or (pixels_from == 0 and box[low] == box[high]):
            raise Unusable(
                "box",
                f"the box has no area: {_EDGES[low]} {box[low]:g} "
                f"{'>' if box[low] > box[high] else '='} {_EDGES[high]} {box[high]:g}",
            )
    values = {flag: flag in flags and _flag(element, flag) for flag in FLAGS}
    return VocObject(name=name, box_px=(xmin, ymin, xmax, ymax), number=number, **values)


def _no_box(element: Element) -> str:
    """What an object has instead of a <bndbox>."""
    if element.find("robndbox") is not None:
        return "it has a rotated box (<robndbox>), which VOC does not support"
    for parent in element.iter():
        if parent.find("xmin") is not None and parent.tag != "part":
            return f"its box is in <{parent.tag}>, not in <bndbox>"
    return "it has no box (<bndbox>)"


def _edge(box: Element, tag: str) -> float:
    # VOC2011 and later, and many tools, have fractional pixels.
    text = _text(box, tag)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Unusable("box", f"<{tag}> is {text!r}, not a number of pixels")
    return value


def _flag(element: Element, tag: str) -> bool:
    text = _text(element, tag).lower()
    value = _WORDS.get(text)
    if value is None:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
    # Some tools write how much of an object is cut off or hidden, as a fraction or a level.
    if math.isnan(value) or (tag == "difficult" and value not in (0, 1)):
        raise Unusable("flag", f"<{tag}> is {text!r}")
    return value > 0


def _side(size: Element | None, tag: str) -> int:
    """A side of the stated size; 0 if it is missing or not a number."""
    try:
        value = float("" if size is None else _text(size, tag))
    except ValueError:
        return 0
    return round(value) if 0 < value < 2**31 else 0


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()
