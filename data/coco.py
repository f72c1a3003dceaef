"""COCO annotation files: one JSON document holds the boxes of all pictures of a split.

Boxes, category names and the crowd flag are read; segmentations, keypoints and supercategories are
not. The pictures are checked later, like VOC's, by the workers that convert them.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data.errors import DataError
from data.image_sets import SPLITS, Picture, Selection
from data.voc import Annotation, VocObject

_LISTS = ("images", "annotations", "categories")
# The rest, segmentations above all, is dropped while the document is parsed: it is most of it.
_READ = frozenset(
    {
        *_LISTS,
        *("id", "file_name", "width", "height", "name"),
        *("image_id", "category_id", "bbox", "iscrowd"),
    }
)


@dataclass(frozen=True)
class CocoSource:
    """One annotation file, the folder of its pictures, and the split that they go to."""

    split: str
    annotations: Path
    images: Path


def select_coco(sources: Sequence[CocoSource]) -> tuple[Selection, tuple[str, ...]]:
    """Reads COCO's annotation files.

    A box that is none does not end the reading: its picture carries the problem to the conversion,
    where `--on-error` decides.

    Returns:
      The pictures, with their annotations, and the category names in the order of their ids.

    Raises:
        DataError: a file is missing or is not COCO's, two entries contradict each other, or no
            file is for training.
    """
    if not any(source.split == "train" for source in sources):
        raise DataError("nothing to train on. Name a file by --coco-annotations train=FILE")
    categories: dict[int, str] = {}
    pictures: dict[str, Picture] = {}
    notes = []
    for source in sources:
        if not source.images.is_dir():
            raise DataError(f"{source.images}: no such folder. Give that of the pictures: --images")
        document = _load(source.annotations)
        _add_categories(source.annotations, document["categories"], categories)
        crowds = 0
        for picture in _pictures(source, document, categories):
            if picture.source_id in pictures:
                raise DataError(
                    f"{source.annotations}: {picture.source_id} is named twice, here or in another "
                    "file. Remove one, or give one of the folders of pictures another name"
                )
            pictures[picture.source_id] = picture
            crowds += sum(item.is_crowd for item in picture.annotation.objects)
        if crowds:
            notes.append(f"{source.annotations.name}: {crowds:,} crowds count as difficult")
    lists = {
        split: tuple(source.annotations.name for source in sources if source.split == split)
        for split in SPLITS
    }
    names = tuple(categories[number] for number in sorted(categories))
    return Selection(lists, tuple(pictures.values()), tuple(notes)), names


def _load(path: Path) -> dict[str, list]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            document = json.load(file, object_hook=_what_is_read)
    except OSError as error:
        raise DataError(f"{path}: cannot read the annotations ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not JSON ({error}). Give a file such as instances_train2017.json"
        ) from error
    lists = [] if not isinstance(document, dict) else _LISTS
    missing = [name for name in _LISTS if not lists or not isinstance(document.get(name), list)]
    if missing:
        raise DataError(
            f"{path}: not COCO annotations of objects: no list of {', '.join(missing)}. Give a "
            "file such as instances_train2017.json"
        )
    return document


def _what_is_read(entry: dict) -> dict:
    return {key: value for key, value in entry.items() if key in _READ}


def _add_categories(path: Path, entries: list, categories: dict[int, str]) -> None:
    """Adds what a file says to `categories`; all files have to mean the same by an id."""
    for index, entry in enumerate(entries):
        number, name = _values(path, "categories", index, entry, id=int, name=str)
        if categories.get(number, name) != name:
            raise DataError(
                f"{path}: category {number} is {name!r}, but {categories[number]!r} before. All "
                "files need the same categories"
            )
        others = [key for key, known in categories.items() if known == name and key != number]
        if others:
            raise DataError(
                f"{path}: categories {others[0]} and {number} are both {name!r}. Rename one"
            )
        categories[number] = name


def _pictures(
    source: CocoSource, document: Mapping[str, list], categories: Mapping[int, str]
) -> Iterator[Picture]:
    path = source.annotations
    images: dict[int | str, tuple] = {}
    for index, entry in enumerate(document["images"]):
        number, name = _values(path, "images", index, entry, id=(int, str), file_name=str)
        inside = PurePosixPath(name)
        if not inside.parts or inside.is_absolute() or ".." in inside.parts or "\\" in name:
            raise DataError(
                f"{path}: image {number}: file_name is {name!r}, which leads out of the folder of "
                "pictures. Write it relative to that folder"
            )
        if number in images:
            raise DataError(f"{path}: image {number} is there twice. Remove one of them")
        sides = [entry.get(side) for side in ("width", "height")]
        images[number] = (
            inside,
            *(int(side) if isinstance(side, int | float) else 0 for side in sides),
        )
    if not images:
        raise DataError(f"{path}: there are no images, so {source.split} gets no picture from it")
    objects: dict[int | str, list[VocObject]] = {number: [] for number in images}
    problems: dict[int | str, list[str]] = {}
    for index, entry in enumerate(document["annotations"]):
        number, image, category, box = _values(
            path, "annotations", index, entry, id=(int, str), image_id=(int, str), category_id=int,
            bbox=list,
        )  # fmt: skip
        where = f"{path}: annotation {number}"
        for kind, key, known in (("image", image, images), ("category", category, categories)):
            if key not in known:
                alike = [other for other in known if str(other) == str(key)]
                if alike:
                    raise DataError(
                        f"{where}: {kind}_id is {key!r}, but the {kind}'s id is {alike[0]!r}. "
                        "Write both as numbers, or both as text"
                    )
                raise DataError(f"{where}: there is no {kind} {key}. Remove the annotation")
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DataError(f"{where}: iscrowd is {crowd!r}. Write 0 or 1")
        name = categories[category]
        problem = _box_problem(box, *images[image][1:])
        if problem:
            text = f"{where} ({name}) of {images[image][0]}: bbox {box} {problem}"
            problems.setdefault(image, []).append(text)
        else:
            objects[image].append(_object(name, box, bool(crowd)))
    for number, (file_name, width, height) in images.items():
        yield Picture(
            source_id=f"{source.images.resolve().name}/{file_name}",
            split=source.split,
            folder=str(source.images),
            annotation=Annotation(
                source=f"{path}: image {number} ({file_name})",
                filename=file_name.name,
                width=width,
                height=height,
                objects=tuple(objects[number]),
            ),
            problems=tuple(problems.get(number, ())),
        )


def _values(path: Path, kind: str, index: int, entry, **wanted) -> list:
    """The values of the wanted keys, checked to be of their types."""
    where = f"{path}: {kind}[{index}]"
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {entry!r:.40}, not an object. This is not COCO")
    for key, kinds in wanted.items():
        value = entry.get(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            said = f"{key} is {value!r:.40}" if key in entry else f"has no {key}"
            raise DataError(
                f"{where} {said}. Give annotations of objects, such as instances_train2017.json"
            )
    return [entry[key] for key in wanted]


def _box_problem(box: list, width: int, height: int) -> str | None:
    """What keeps a box from being used: x, y, width, height in pixels, counted from 0."""
    if len(box) != 4 or not all(
        isinstance(value, int | float) and math.isfinite(value) for value in box
    ):
        return "is not four numbers. Write x, y, width, height in pixels"
    x, y, box_width, box_height = box
    if box_width <= 0 or box_height <= 0:
        return "has no area. Remove it, or correct it"
    if width <= 0 or height <= 0:
        return "cannot be checked: the image has no width and height. Write them, in pixels"
    # Rounding at the border is harmless; the record's box is clipped.
    if min(x, y) <= -1 or x + box_width >= width + 1 or y + box_height >= height + 1:
        return f"reaches out of the picture of {width} x {height} pixels. Correct it"
    return None


def _object(name: str, box: list, is_crowd: bool) -> VocObject:
    """COCO's box, a corner and a size, as VOC's: from the first pixel to the last, counted from 1.

    A crowd, a box around many objects, is difficult to all that know no crowds: nothing has to
    find it, and what finds it is not wrong.
    """
    x, y, width, height = map(float, box)
    return VocObject(
        name=name,
        box_px=(x + 1, y + 1, x + width, y + height),
        difficult=is_crowd,
        truncated=False,
        occluded=False,
        is_crowd=is_crowd,
    )
