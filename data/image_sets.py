"""Decides which pictures of a VOC root go to which split.

If there are lists in `ImageSets/Main`, only they count: VOC2012's folders also hold thousands of
pictures with only people annotated, and copies of VOC2007 test pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.errors import DataError
from data.options import DEFAULT_SPLIT, ConversionOptions, shares_of
from data.picture_files import find_file
from data.problems import Problem
from data.splits import SPLITS
from data.voc import Annotation, read_image_set
from data.voc_folders import VocFolder, find_voc_folders

# The SSD paper's "07+12". The first test list that exists is used: the second is in
# SSD.TensorFlow's folder layout.
_PAPERS_TRAIN = ("VOC2007/trainval", "VOC2012/trainval")
_PAPERS_TEST = ("VOC2007/test", "VOC2007TEST/test")
# Names that tools give the lists or folders of a split.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "eval": ("val", "valid", "validation", "eval", "dev"),
    "test": ("test", "testing"),
}
_TRAIN_AND_EVAL = "trainval"
_MOST_NAMES = 6


class Picture(NamedTuple):
    """One entry of a list: where its files should be, and the split it is listed for.

    A conversion holds all of them in memory, so paths are only built when used.
    """

    source_id: str  # such as VOC2007/000012; ends in the picture's name
    split: str  # empty if the content decides
    folder: str  # of the pictures
    annotations: str = ""  # folder of VOC's annotations
    annotation: Annotation | None = None  # None for VOC, whose file is read later

    @property
    def name(self) -> str:
        """VOC's id, or the path of COCO's file."""
        return self.source_id.partition("/")[2]

    @property
    def annotation_path(self) -> Path:
        """Where the VOC annotation is, or should be."""
        file = f"{self.name}.xml"
        path = Path(self.annotations, file)
        # It nearly always exists, and `find_file` would cost twice as much.
        return path if path.is_file() else find_file(Path(self.annotations), file) or path


@dataclass(frozen=True)
class Selection:
    """The lists used for each split, their pictures, and notes for the user on both.

    `data_set` is the name of the folder that contains everything. `shares` of train, eval and test
    are set if the content of a picture decides its split. `loose` are problems without a picture.
    """

    data_set: str
    lists: Mapping[str, tuple[str, ...]]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    shares: tuple[float, ...] | None = None
    loose: tuple[Problem, ...] = ()


def select(voc_root: Path, options: ConversionOptions) -> Selection:
    """Reads the lists of each split, or all annotations if there are none.

    By default these are the paper's 07+12 as far as they exist, else lists or folders called train,
    val and test. A picture in several lists of a split is used once.

    Raises:
        DataError: no VOC data found, a named list is missing, or a list names no picture.
    """
    data_set = voc_root.resolve().name
    folders = find_folders(voc_root)
    found = {name: path for folder in folders for name, path in folder.lists().items()}
    named = {split: tuple(getattr(options, split)) for split in SPLITS}
    if options.shares and any(named.values()):
        raise DataError("--split applies to all pictures: leave out --train, --eval and --test")
    named = {
        split: tuple(_full_name(split, name, found, folders, voc_root) for name in names)
        for split, names in named.items()
    }
    notes = [f"found in {voc_root}: {_describe(found) or ', '.join(f.name for f in folders)}"]
    lists: dict[str, tuple[str, ...]] = dict.fromkeys(SPLITS, ())
    if not options.shares:
        lists = {**_default_lists(found, folders, notes), **{s: n for s, n in named.items() if n}}
        if any(lists.values()) and not lists["train"]:
            raise DataError(
                f"{voc_root}: nothing to train on: no list VOC2007/trainval, VOC2012/trainval "
                f"or train. It has: {_describe(found)}. Name a list, such as --train "
                f"{folders[0].name}/train, or split all pictures with --split 80/10/10"
            )
    by_name = {folder.name: folder for folder in folders}
    if lists["train"]:
        pictures: list[Picture] = []
        for split in SPLITS:
            listed = (p for name in lists[split] for p in _pictures(by_name, split, name, found))
            pictures += {picture.source_id: picture for picture in listed}.values()
        return Selection(data_set, lists, tuple(pictures), tuple(notes))
    every = [_picture(folder, "", image_id) for folder in folders for image_id in _ids(folder)]
    if not every:
        raise DataError(f"{voc_root}: no annotation (*.xml) in {folders[0].annotations}")
    shares = options.shares or shares_of(DEFAULT_SPLIT)
    return Selection(data_set, lists, tuple(every), tuple(notes), shares)


def find_folders(voc_root: Path) -> list[VocFolder]:
    """The VOC folders of a root; DataError if there are none."""
    if not voc_root.is_dir():
        raise DataError(f"{voc_root}: no such folder. Give the data set's folder")
    folders = find_voc_folders(voc_root)
    if not folders:
        raise DataError(
            f"{voc_root}: no VOC data: no XML files and no lists in YEAR/ImageSets/Main, nor in "
            "the folders below. Give a folder with one folder of XML files and one of pictures, "
            "or with pictures and XML files side by side; for VOC itself unpack "
            "VOCtrainval_06-Nov-2007.tar and the other archives there"
        )
    return folders


def split_of(name: str) -> str | None:
    """The split that tools mean by a list, file or folder of this name, if any."""
    return next((split for split, names in _SPLIT_NAMES.items() if name.lower() in names), None)


def _full_name(
    split: str, name: str, found: Mapping[str, Path], folders: Sequence[VocFolder], root: Path
) -> str:
    """The full name of a list that a user names; with a single folder its name may be left out."""
    for full in (name, f"{folders[0].name}/{name}"):
        if full in found or full in {folder.name for folder in folders}:
            return full
    has = _describe(found) or ", ".join(folder.name for folder in folders)
    raise DataError(f"--{split} {name}: {root} has no such list. It has: {has}")


def _default_lists(
    found: Mapping[str, Path], folders: Sequence[VocFolder], notes: list[str]
) -> dict[str, tuple[str, ...]]:
    """The lists of each split if none are named; empty if the content decides."""
    paper = tuple(name for name in _PAPERS_TRAIN if name in found)
    if paper:
        test = tuple(name for name in _PAPERS_TEST if name in found)[:1]
        missing = [("train", name) for name in _PAPERS_TRAIN if name not in paper]
        missing += [] if test else [("test", _PAPERS_TEST[0])]
        notes += [f"{split}: no {name}, continuing without it" for split, name in missing]
        return {"train": paper, "eval": (), "test": test}
    # Lists of the pictures, else folders named after a split.
    names = list(found) if any(_of_split(name) for name in found) else [f.name for f in folders]
    lists = {s: tuple(name for name in names if split_of(name.split("/")[-1]) == s) for s in SPLITS}
    if not (lists["train"] and lists["eval"]):
        both = tuple(name for name in names if name.endswith(f"/{_TRAIN_AND_EVAL}"))
        lists["train"] = both or lists["train"]
    if lists["train"] and lists["eval"] and not lists["test"]:
        notes.append(
            f"test: no list, so it gets {', '.join(lists['eval'])}, and eval is held out of train"
        )
        lists = {"train": lists["train"], "eval": (), "test": lists["eval"]}
    if found and not lists["train"] and not lists["test"]:
        notes.append("no list is named after a split")
    return lists


def _of_split(name: str) -> bool:
    stem = name.split("/")[-1]
    return bool(split_of(stem)) or stem == _TRAIN_AND_EVAL


def _pictures(
    folders: Mapping[str, VocFolder], split: str, name: str, found: Mapping[str, Path]
) -> Iterator[Picture]:
    """The pictures in a list, or in a whole folder."""
    if name not in found:
        folder = folders[name]
        ids = folder.annotated_ids()
    else:
        folder = folders[name.split("/")[0]]
        ids = _listed(folder, found[name])
        if not ids:
            raise DataError(
                f"{found[name]}: the list is empty, so {split} gets no pictures from it"
            )
    for image_id in ids:
        yield _picture(folder, split, image_id)


def _ids(folder: VocFolder) -> list[str]:
    """The ids in all lists of pictures, or of all annotated pictures if there are no lists."""
    lists = folder.lists()
    paths = [path for name, path in lists.items() if _of_split(name)]
    if not paths:
        return folder.annotated_ids()
    return sorted({image_id for path in paths for image_id in _listed(folder, path)})


def _listed(folder: VocFolder, path: Path) -> list[str]:
    return read_image_set(path, lambda name: bool(find_file(folder.annotations, f"{name}.xml")))


def _picture(folder: VocFolder, split: str, image_id: str) -> Picture:
    source_id = f"{folder.name}/{image_id}"
    return Picture(source_id, split, str(folder.pictures), str(folder.annotations))


def _describe(found: Mapping[str, Path]) -> str:
    """Names the first few lists, without those of one class (dog_train), which would bury the rest.

    VoTT's exports have only lists of one class, so these are named.
    """
    stems = {path.stem for path in found.values()}
    names = [
        name
        for name, path in found.items()
        if "_" not in path.stem or path.stem.rpartition("_")[2] not in stems
    ]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
