"""Finds VOC annotations in folders, as laid out by VOC and labelling tools."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data.picture_files import EXTENSIONS

_XML = "*.[xX][mM][lL]"
_PICTURE_FOLDERS = ("jpegimages", "images")


@dataclass(frozen=True)
class VocFolder:
    """Annotations and their pictures, with or without lists."""

    name: str  # such as VOC2007
    annotations: Path
    pictures: Path
    image_sets: Path

    def lists(self) -> dict[str, Path]:
        """The lists of pictures by name, such as VOC2007/trainval."""
        return {f"{self.name}/{path.stem}": path for path in sorted(self.image_sets.glob("*.txt"))}

    def annotated_ids(self) -> list[str]:
        """The ids of all annotations, sorted."""
        beside = self.annotations == self.pictures
        paths = self.annotations.glob(_XML) if beside else self.annotations.rglob(_XML)
        return sorted(
            path.relative_to(self.annotations).with_suffix("").as_posix() for path in paths
        )

    def files(self) -> Iterator[Path]:
        """All files that a conversion may read."""
        yield from self.image_sets.glob("*.txt")
        for folder in {self.annotations, self.pictures}:
            yield from (path for path in folder.rglob("*") if path.is_file())


def find_voc_folders(root: Path) -> list[VocFolder]:
    """The VOC folders at `root`, else those in it, else those one level deeper; sorted by name.

    A VOC folder has lists in ImageSets/Main, XML files (in Annotations or directly), or two
    folders, one with XML files and one with pictures. The pictures are in JPEGImages, in images,
    next to the XML files, or in the only folder with pictures. Without lists, annotations/train and
    images/train form a VOC folder `train`.
    """
    level = [root]
    for _ in range(3):
        found = [pair for path in level for pair in _voc_folders(path)]
        names = [folder.name for _, folder in found]
        if len(set(names)) < len(names):
            return [
                replace(folder, name="-".join(path.relative_to(root).parts))
                for path, folder in found
            ]
        if found:
            return [folder for _, folder in found]
        level = sorted(child for path in level for child in _folders(path).values())
    return []


def _voc_folders(path: Path) -> Iterator[tuple[Path, VocFolder]]:
    """The VOC folder at `path`, or its parts, each with a path that makes its name unique."""
    whole = _voc_folder(path)
    if whole is None:
        return
    if whole.lists() or _has_annotations(whole.annotations):
        yield path, whole
        return
    parts, pictures = _folders(whole.annotations), _folders(whole.pictures)
    if not parts.keys() <= pictures.keys():
        yield path, whole
        return
    for name, annotations in sorted(parts.items()):
        part = VocFolder(annotations.name, annotations, pictures[name], whole.image_sets)
        yield path / annotations.name, part


def _voc_folder(path: Path) -> VocFolder | None:
    folders = _folders(path)
    image_sets = folders.get("imagesets", path / "ImageSets") / "Main"
    annotations = folders.get("annotations", path / "Annotations")
    named = [folders[name] for name in _PICTURE_FOLDERS if name in folders]
    if next(annotations.rglob(_XML), None) is None:
        if _has_annotations(path):
            annotations = path
        elif apart := _apart_from_pictures(folders):
            annotations = apart
        elif next(image_sets.glob("*.txt"), None) is None:
            return None
    if named:
        pictures = named[0]
    elif annotations == path or _has_pictures(path):
        pictures = path
    else:
        others = _with(_has_pictures, folders)
        pictures = others[0] if len(others) == 1 else annotations
    return VocFolder(path.resolve().name, annotations, pictures, image_sets)


def _apart_from_pictures(folders: dict[str, Path]) -> Path | None:
    """The only folder with annotations, if another is the only one with pictures."""
    annotated, pictures = (_with(has, folders) for has in (_has_annotations, _has_pictures))
    alone = len(annotated) == len(pictures) == 1 and annotated != pictures
    return annotated[0] if alone else None


def _with(has: Callable[[Path], bool], folders: dict[str, Path]) -> list[Path]:
    """The folders for which `has` holds, or for one of their subfolders."""
    return [
        folder
        for folder in folders.values()
        if has(folder) or any(map(has, _folders(folder).values()))
    ]


def _has_annotations(path: Path) -> bool:
    return next(path.glob(_XML), None) is not None


def _has_pictures(path: Path) -> bool:
    return any(child.suffix.lower() in EXTENSIONS for child in path.iterdir())


def _folders(path: Path) -> dict[str, Path]:
    """The visible subfolders by their lower-case names."""
    return {
        child.name.lower(): child
        for child in sorted(path.iterdir(), reverse=True)
        if child.is_dir() and not child.name.startswith(".")
    }
