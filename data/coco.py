"""COCO annotation files: one JSON document holds the boxes of all pictures of a split.

Boxes, category names and the crowd flag are read; segmentations and keypoints are not. The pictures
are checked later, like VOC's, by the workers that convert them.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from data.encodings import encoding_of
from data.errors import DataError
from data.image_sets import Picture, Selection
from data.options import ConversionOptions
from data.picture_files import inside
from data.problems import Problem
from data.splits import SPLITS
from data.voc import Annotation, VocObject

_LISTS = ("images", "annotations", "categories")
# Everything else, mostly segmentations, is dropped while parsing: it is most of the document.
_READ = frozenset(
    {
        *_LISTS,
        *("id", "file_name", "width", "height", "name", "supercategory"),
        *("image_id", "category_id", "bbox", "iscrowd"),
    }
)
_WHOLE = re.compile(r"(0|-?[1-9]\d*)(\.0+)?")
_CROWD = {0: False, 1: True, "0": False, "1": True, "": False, None: False}
_CROWD |= {"false": False, "true": True}

Key = int | str


@dataclass(frozen=True)
class CocoSource:
    """One annotation file, the folder of its pictures, and their split.

    With an empty split, the content of each picture decides.
    """

    split: str
    annotations: Path
    images: Path


@dataclass
class _Document:
    """A file's entries, with checked ids."""

    source: CocoSource
    images: list[tuple[Key, PurePosixPath, int, int]]
    annotations: list[dict[str, Any]]
    names: dict[Key, str]
    parents: dict[Key, str] = field(default_factory=dict)


def select_coco(
    sources: Sequence[CocoSource], options: ConversionOptions
) -> tuple[Selection, tuple[str, ...]]:
    """Reads COCO's annotation files.

    A bad annotation is no error here: its picture carries the problem to the conversion, where
    `--on-error` decides.

    Returns:
      The pictures with their annotations, and the category names in the order of their ids.

    Raises:
        DataError: a file is missing or not COCO, two entries contradict each other, or no file is
            for training.
    """
    by_content = options.shares is not None
    if not by_content and not any(source.split in ("train", "") for source in sources):
        raise DataError("nothing to train on. Name a file by --coco-annotations train=FILE")
    for name in SPLITS:
        if getattr(options, name):
            raise DataError(f"--{name} is for VOC lists. Give --coco-annotations {name}=FILE")
    documents = [_read(source) for source in sources]
    categories, notes = _categories(documents)
    folders = _folder_names([source.images for source in sources])
    pictures: dict[tuple[str, str], Picture] = {}
    loose: list[Problem] = []
    for document in documents:
        source = document.source
        crowds = 0
        split = "" if by_content else source.split
        for picture in _pictures(document, split, folders[source.images], categories, loose):
            # A picture in two splits is a leak, which the conversion finds.
            key = picture.source_id, split
            pictures[key] = _listed_twice(pictures[key], picture) if key in pictures else picture
            objects = picture.annotation.objects if picture.annotation else ()
            crowds += sum(bool(item.is_crowd) for item in objects)
        if crowds:
            notes.append(f"{source.annotations.name}: {crowds:,} crowds count as difficult")
    lists = {
        split: tuple(source.annotations.name for source in sources if source.split == split)
        for split in SPLITS
    }
    names = tuple(categories[key] for key in sorted(categories, key=_order))
    places = [path.resolve() for source in sources for path in (source.annotations, source.images)]
    chosen = Selection(
        Path(os.path.commonpath(places)).name,
        dict.fromkeys(SPLITS, ()) if by_content else lists,
        tuple(_with_clear_names(pictures.values())),
        tuple(notes),
        options.shares,
        tuple(loose),
    )
    return chosen, names


def load(path: Path) -> dict[str, list]:
    """The lists in a file, without unused keys; DataError if it is not COCO."""
    try:
        with path.open(encoding=encoding_of(path)) as file:
            document = json.load(file, object_hook=_what_is_read)
    except OSError as error:
        raise DataError(f"{path}: cannot read the annotations ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8, as JSON must be. Save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not JSON ({error}). Give a file such as instances_train2017.json"
        ) from error
    lists = [] if not isinstance(document, dict) else _LISTS
    missing = [name for name in _LISTS if not lists or not isinstance(document.get(name), list)]
    if missing:
        raise DataError(
            f"{path}: not COCO object annotations: no list of {', '.join(missing)}. Give a file "
            "such as instances_train2017.json"
        )
    return document


