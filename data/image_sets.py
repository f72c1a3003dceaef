"""Finding the image lists of a VOC root and deciding which pictures go to which split.

Only `ImageSets/Main` counts: the folders of VOC2012 hold thousands of pictures outside it that are
annotated for people only, and copies of VOC2007 test pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.errors import DataError
from data.splits import SPLITS
from data.voc import Annotation, read_image_set

# The "07+12" of the SSD paper. Of the names in a group the first that exists is taken: the second
# spelling of the test list is SSD.TensorFlow's folder layout.
_DEFAULT_LISTS = {
    "train": (("VOC2007/trainval",), ("VOC2012/trainval",)),
    "eval": (),
    "test": (("VOC2007/test", "VOC2007TEST/test"),),
}


class Picture(NamedTuple):
    """One entry of a list: where its files have to be, and the split it was listed for.

    A conversion holds all of them, so paths are put together where they are used.
    """

    source_id: str  # such as VOC2007/000012; ends in the picture's name
    split: str
    folder: str  # of the VOC year, or of COCO's pictures
    annotation: Annotation | None = None  # None of VOC, where it is a file to be read
    problems: tuple[str, ...] = ()  # found when the annotation was read

    @property
    def jpeg_path(self) -> Path:
        """Where the picture has to be."""
        if self.annotation:
            return Path(self.folder, self._name)
        return Path(self.folder, "JPEGImages", f"{self._name}.jpg")

    @property
    def annotation_path(self) -> Path:
        """Where the annotation of VOC has to be."""
        return Path(self.folder, "Annotations", f"{self._name}.xml")

    @property
    def _name(self) -> str:
        return self.source_id.partition("/")[2]


@dataclass(frozen=True)
class Selection:
    """The lists taken for each split, their pictures, and what a user should know about both."""

    lists: Mapping[str, tuple[str, ...]]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]


def select(
    voc_root: Path,
    *,
    train: Sequence[str] = (),
    eval: Sequence[str] = (),
    test: Sequence[str] = (),
) -> Selection:
    """Reads the lists of each split; where none are named, the paper's 07+12 as far as it exists.

    A picture that several lists of a split name is taken once.

    Args:
        voc_root: a VOCdevkit or the folder above it.
        train: lists such as `VOC2007/trainval`.
        eval: likewise.
        test: likewise.

    Raises:
        DataError: no VOC data found, a named list is missing, or a list names no picture.
    """
    devkit = _find_devkit(voc_root)
    found = _find_lists(devkit)
    named = {"train": tuple(train), "eval": tuple(eval), "test": tuple(test)}
    notes = [f"found in {devkit}: {_describe(found)}"]
    lists = {}
    for split in SPLITS:
        lists[split] = named[split] or _defaults(split, found, notes)
        for name in lists[split]:
            if name not in found:
                raise DataError(
                    f"--{split} {name}: {devkit} has no such list. It has: {_describe(found)}"
                )
    if not lists["train"]:
        raise DataError(
            f"{devkit}: nothing to train on: neither VOC2007/trainval nor VOC2012/trainval. It "
            f"has: {_describe(found)}. Name a list, such as --train VOC2007/train"
        )
    pictures = []
    for split in SPLITS:
        listed = (picture for name in lists[split] for picture in _pictures(devkit, split, name))
        pictures += {picture.source_id: picture for picture in listed}.values()
    return Selection(lists, tuple(pictures), tuple(notes))


def _find_devkit(voc_root: Path) -> Path:
    if not voc_root.is_dir():
        raise DataError(f"{voc_root}: no such folder. Give the folder that holds VOCdevkit")
    if (voc_root / "ImageSets" / "Main").is_dir():
        raise DataError(
            f"{voc_root}: this is the folder of one VOC year. Give the folder above it, "
            f"{voc_root.resolve().parent}"
        )
    for devkit in (voc_root, voc_root / "VOCdevkit"):
        if any(devkit.glob("*/ImageSets/Main/*.txt")):
            return devkit
    raise DataError(
        f"{voc_root}: no VOC data: no folder YEAR/ImageSets/Main with lists in it, nor in "
        "VOCdevkit. Unpack VOCtrainval_06-Nov-2007.tar and the other archives there; pictures of "
        "your own need lists of their ids, such as VOC2007/ImageSets/Main/train.txt"
    )


def _find_lists(devkit: Path) -> dict[str, Path]:
    paths = sorted(devkit.glob("*/ImageSets/Main/*.txt"))
    return {f"{path.parents[2].name}/{path.stem}": path for path in paths}


def _defaults(split: str, found: Mapping[str, Path], notes: list[str]) -> tuple[str, ...]:
    chosen = []
    for names in _DEFAULT_LISTS[split]:
        existing = [name for name in names if name in found]
        chosen += existing[:1]
        if not existing:
            notes.append(f"{split}: there is no {names[0]}, going on without it")
    return tuple(chosen)


def _pictures(devkit: Path, split: str, name: str) -> Iterator[Picture]:
    year, _, stem = name.partition("/")
    path = devkit / year / "ImageSets" / "Main" / f"{stem}.txt"
    ids = read_image_set(path)
    if not ids:
        raise DataError(f"{path}: the list is empty, so {split} gets no picture from it")
    folder = str(devkit / year)
    for image_id in ids:
        yield Picture(f"{year}/{image_id}", split, folder)


def _describe(found: Mapping[str, Path]) -> str:
    """Names the lists of all pictures; the lists of one class (dog_train) would bury them."""
    stems = {path.stem for path in found.values()}
    return ", ".join(
        name
        for name, path in found.items()
        if "_" not in path.stem or path.stem.rpartition("_")[2] not in stems
    )
