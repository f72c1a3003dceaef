"""Finds COCO annotations in folders, as laid out by COCO and labelling tools."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data.coco import CocoSource
from data.encodings import encoding_of
from data.image_sets import split_of
from data.picture_files import find_picture, inside, same_stem

# A COCO file is recognised by its beginning, so that large ones are not read whole.
_BEGINNING = 1 << 20
_LIST = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')
_FILE_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_INSTANCES = "instances_"


def find_coco_sources(root: Path) -> list[CocoSource]:
    """The annotation files in a folder and up to two levels below it, with their pictures.

    The name of a file or its folder gives the split: `instances_train2017.json`,
    `valid/_annotations.coco.json`. Without a test split, the eval split is used for test. If no
    name contains `train`, the splits are empty and the content of the pictures decides.
    """
    paths = [path for depth in ("*", "*/*", "*/*/*") for path in sorted(root.glob(f"{depth}.json"))]
    found = [(path, text) for path in paths if _LIST.search(text := _beginning(path))]
    # COCO's own folder also has captions and keypoints for the same pictures.
    of_objects = [item for item in found if item[0].name.startswith(_INSTANCES)]
    sources = [
        CocoSource(_split(path, root), path, _pictures(root, path, text))
        for path, text in of_objects or found
    ]
    splits = {source.split for source in sources}
    if "train" not in splits:
        return [replace(source, split="") for source in sources]
    sources = [source for source in sources if source.split]
    if "test" not in splits:
        return [replace(s, split="test") if s.split == "eval" else s for s in sources]
    return sources


def _beginning(path: Path) -> str:
    try:
        with path.open(encoding=encoding_of(path), errors="replace") as file:
            return file.read(_BEGINNING)
    except OSError:
        return ""


def _split(path: Path, root: Path) -> str:
    for name in (path.stem, *([path.parent.name] if path.parent != root else [])):
        if split := _split_of(name):
            return split
    return ""


def _split_of(name: str) -> str:
    """The split that a word in the name stands for, if any."""
    words = re.findall("[a-z]+", name.lower())
    return next((split for word in words if (split := split_of(word))), "")


def _pictures(root: Path, path: Path, text: str) -> Path:
    """The folder with a picture that the file names; `root` if there is none."""
    names = [json.loads(name) for name in _FILE_NAME.findall(text)[:5]]
    paths = [inside(name) for name in names]
    folders = [folder for folder in _candidates(root, path) if folder.is_dir()]
    # Wrong extensions get their own message later, if the folder is found.
    for find in (find_picture, same_stem):
        for files in ([str(path) for path in paths], [path.name for path in paths]):
            for folder in folders:
                if any(find(folder, file) for file in files):
                    return folder
    return root


def _candidates(root: Path, path: Path) -> Iterator[Path]:
    of_split = path.stem.removeprefix(_INSTANCES)
    for base in (path.parent, *([path.parent.parent] if path.parent != root else []), root):
        yield base
        for name in ("images", "JPEGImages", "data", of_split):
            yield base / name
            yield base / name / of_split
    # Any other folder, unless its name is that of another split.
    split = _split(path, root)
    for depth in ("*/", "*/*/", "*/*/*/"):
        for folder in sorted(root.glob(depth)):
            others = {_split_of(part) for part in folder.relative_to(root).parts} - {"", split}
            if not (split and others):
                yield folder