def _what_is_read(entry: dict) -> dict:
    return {key: value for key, value in entry.items() if key in _READ}


def _read(source: CocoSource) -> _Document:
    """Loads a file and checks its ids and names."""
    path = source.annotations
    if not source.images.is_dir():
        raise DataError(f"{source.images}: no such folder. Give the pictures' folder: --images")
    document = load(path)
    names: dict[Key, str] = {}
    parents: dict[Key, str] = {}
    for index, entry in enumerate(document["categories"]):
        where = f"{path}: categories[{index}]"
        key, name = _id(where, entry, "id"), _name(where, entry, "name")
        if names.get(key, name) != name:
            raise DataError(f"{path}: category {key} is both {names[key]!r} and {name!r}")
        names[key] = name
        parents[key] = str(entry.get("supercategory") or "").strip()
    images: list[tuple[Key, PurePosixPath, int, int]] = []
    seen: dict[Key, PurePosixPath] = {}
    for index, entry in enumerate(document["images"]):
        where = f"{path}: images[{index}]"
        key, name = _id(where, entry, "id"), _name(where, entry, "file_name")
        file = inside(name)
        if key in seen:
            if seen[key] != file:
                raise DataError(
                    f"{path}: image {key} is both {seen[key]} and {file}. Give one of them, and "
                    "its annotations, another id"
                )
            continue
        seen[key] = file
        images.append((key, file, _side(entry.get("width")), _side(entry.get("height"))))
    if not images:
        raise DataError(f"{path}: the list of images is empty")
    for index, entry in enumerate(document["annotations"]):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: annotations[{index}] is {entry!r:.40}. This is not COCO")
    return _Document(source, images, document["annotations"], names, parents)


def _categories(documents: Sequence[_Document]) -> tuple[dict[Key, str], list[str]]:
    """The category names by id, which all files must agree on, and notes on those left out."""
    names: dict[Key, str] = {}
    parents: set[str] = set()
    used: Counter[Key | None] = Counter()
    for document in documents:
        for key, name in document.names.items():
            if names.setdefault(key, name) != name:
                raise DataError(
                    f"{document.source.annotations}: category {key} is {name!r}, but "
                    f"{names[key]!r} before. All files need the same categories"
                )
        used.update(_key(entry.get("category_id")) for entry in document.annotations)
        # Without groups, tools write the category's own name.
        parents |= {
            parent for key, parent in document.parents.items() if parent != document.names[key]
        }
    notes = []
    for key, name in list(names.items()):
        # Roboflow's first category groups the others.
        if name in parents and not used[key]:
            del names[key]
            notes.append(f"category {key} ({name}) only groups others and is left out")
    for name, count in Counter(names.values()).items():
        if count > 1:
            keys = [str(key) for key, known in names.items() if known == name]
            raise DataError(
                f"{documents[0].source.annotations}: categories {' and '.join(keys)} are both "
                f"{name!r}. Rename one"
            )
    return names, notes


def _pictures(
    document: _Document,
    split: str,
    folder: str,
    categories: Mapping[Key, str],
    loose: list[Problem],
) -> Iterator[Picture]:
    """The pictures in a file; problems of annotations without a picture are added to `loose`."""
    path = document.source.annotations
    files = {key: file for key, file, *_ in document.images}
    objects: dict[Key, list[VocObject]] = {}
    problems: dict[Key, list[Problem]] = {}
    for index, entry in enumerate(document.annotations):
        where = f"{path}: annotation {entry.get('id', f'number {index + 1}')}"
        image = _key(entry.get("image_id"))
        if image not in files:
            text = f"{where}: there is no image {entry.get('image_id')!r}"
            loose.append(Problem("image", text, of_object=True))
            continue
        number = entry.get("id", index + 1)
        found = _object(entry, number, categories)
        if isinstance(found, VocObject):
            objects.setdefault(image, []).append(found)
        else:
            kind, what = found
            name = _category(entry, categories)
            text = f"{where}{f' ({name})' if name else ''} of {files[image]}: {what}"
            problems.setdefault(image, []).append(Problem(kind, text, of_object=True))
    for key, file, width, height in document.images:
        yield Picture(
            source_id=f"{folder}/{file}",
            split=split,
            folder=str(document.source.images),
            annotation=Annotation(
                source=f"{path}: image {key} ({file})",
                filename=file.name,
                width=width,
                height=height,
                objects=tuple(objects.get(key, ())),
                problems=tuple(problems.get(key, ())),
            ),
        )


def _folder_names(folders: Iterable[Path]) -> dict[Path, str]:
    """A unique name for each folder: its own, with as many parents as that takes."""
    parts = {folder: folder.resolve().parts[1:] for folder in folders}
    depth = 1
    while len({path[-depth:] for path in parts.values()}) < len(set(parts.values())):
        depth += 1
    return {folder: "-".join(path[-depth:]) for folder, path in parts.items()}


def _with_clear_names(pictures: Collection[Picture]) -> Iterator[Picture]:
    """The pictures, without the file name where several share it."""
    count = Counter((p.folder, p.annotation and p.annotation.filename) for p in pictures)
    for picture in pictures:
        annotation = picture.annotation
        if annotation and count[picture.folder, annotation.filename] > 1:
            picture = picture._replace(annotation=replace(annotation, filename=""))
        yield picture


def _listed_twice(first: Picture, again: Picture) -> Picture:
    """The picture without objects, since either entry may lack some of them."""
    one, other = first.annotation, again.annotation
    assert one and other, "COCO's pictures have their annotations"
    problem = Problem("twice", f"{one.source} and {other.source} are the same picture")
    return first._replace(annotation=replace(one, objects=(), problems=(problem,)))


def _object(
    entry: dict, number: object, categories: Mapping[Key, str]
) -> VocObject | tuple[str, str]:
    """An annotation as an object, or the kind and text of its problem.

    COCO's box, a corner and a size, becomes VOC's: first to last pixel, counted from 1. A crowd, a
    box around many objects, is marked difficult too, so that metrics without crowds ignore it.
    """
    name = _category(entry, categories)
    if name is None:
        return "category", f"there is no category {entry.get('category_id')!r}"
    box = entry.get("bbox")
    if not box:
        return "box", "it has no bbox"
    try:
        x, y, width, height = sides = [float(value) for value in box]
    except (TypeError, ValueError):
        sides = [math.nan]
    if not all(map(math.isfinite, sides)):
        return "box", f"bbox {box!r:.60} is not x, y, width and height in pixels"
    if width <= 0 or height <= 0:
        return "box", f"bbox {box} has no area"
    crowd = entry.get("iscrowd")
    crowd = crowd.strip().lower() if isinstance(crowd, str) else crowd
    if isinstance(crowd, list | dict) or crowd not in _CROWD:
        return "flag", f"iscrowd is {crowd!r}"
    is_crowd = _CROWD[crowd]
    return VocObject(
        name=name,
        box_px=(x + 1, y + 1, x + width, y + height),
        difficult=is_crowd,
        truncated=False,
        occluded=False,
        is_crowd=is_crowd,
        number=number if isinstance(number, int | str) else str(number),
    )


def _id(where: str, entry: object, key: str) -> Key:
    value = _entry(where, entry).get(key)
    found = _key(value)
    if found is None:
        raise DataError(f"{where}: {key} is {value!r:.40}. Write a number")
    return found


def _name(where: str, entry: dict, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise DataError(f"{where}: {key} is {value!r:.40}. Write a name")
    return str(value).strip()


def _entry(where: str, entry: object) -> dict:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {entry!r:.40}, not an object. This is not COCO")
    return entry


def _key(value: object) -> Key | None:
    """An id, or None if it is not one; 1, 1.0, "1" and "1.0" are the same id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        text = value.strip()
        whole = _WHOLE.fullmatch(text)
        return int(whole[1]) if whole else text or None
    return value if isinstance(value, int) else None


def _category(entry: dict, categories: Mapping[Key, str]) -> str | None:
    key = _key(entry.get("category_id"))
    return None if key is None else categories.get(key)


def _order(key: Key) -> tuple[bool, Key]:
    return isinstance(key, str), key


def _side(value: Any) -> int:
    """A side in pixels; 0 if it is not stated, so that the picture's own counts."""
    try:
        side = float(value)
    except (TypeError, ValueError):
        return 0
    return round(side) if 0 < side < 2**31 else 0
