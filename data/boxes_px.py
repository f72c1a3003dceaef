"""Checks pixel boxes against their picture: first its size, then each object."""

import dataclasses
import difflib
from collections.abc import Collection, Iterator

from data.problems import Problem, Unusable
from data.voc import Annotation, VocObject

Size = tuple[int, int]  # width, height


def settle_size(
    annotation: Annotation, size: Size, *, swapped_sides: bool, rescale: bool
) -> tuple[Annotation, str]:
    """The annotation with boxes in pixels of its picture, and what was changed, if anything.

    Args:
        annotation: with the size that it states; 0 if it states none.
        size: of the picture as written to the record.
        swapped_sides: whether the picture had a tag that swaps its sides, handled by `--exif`.
        rescale: whether to scale boxes if the sizes differ by more than a pixel.

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
            return annotation, "stated size is from before the EXIF tag was handled"
        raise Unusable("turned", f"{annotation.source}: {_sizes(stated, size)}")
    if not rescale:
        raise Unusable("size", f"{annotation.source}: {_sizes(stated, size)}")
    x, y = (one / other for one, other in zip(size, stated, strict=True))
    objects = tuple(_scaled(item, x, y) for item in annotation.objects)
    return dataclasses.replace(annotation, objects=objects), "boxes scaled to the picture's size"


def find_object_problems(
    annotation: Annotation, size: Size, classes: Collection[str] | None, *, counts_from_1: bool
) -> Iterator[tuple[VocObject, Problem]]:
    """The unusable objects, with what is wrong.

    A box may exceed the border by less than a pixel (rounding): the record's box is clipped. If the
    stated size is one pixel larger, a box may extend that far.

    Args:
        annotation: with boxes in pixels of the picture.
        size: of the picture.
        classes: allowed class names; None allows any.
        counts_from_1: whether the file counts pixels from 1, as VOC does.
    """
    # Runs twice for each object of a data set, so text is only built for a problem.
    width, height = size
    if abs(annotation.width - width) <= 1 and abs(annotation.height - height) <= 1:
        width, height = max(width, annotation.width), max(height, annotation.height)
    for item in annotation.objects:
        if classes is not None and item.name not in classes:
            yield item, _class_problem(annotation, item, classes)
        xmin, ymin, xmax, ymax = item.box_px
        # Inside the first pixel, but not exactly that pixel.
        relative = xmax <= 1 and ymax <= 1 and any(edge % 1 for edge in item.box_px)
        within = min(xmin, ymin) > 0 and xmax < width + 1 and ymax < height + 1
        # Something must be left after clipping.
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
    hint = f"; did you mean {near[0]}?" if near else ""
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
