"""Folders of COCO annotations as COCO and labelling tools lay them out."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data.coco import CocoSource
from data.encodings import encoding_of
from data.image_sets import split_of
from data.picture_files import find_picture, inside, same_stem

# What a file of COCO has near its beginning; large ones need not be read for it.
_BEGINNING = 1 << 20
_LIST = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')
_FILE_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_INSTANCES = "instances_"


def find_coco_sources(root: Path) -> list[CocoSource]:
    """The annotation files in a folder and up to two levels below it, with their pictures.

    Names of files, or of their folders, say what split each is for: `instances_train2017.json`,
    `valid/_annotations.coco.json`. Without a test split the eval split is taken for it; where no
    name says `train`, the splits are empty and the content of the pictures decides.
    """
    paths = [path for depth in ("*", "*/*", "*/*/*") for path in sorted(root.glob(f"{depth}.json"))]
    found = [(path, text) for path in paths if _LIST.search(text := _beginning(path))]
    # COCO's own folder has captions and keypoints of the same pictures too.
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
    """The split that a word in the name is for, if any."""
    words = re.findall("[a-z]+", name.lower())
    return next((split for word in words if (split := split_of(word))), "")


def _pictures(root: Path, path: Path, text: str) -> Path:
    """The folder that has the first picture which the file names; `root` if none has."""
    names = [json.loads(name) for name in _FILE_NAME.findall(text)[:5]]
    paths = [inside(name) for name in names]
    folders = [folder for folder in _candidates(root, path) if folder.is_dir()]
    # An extension that is wrong has a message of its own, if the folder is found.
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
    # Any other folder, unless its name says that it is of another split.
    split = _split(path, root)
    for depth in ("*/", "*/*/", "*/*/*/"):
        for folder in sorted(root.glob(depth)):
            others = {_split_of(part) for part in folder.relative_to(root).parts} - {"", split}
            if not (split and others):
                yield folder
