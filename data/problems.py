"""Problems of pictures and objects: their kinds, with remedies, and their summary."""

import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from data.errors import DataError

_WIDTH = 80
_EXAMPLES = 2


class Kind(NamedTuple):
    """A heading for problems of one kind, and what to do about all of them."""

    title: str
    remedy: str


KINDS = {
    "unannotated": Kind(
        "there is no annotation", "Add the annotations, or remove the pictures from the list"
    ),
    "annotation": Kind(
        "the annotation cannot be read",
        "Fix the files, or export the annotations again as Pascal VOC",
    ),
    "encoding": Kind(
        "the annotation is not in its declared encoding, or in UTF-8 without a declaration",
        'Save the files as UTF-8, or declare the encoding: <?xml version="1.0" encoding="gb2312"?>',
    ),
    "nesting": Kind(
        "objects or boxes in the wrong place",
        "Move each <object>, with its <bndbox>, directly into <annotation>",
    ),
    "missing": Kind(
        "there is no such picture", "Copy the pictures there, or remove them from the list"
    ),
    "damaged": Kind("the picture is damaged", "Copy the pictures again"),
    "format": Kind(
        "not a JPEG that every decoder reads alike",
        "--reencode writes such pictures as RGB JPEGs of quality 95",
    ),
    "unreadable": Kind("the picture cannot be decoded", "Save the pictures as RGB JPEGs"),
    "large": Kind("the picture is too large", "Scale picture and boxes down, or cut it into tiles"),
    "exif": Kind(
        "an EXIF tag rotates the picture, but JPEG decoders ignore it",
        "--exif upright if the boxes were drawn on the upright picture, as labelImg, CVAT and "
        "browsers show it; --exif stored if they are in pixels as stored, as TensorFlow and most "
        "scripts read them",
    ),
    "size": Kind(
        "the stated size is not the picture's",
        "The boxes are in pixels of another size: --rescale scales them from the stated size to "
        "the picture's",
    ),
    "turned": Kind(
        "width and height are swapped, and no EXIF tag rotates the picture",
        "The boxes are in pixels of a rotated picture, so scaling does not help. Rotate the "
        "picture, or annotate it again; if only the two numbers are swapped, swap them back",
    ),
    "class": Kind(
        "the class is not in the list of classes",
        "Name all classes: --classes NAME..., or --classes auto for those found",
    ),
    "name": Kind("the object has no class", "Add <name>, or remove the object"),
    "category": Kind("there is no such category", "Add it to the categories, or remove the object"),
    "box": Kind("the object has no valid box", "Fix the box, or remove the object"),
    "relative": Kind(
        "the box is relative to the picture, not in pixels",
        "Multiply x by the width and y by the height, or export the annotations again",
    ),
    "outside": Kind("the box extends outside the picture", "Fix the box"),
    "zero": Kind(
        "the box starts at pixel 0, but VOC counts from 1",
        "If the tool counts pixels from 0, as CVAT, make-sense, labelme, VoTT and Label Studio do: "
        "--pixels-from 0",
    ),
    "flag": Kind("a flag is neither 0 nor 1", "Write 0 or 1"),
    "image": Kind(
        "the annotation is for an image that is not listed",
        "Add the image to the list of images, or remove the annotation",
    ),
    "twice": Kind(
        "the picture is listed more than once",
        "Keep one entry in the list of images, and give its id to all annotations of the picture",
    ),
    "leak": Kind("the picture is also in another split", "Remove it from one of the lists"),
}


class Problem(NamedTuple):
    """What is wrong and where, in one sentence without the full stop; the kind has the remedy."""

    kind: str
    text: str
    of_object: bool = False  # the picture can be used without it

    def __str__(self) -> str:
        return f"{self.text}. {KINDS[self.kind].remedy}"


class Unusable(DataError):
    """A problem as an exception, which ends the reading of a file."""

    def __init__(self, kind: str, text: str) -> None:
        self.problem = Problem(kind, text)
        super().__init__(str(self.problem))

    def at(self, where: object) -> Problem:
        """The problem, with the place where it was found."""
        return self.problem._replace(text=f"{where}: {self.problem.text}")

    def __reduce__(self) -> tuple:
        return Unusable, self.problem[:2]


def summarise(pictures: Iterable[Iterable[Problem]], *, briefly: bool = False) -> list[str]:
    """Lines on the problems of pictures, by kind, most frequent first.

    Unless `briefly`, each kind has two examples and the remedy.
    """
    objects: Counter[str] = Counter()
    with_kind: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for problems in pictures:
        for problem in problems:
            objects[problem.kind] += problem.of_object
            shown = examples.setdefault(problem.kind, [])
            if len(shown) < _EXAMPLES:
                shown.append(problem.text)
        with_kind.update({problem.kind for problem in problems})
    lines = []
    for kind, count in sorted(with_kind.items(), key=lambda item: (-item[1], item[0])):
        what = counted(count, "picture")
        if objects[kind]:
            what = f"{counted(objects[kind], 'object')} in {what}"
        title, remedy = KINDS[kind]
        lines += wrapped(f"{what}: {title}", "  ", "    ")
        if briefly:
            continue
        lines += [
            *(f"    {text}" for text in examples[kind]),
            *wrapped(f"-> {remedy}", "    ", "       "),
        ]
    return lines


def counted(count: int, noun: str) -> str:
    """The number with its noun: 1 picture, 2,000 pictures."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def wrapped(text: str, first: str = "", rest: str = "  ") -> list[str]:
    """Wraps to a terminal's width; options stay whole, and so do indented lines of options."""
    if text.startswith(" "):
        return [first + text]
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )
