"""Folders of VOC annotations as VOC and labelling tools lay them out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data.picture_files import EXTENSIONS

_XML = "*.[xX][mM][lL]"
_PICTURE_FOLDERS = ("jpegimages", "images")


@dataclass(frozen=True)
class VocFolder:
    """Annotations and their pictures, with lists or without."""

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

    A folder is one if it has lists in ImageSets/Main, XML files in Annotations, or XML files of its
    own; then the pictures are in JPEGImages, in images, or beside the XML files.
    """
    level = [root]
    for _ in range(3):
        found = [folder for path in level if (folder := _voc_folder(path))]
        names = [folder.name for folder in found]
        if len(set(names)) < len(names):
            return [
                replace(folder, name="-".join(path.relative_to(root).parts))
                for path in level
                if (folder := _voc_folder(path))
            ]
        if found:
            return found
        level = sorted(child for path in level for child in _folders(path).values())
    return []


def _voc_folder(path: Path) -> VocFolder | None:
    folders = _folders(path)
    image_sets = folders.get("imagesets", path / "ImageSets") / "Main"
    annotations = folders.get("annotations", path / "Annotations")
    if next(annotations.rglob(_XML), None) is None:
        if next(path.glob(_XML), None) is not None:
            annotations = path
        elif next(image_sets.glob("*.txt"), None) is None:
            return None
    found = [folders[name] for name in _PICTURE_FOLDERS if name in folders]
    if found:
        pictures = found[0]
    else:
        pictures = path if annotations == path or _has_pictures(path) else annotations
    return VocFolder(path.resolve().name, annotations, pictures, image_sets)


def _has_pictures(path: Path) -> bool:
    return any(child.suffix.lower() in EXTENSIONS for child in path.iterdir())


def _folders(path: Path) -> dict[str, Path]:
    """The visible folders in a folder by their lower-case names."""
    return {
        child.name.lower(): child
        for child in sorted(path.iterdir(), reverse=True)
        if child.is_dir() and not child.name.startswith(".")
    }
