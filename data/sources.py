"""Finds, lists and converts a folder of annotated pictures, from any labelling tool."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data.beam_runner import IN_PROCESS
from data.coco import CocoSource
from data.coco_folders import find_coco_sources
from data.convert import convert, convert_coco
from data.options import DEFAULT_SPLIT, ConversionOptions
from data.picture_files import EXTENSIONS
from data.report import Report
from data.voc_folders import VocFolder, find_voc_folders


@dataclass(frozen=True)
class Source:
    """Annotated pictures in a folder: VOC's XML files, or else COCO's JSON files."""

    root: Path
    voc: tuple[VocFolder, ...] = ()
    coco: tuple[CocoSource, ...] = ()

    def files(self) -> Iterator[Path]:
        """Every file that a conversion may read, once."""
        yield from {file for folder in self.voc for file in folder.files()}
        yield from (source.annotations for source in self.coco)
        for folder in {source.images for source in self.coco}:
            yield from _pictures_in(folder)

    def last_picture(self) -> Path | None:
        """A picture to try a model on, if there is one.

        In VOC and in the sample, test pictures have the highest numbers.
        """
        folder = self.voc[-1].pictures if self.voc else self.coco[-1].images
        return max(_pictures_in(folder), default=None)

    def convert(
        self,
        output: Path,
        options: ConversionOptions,
        *,
        beam_options: Sequence[str] = IN_PROCESS,
        console: Console | None = None,
    ) -> Report:
        """Converts all of it; the splits come from lists, file names or the pictures' content.

        Raises:
            DataError: see `data.convert.convert`.
        """
        if self.voc:
            return convert(self.root, output, options, beam_options=beam_options, console=console)
        if not any(source.split for source in self.coco):
            options = dataclasses.replace(options, split=options.split or DEFAULT_SPLIT)
        return convert_coco(self.coco, output, options, beam_options=beam_options, console=console)


def _pictures_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)


def find_source(root: Path) -> Source | None:
    """The annotated pictures in a folder; None if there are none, as in a folder of TFRecords."""
    if voc := find_voc_folders(root):
        return Source(root, voc=tuple(voc))
    coco = find_coco_sources(root)
    return Source(root, coco=tuple(coco)) if coco else None
