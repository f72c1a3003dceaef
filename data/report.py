"""The count report of a conversion: pictures and objects per split and class."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich import box
from rich.table import Table

# In the folder of the records.
REPORT_FILE = "report.json"


@dataclass(frozen=True)
class Count:
    """Pictures, objects that are not difficult, and difficult objects."""

    images: int = 0
    objects: int = 0
    difficult: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.images + other.images,
            self.objects + other.objects,
            self.difficult + other.difficult,
        )


@dataclass(frozen=True)
class SplitCount:
    """What was written to one split; a class counts each picture that shows it once."""

    total: Count
    classes: Mapping[str, Count]

    def __add__(self, other: "SplitCount") -> "SplitCount":
        names = sorted({*self.classes, *other.classes})
        return SplitCount(
            self.total + other.total,
            {
                name: self.classes.get(name, Count()) + other.classes.get(name, Count())
                for name in names
            },
        )


@dataclass(frozen=True)
class Report:
    """What a conversion read and wrote; `pictures` = written in all splits + `rejected`.

    `data_set` is the name of the converted folder. `settled` counts changes to pictures and
    annotations; `left_out` counts rejected pictures and objects by kind of problem, in words in
    `summary`; `groups` counts pictures that look the same, if a split by content keeps them
    together.
    """

    data_set: str
    lists: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    pictures: int
    rejected: int
    splits: Mapping[str, SplitCount]
    settled: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    summary: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Writes the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def lines(self) -> list[str]:
        """Changes to pictures and annotations, and what was left out, for the terminal."""
        settled = [f"settled: {what}: {count:,}" for what, count in self.settled.items()]
        if not self.left_out:
            return settled
        heading = f"{self.rejected:,} of {self.pictures:,} pictures were left out"
        if self.rejected < sum(self.left_out.values()):
            heading = f"left out: {self.rejected:,} of {self.pictures:,} pictures, and bad objects"
        return [*settled, heading, *self.summary]

    def table(self) -> Table:
        """Lays out pictures and objects per class and split for the terminal."""
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            caption="objects + difficult objects",
            caption_justify="right",
        )
        table.add_column("class")
        for split in self.splits:
            table.add_column(f"{split}\nimages", justify="right")
            table.add_column("\nobjects", justify="right")
        names = sorted({name for split in self.splits.values() for name in split.classes})
        for name in names:
            counts = [split.classes.get(name, Count()) for split in self.splits.values()]
            table.add_row(name, *_cells(counts))
        table.add_section()
        table.add_row("all", *_cells([split.total for split in self.splits.values()]))
        return table


def count_split(pictures: Iterable[Iterable[tuple[str, bool]]]) -> SplitCount:
    """Counts (part of) a split from the (class, difficult) pairs of each picture."""
    total = Count()
    classes: dict[str, Count] = {}
    for objects in pictures:
        found: dict[str, Count] = {}
        for name, difficult in objects:
            one = Count(0, int(not difficult), int(difficult))
            found[name] = found.get(name, Count(images=1)) + one
        for name, count in found.items():
            classes[name] = classes.get(name, Count()) + count
        whole = sum(found.values(), Count())
        total += Count(1, whole.objects, whole.difficult)
    return SplitCount(total, dict(sorted(classes.items())))


def _cells(counts: Iterable[Count]) -> list[str]:
    return [
        cell
        for count in counts
        for cell in (f"{count.images:,}", f"{count.objects:,} + {count.difficult:,}")
    ]
