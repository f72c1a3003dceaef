"""The Beam pipeline that turns annotated pictures into shuffled, sharded, compressed TFRecords.

All workers read the pictures' locations from one file (`data.picture_index`) and exchange only
numbers and hashes, packed into tables, so memory hardly grows with the data. A picture is read
twice: to check it, and by the worker that writes its shard.
"""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from data import assignment
from data.assignment import KEEP_ORDER, TABLE, TABLE_WITH_LOOKS
from data.errors import DataError
from data.image_sets import Picture
from data.looks import LOOK_BYTES, look_of
from data.options import FAIL, SKIP_OBJECT, ConversionOptions
from data.picture_index import PictureIndex, write_index
from data.problems import Problem
from data.progress import Marks
from data.record_builder import build_example
from data.report import Count, SplitCount, count_split
from data.settled import Settled, settle
from data.splits import SPLITS

# A shard of VOC pictures has about 50 MB.
_PICTURES_PER_SHARD = 500

# Pictures checked together: enough to hide Beam's overhead, few enough to keep all workers busy.
_PICTURES_PER_TABLE = 50

# Counts over all pictures: (what, which) to number.
Facts = Counter[tuple[str, str]]
CHANGES, CLASSES, STARTS, GROUPS = "changes", "classes", "starts", "groups"


@dataclass(frozen=True)
class Plan:
    """What every worker needs to know."""

    folder: Path  # where to write; its split folders exist
    marks: Path  # folder for progress marks
    classes: tuple[str, ...]
    options: ConversionOptions
    eval_fraction: float  # of the train pictures, held out for eval
    shares: tuple[float, ...] | None  # of the splits, if content decides
    seed: int
    shards: Mapping[str, int]  # by split
    only_check: bool = False  # it is already known that nothing will be written

    @property
    def strict(self) -> bool:
        """Whether nothing is written if any picture or object is unusable."""
        return self.options.on_error == FAIL


class Checked(NamedTuple):
    """Hashes and split of a usable picture.

    The look is None if the picture has none, or if no split depends on it.
    """

    sha256: str
    split: str
    look: bytes | None = None


@dataclass(frozen=True)
class Rejected:
    """A picture that is left out, or written without some objects, and why."""

    source_id: str
    split: str
    problems: tuple[Problem, ...]
    kept: bool = False  # the picture is written


@dataclass(frozen=True)
class Result:
    """What the pipeline rejected, what it wrote to each split, and what it counted."""

    rejected: tuple[Rejected, ...]
    written: Mapping[str, SplitCount]
    facts: Facts


def run(pictures: Sequence[Picture], plan: Plan, beam_options: Sequence[str]) -> Result:
    """Checks all pictures, then writes those that passed; with `plan.strict`, all or nothing."""
    write_index(pictures, plan.marks)
    starts = range(0, len(pictures), _PICTURES_PER_TABLE)
    tables = [(start, min(start + _PICTURES_PER_TABLE, len(pictures))) for start in starts]
    paths = {name: plan.marks / f"{name}.jsonl" for name in ("rejected", "written", "facts")}
    options = PipelineOptions(list(beam_options))
    with beam.Pipeline(options=options) as pipeline:
        checked, rejected, facts = (
            pipeline
            | "Pictures" >> beam.Create(tables)
            | "Check" >> beam.ParDo(_Check(plan)).with_outputs("rejected", "facts", main="ok")
        )
        shards, leaked, groups = (
            checked
            | "AllPictures" >> beam.combiners.ToList()
            | "Assign"
            >> beam.ParDo(_Assign(plan, len(pictures))).with_outputs("leaked", "facts", main="ok")
        )
        written = shards | "Spread" >> beam.Reshuffle() | "Write" >> beam.ParDo(_WriteShard(plan))
        rejected = (rejected, leaked) | "AllRejected" >> beam.Flatten()
        facts = (facts, groups) | "AllFacts" >> beam.Flatten()
        rows = {
            "rejected": rejected | "RejectedRow" >> beam.Map(_rejected_row),
            "written": written | "WrittenRow" >> beam.MapTuple(_written_row),
            "facts": facts | "FactsRow" >> beam.Map(_facts_row),
        }
        for name, path in paths.items():
            _ = rows[name] | f"Save {name}" >> beam.io.WriteToText(
                str(path), shard_name_template=""
            )
    return _read_result(**paths)


