"""Boxes in pixels against the picture they are in: its size settled, then the objects checked."""

import dataclasses
import difflib
from collections.abc import Collection, Iterator

from data.problems import Problem, Unusable
from data.voc import Annotation, VocObject

Size = tuple[int, int]  # width, height


def settle_size(
    annotation: Annotation, size: Size, *, swapped_sides: bool, rescale: bool
) -> tuple[Annotation, str]:
    """The annotation with boxes in pixels of its picture, and what was done for that, if anything.

    Args:
        annotation: with the size that it states; 0 where it states none.
        size: of the picture as it is written.
        swapped_sides: whether the picture had a tag that swaps them, and a user has decided on it.
        rescale: whether boxes are scaled where the sizes differ by more than a pixel.

    Raises:
        Unusable: the sizes differ.
    """
    stated = annotation.width, annotation.height
    if stated == size:
        return annotation, ""
    if not all(stated):
        return annotation, "size not stated, taken from the picture"
    if _near(stated, size):
        return annotation, "stated size off by one pixel, taken from the picture"
    if _near(stated, size[::-1]):
        if swapped_sides:
            return annotation, "stated size is that before the decision on the EXIF tag"
        raise Unusable("turned", f"{annotation.source}: {_sizes(stated, size)}")
    if not rescale:
        raise Unusable("size", f"{annotation.source}: {_sizes(stated, size)}")
    x, y = (one / other for one, other in zip(size, stated, strict=True))
    objects = tuple(_scaled(item, x, y) for item in annotation.objects)
    return dataclasses.replace(annotation, objects=objects), "boxes scaled to the picture's size"


def find_object_problems(
    annotation: Annotation, size: Size, classes: Collection[str] | None, *, counts_from_1: bool
) -> Iterator[tuple[VocObject, Problem]]:
    """The objects that cannot be used, with what is wrong.

    A box may reach over the border by less than a pixel, which is rounding: the record's box is
    clipped. Where the stated size is larger by one pixel, a box may reach as far.

    Args:
        annotation: with boxes in pixels of the picture.
        size: of the picture.
        classes: names that an object may have; None for any.
        counts_from_1: whether the file's own pixels are counted so, as VOC's are.
    """
    # This runs twice for each object of a data set: words are made where there is a problem alone.
    width, height = size
    if abs(annotation.width - width) <= 1 and abs(annotation.height - height) <= 1:
        width, height = max(width, annotation.width), max(height, annotation.height)
    for item in annotation.objects:
        if classes is not None and item.name not in classes:
            yield item, _class_problem(annotation, item, classes)
        xmin, ymin, xmax, ymax = item.box_px
        # Within the first pixel, but not the pixel itself.
        relative = xmax <= 1 and ymax <= 1 and any(edge % 1 for edge in item.box_px)
        within = min(xmin, ymin) > 0 and xmax < width + 1 and ymax < height + 1
        # Something has to be left once it is clipped.
        left = xmin - 1 < size[0] and ymin - 1 < size[1] and min(xmax, ymax) > 0
        if within and left and not relative:
            continue
        offset = 0 if counts_from_1 else 1
        said = f"xmin {xmin - offset:g}, ymin {ymin - offset:g}, xmax {xmax:g}, ymax {ymax:g}"
        text = f"{_where(annotation, item)}: {said} in {size[0]} x {size[1]} pixels"
        fits_from_0 = -1 < min(xmin, ymin) <= 0 and xmax < width + 1 and ymax < height + 1
        kind = "zero" if counts_from_1 and fits_from_0 else "outside"
        yield item, Problem("relative" if relative else kind, text, of_object=True)


def _class_problem(annotation: Annotation, item: VocObject, classes: Collection[str]) -> Problem:
    near = difflib.get_close_matches(item.name, classes, n=1)
    hint = f", the nearest is {near[0]}" if near else ""
    text = f"{_where(annotation, item)}: not one of the {len(classes)} classes{hint}"
    return Problem("class", text, of_object=True)


def _where(annotation: Annotation, item: VocObject) -> str:
    return f"{annotation.source}: object {item.number} ({item.name})"


def _near(one: Size, other: Size) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1


def _sizes(stated: Size, size: Size) -> str:
    return f"states {stated[0]} x {stated[1]} pixels, the picture has {size[0]} x {size[1]}"


def _scaled(item: VocObject, x: float, y: float) -> VocObject:
    xmin, ymin, xmax, ymax = item.box_px
    box = (xmin - 1) * x + 1, (ymin - 1) * y + 1, xmax * x, ymax * y
    return dataclasses.replace(item, box_px=box)