def shard_numbers(
    pictures: Iterable[Picture], eval_fraction: float, shares: Sequence[float] | None
) -> dict[str, int]:
    """The number of shards of each split, from the lengths of the lists."""
    listed = Counter(picture.split for picture in pictures)
    if shares:
        expected = {
            split: listed.total() * share for split, share in zip(SPLITS, shares, strict=True)
        }
    else:
        held_out = round(listed["train"] * eval_fraction)
        expected = {split: listed[split] for split in SPLITS}
        expected["train"] -= held_out
        expected["eval"] += held_out
    return {split: max(1, round(count / _PICTURES_PER_SHARD)) for split, count in expected.items()}


def check_picture(
    picture: Picture, plan: Plan, class_ids: Mapping[str, int], facts: Facts
) -> tuple[Checked | None, Rejected | None]:
    """Reads and checks a picture, and adds what it finds to `facts`.

    Returns:
      Its row if it is usable, and its problems if it has any; it may be kept without some objects.
    """
    settled = settle(picture, plan.options, class_ids)
    _count(settled, picture, plan.options, facts)
    problems = list(settled.problems)
    usable = settled.annotation is not None
    look = None
    if usable and plan.shares:
        try:
            look = look_of(settled.jpeg)
        except DataError as error:
            problems.append(Problem("damaged", f"{picture.source_id}: {error}"))
            usable = False
    if problems and not (plan.options.on_error == SKIP_OBJECT and usable):
        return None, Rejected(picture.source_id, picture.split, tuple(problems))
    facts.update((CHANGES, change) for change in settled.changes)
    sha256 = hashlib.sha256(settled.jpeg).hexdigest()
    held_out = picture.split == "train" and _uniform("eval", sha256) < plan.eval_fraction
    split = "eval" if held_out else picture.split
    without = Rejected(picture.source_id, split, tuple(problems), kept=True) if problems else None
    return Checked(sha256, split, look), without


def _count(settled: Settled, picture: Picture, options: ConversionOptions, facts: Facts) -> None:
    """Counts what shows how a whole data set's files are meant: classes, first pixels."""
    facts.update((CLASSES, item.name) for item in settled.found)
    if picture.annotation is None:
        first = options.pixels_from
        for item in settled.found:
            start = min(item.box_px[:2]) - (1 - first)
            if 0 <= start < 1 or start == 1:
                facts[STARTS, f"{start:.0f}" if start == 1 else "0"] += 1


class _PictureFn(beam.DoFn):
    """Looks pictures up by number and marks each one done."""

    stage: str

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        self._pictures = PictureIndex(self._plan.marks)
        self._class_ids = {name: number for number, name in enumerate(self._plan.classes, start=1)}
        self._marks = Marks(self._plan.marks, self.stage)

    def teardown(self) -> None:
        self._pictures.close()
        self._marks.close()


class _Check(_PictureFn):
    """Checks a range of pictures and yields a table of the good ones."""

    stage = "check"

    def process(self, numbers: tuple[int, int]) -> Iterator[Any]:
        rows = []
        facts: Facts = Counter()
        for number in range(*numbers):
            picture = self._pictures[number]
            checked, rejected = check_picture(picture, self._plan, self._class_ids, facts)
            self._marks.add()
            if rejected:
                yield beam.pvalue.TaggedOutput("rejected", rejected)
            if checked is None:
                continue
            sha256, split, look = checked
            place = int(_digest("shuffle", self._plan.seed, sha256, picture.source_id)[:16], 16)
            split_index = KEEP_ORDER.index(split) if split else 0
            row: tuple = (number, split_index, bytes.fromhex(sha256)[:16], place)
            if self._plan.shares:
                row = (*row, np.frombuffer(look or bytes(LOOK_BYTES), np.uint8))
            rows.append(row)
        yield np.array(rows, TABLE_WITH_LOOKS if self._plan.shares else TABLE).tobytes()
        yield beam.pvalue.TaggedOutput("facts", facts)


class _Assign(beam.DoFn):
    """Takes all tables at once; yields shards as (split, number, uint32 picture numbers)."""

    def __init__(self, plan: Plan, pictures: int) -> None:
        self._plan = plan
        self._count = pictures

    def process(self, tables: list[bytes]) -> Iterator[Any]:
        shares = self._plan.shares
        table = np.frombuffer(b"".join(tables), TABLE_WITH_LOOKS if shares else TABLE)
        if shares:
            table = table.copy()
            groups = assignment.split_by_content(table, shares)
            sizes = np.unique(groups, return_counts=True)[1]
            several = sizes[sizes > 1]
            counts = {"all": len(sizes), "of several": len(several), "pictures": several.sum()}
            facts = Counter({(GROUPS, name): int(count) for name, count in counts.items()})
            yield beam.pvalue.TaggedOutput("facts", facts)
        leaked: list[int] = []
        with closing(PictureIndex(self._plan.marks)) as pictures:
            for same, leaking in assignment.leaks(table):
                split = KEEP_ORDER[table["split"][same[0]]]
                first = min(pictures[number].source_id for number in table["number"][same])
                for row in table[leaking]:
                    leak = _leak(pictures[row["number"]], KEEP_ORDER[row["split"]], split, first)
                    yield beam.pvalue.TaggedOutput("leaked", leak)
                leaked.extend(leaking)
        kept = np.delete(table, leaked)
        if self._plan.only_check or (self._plan.strict and len(kept) < self._count):
            return
        for split, number, numbers in assignment.shards(kept, self._plan.shards):
            yield split, number, numbers.tobytes()


def _leak(picture: Picture, split: str, other_split: str, other: str) -> Rejected:
    text = f"{picture.source_id}: listed for {split}, but {other_split} has it too, as {other}"
    return Rejected(picture.source_id, picture.split, (Problem("leak", text),))


class _WriteShard(_PictureFn):
    """Writes one shard and yields its split and its counts."""

    stage = "write"

    def process(self, shard: tuple[str, int, bytes]) -> Iterator[tuple[str, SplitCount]]:
        split, number, numbers = shard
        name = f"{split}-{number:05d}-of-{self._plan.shards[split]:05d}.tfrecord.gz"
        # Several workers may write the same shard; the bytes are the same, whichever ends last.
        temporary = self._plan.marks / f"{name}.{uuid.uuid4().hex}"
        # JPEGs hardly compress, so the fastest level loses nothing.
        options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
        objects = []
        with tf.io.TFRecordWriter(str(temporary), options) as writer:
            for picture in map(self._pictures.__getitem__, np.frombuffer(numbers, np.uint32)):
                settled = settle(picture, self._plan.options, self._class_ids)
                annotation, header = settled.annotation, settled.header
                assert annotation and header, "only pictures that passed the check get here"
                objects.append([(item.name, item.difficult) for item in annotation.objects])
                example = build_example(
                    annotation,
                    settled.jpeg,
                    header,
                    filename=settled.filename,
                    source_id=picture.source_id,
                    class_ids=self._class_ids,
                )
                writer.write(example.SerializeToString(deterministic=True))
                self._marks.add()
        temporary.rename(self._plan.folder / split / name)
        yield split, count_split(objects)


def _uniform(*parts: object) -> float:
    """A number in [0, 1) that depends only on the parts."""
    return int(_digest(*parts)[:13], 16) / 16**13


def _digest(*parts: object) -> str:
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()


def _rejected_row(rejected: Rejected) -> str:
    return json.dumps([rejected.source_id, rejected.split, rejected.problems, rejected.kept])


def _written_row(split: str, count: SplitCount) -> str:
    return json.dumps([split, asdict(count)])


def _facts_row(facts: Facts) -> str:
    return json.dumps([[*key, count] for key, count in facts.items()])


def _rows(path: Path) -> Iterator[list]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _read_result(rejected: Path, written: Path, facts: Path) -> Result:
    rejections = [
        Rejected(source_id, split, tuple(Problem(*problem) for problem in problems), kept)
        for source_id, split, problems, kept in _rows(rejected)
    ]
    counts: dict[str, SplitCount] = {}
    for split, count in _rows(written):
        classes = {name: Count(**of_class) for name, of_class in count["classes"].items()}
        shard = SplitCount(Count(**count["total"]), classes)
        counts[split] = counts[split] + shard if split in counts else shard
    counted: Facts = Counter()
    for row in _rows(facts):
        for what, which, count in row:
            counted[what, which] += count
    return Result(
        tuple(sorted(rejections, key=lambda item: (item.source_id, item.split))),
        {split: counts[split] for split in SPLITS if split in counts},
        counted,
    )
