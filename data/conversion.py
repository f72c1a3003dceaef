"""The Beam pipeline that turns annotated pictures into shuffled, sharded, compressed TFRecords.

Where a picture lies is in a file that all workers read (`data.picture_index`); between them travel
its number and its hashes, packed into tables, so memory hardly grows with the data. What lies there
is read once to check it and once more by the worker that writes the shard.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from data import assignment
from data.assignment import KEEP_ORDER, TABLE
from data.errors import DataError
from data.image_sets import SPLITS, Picture
from data.jpeg import read_header
from data.picture_index import PictureIndex, write_index
from data.progress import Marks
from data.record_builder import build_example, find_problems, find_voc_box_problems
from data.report import Count, SplitCount, count_split
from data.voc import Annotation, read_annotation

# About 50 MB of VOC pictures a shard.
_PICTURES_PER_SHARD = 500

# Checked together: so many that what Beam adds does not count, so few that all workers get some.
_PICTURES_PER_TABLE = 50

# Of pictures that are not found as .jpg; "" of one that was listed with its extension.
_OTHER_EXTENSIONS = (".JPG", ".jpeg", ".JPEG", ".png", ".PNG", "")


@dataclass(frozen=True)
class Plan:
    """What every worker has to know."""

    folder: Path  # where to write; the split folders exist
    marks: Path  # folder of the progress marks
    classes: tuple[str, ...]
    eval_fraction: float  # of the train pictures, held out for eval
    strict: bool  # write nothing if any picture is rejected
    seed: int
    shards: Mapping[str, int]  # by split


class Checked(NamedTuple):
    """Of a picture that can be written: the hash of its bytes and the split that it goes to."""

    sha256: str
    split: str


@dataclass(frozen=True)
class Rejected:
    """A picture that cannot be written, and why."""

    source_id: str
    split: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What the pipeline did: the rejected pictures, and by split what was written."""

    rejected: tuple[Rejected, ...]
    written: Mapping[str, SplitCount]


def run(pictures: Sequence[Picture], plan: Plan, beam_options: Sequence[str]) -> Result:
    """Checks all pictures, then writes those that passed; with `plan.strict`, all or none."""
    write_index(pictures, plan.marks)
    starts = range(0, len(pictures), _PICTURES_PER_TABLE)
    tables = [(start, min(start + _PICTURES_PER_TABLE, len(pictures))) for start in starts]
    rejected_path, written_path = plan.marks / "rejected.jsonl", plan.marks / "written.jsonl"
    options = PipelineOptions(list(beam_options))
    with beam.Pipeline(options=options) as pipeline:
        checked, rejected = (
            pipeline
            | "Pictures" >> beam.Create(tables)
            | "Check" >> beam.ParDo(_Check(plan)).with_outputs("rejected", main="ok")
        )
        shards, leaked = (
            checked
            | "AllPictures" >> beam.combiners.ToList()
            | "Assign" >> beam.ParDo(_Assign(plan, len(pictures))).with_outputs("leaked", main="ok")
        )
        written = shards | "Spread" >> beam.Reshuffle() | "Write" >> beam.ParDo(_WriteShard(plan))
        for name, rows, path in (
            (
                "Rejected",
                (rejected, leaked)
                | "AllRejected" >> beam.Flatten()
                | "RejectedRow" >> beam.Map(_rejected_row),
                rejected_path,
            ),
            ("Written", written | "WrittenRow" >> beam.MapTuple(_written_row), written_path),
        ):
            _ = rows | f"Save{name}" >> beam.io.WriteToText(str(path), shard_name_template="")
    return _read_result(rejected_path, written_path)


def shard_numbers(pictures: Iterable[Picture], eval_fraction: float) -> dict[str, int]:
    """Says how many shards each split gets, from the lengths of the lists."""
    listed = dict.fromkeys(SPLITS, 0)
    for picture in pictures:
        listed[picture.split] += 1
    held_out = round(listed["train"] * eval_fraction)
    expected = {
        **listed,
        "train": listed["train"] - held_out,
        "eval": listed["eval"] + held_out,
    }
    return {split: max(1, round(count / _PICTURES_PER_SHARD)) for split, count in expected.items()}


def check_picture(picture: Picture, plan: Plan) -> Checked | Rejected:
    """Reads annotation and JPEG and collects everything that is wrong with them."""
    problems = list(picture.problems)
    annotation, header = None, None
    jpeg = b""
    try:
        annotation = _annotation(picture)
    except DataError as error:
        problems.append(str(error))
    try:
        jpeg = picture.jpeg_path.read_bytes()
        header = read_header(jpeg)
    except OSError as error:
        problems.append(
            f"{picture.jpeg_path}: cannot read the picture ({error.strerror}). "
            f"{_nearby(picture.jpeg_path)}Copy it there, or take {picture.source_id} off the list"
        )
    except DataError as error:
        problems.append(f"{picture.jpeg_path}: {error}")
    if annotation and header:
        problems += find_problems(annotation, header, plan.classes)
        if not picture.annotation:
            problems += find_voc_box_problems(annotation, header)
    if problems:
        return Rejected(picture.source_id, picture.split, tuple(problems))
    sha256 = hashlib.sha256(jpeg).hexdigest()
    held_out = picture.split == "train" and _uniform("eval", sha256) < plan.eval_fraction
    return Checked(sha256, "eval" if held_out else picture.split)


def _nearby(missing: Path) -> str:
    """Says so where a picture has another extension, or was listed with it."""
    for extension in _OTHER_EXTENSIONS:
        found = missing.with_suffix(extension)
        if found.is_file():
            return (
                f"There is {found.name}: ids are listed without extension, and the pictures are "
                "JPEGs that end in .jpg. "
            )
    return ""


def _annotation(picture: Picture) -> Annotation:
    return picture.annotation or read_annotation(picture.annotation_path)


class _PictureFn(beam.DoFn):
    """Looks pictures up by number and marks each that is done."""

    stage: str

    def __init__(self, plan: Plan):
        self._plan = plan

    def setup(self):
        self._pictures = PictureIndex(self._plan.marks)
        self._marks = Marks(self._plan.marks, self.stage)

    def teardown(self):
        self._pictures.close()
        self._marks.close()


class _Check(_PictureFn):
    """Checks the pictures from one number to another and yields a table of the good ones."""

    stage = "check"

    def process(self, numbers: tuple[int, int]):
        rows = []
        for number in range(*numbers):
            picture = self._pictures[number]
            outcome = check_picture(picture, self._plan)
            self._marks.add()
            if isinstance(outcome, Rejected):
                yield beam.pvalue.TaggedOutput("rejected", outcome)
                continue
            sha256, split = outcome
            place = int(_digest("shuffle", self._plan.seed, sha256, picture.source_id)[:16], 16)
            rows.append((number, KEEP_ORDER.index(split), bytes.fromhex(sha256)[:16], place))
        yield np.array(rows, TABLE).tobytes()


class _Assign(beam.DoFn):
    """Takes all tables at once; yields shards as (split, number, uint32 numbers of pictures)."""

    def __init__(self, plan: Plan, pictures: int):
        self._plan = plan
        self._count = pictures

    def process(self, tables: list[bytes]):
        table = np.frombuffer(b"".join(tables), TABLE)
        leaked = []
        with closing(PictureIndex(self._plan.marks)) as pictures:
            for same, leaking in assignment.leaks(table):
                split = KEEP_ORDER[table["split"][same[0]]]
                first = min(pictures[number].source_id for number in table["number"][same])
                for row in table[leaking]:
                    leak = _leak(pictures[row["number"]], KEEP_ORDER[row["split"]], split, first)
                    yield beam.pvalue.TaggedOutput("leaked", leak)
                leaked.extend(leaking)
        kept = np.delete(table, leaked)
        if self._plan.strict and len(kept) < self._count:
            return
        for split, number, numbers in assignment.shards(kept, self._plan.shards):
            yield split, number, numbers.tobytes()


def _leak(picture: Picture, split: str, other_split: str, other: str) -> Rejected:
    problem = (
        f"{picture.jpeg_path}: is for {split}, but {other_split} has the same picture as {other} "
        "and has to measure on unseen ones. Take it off one of the lists"
    )
    return Rejected(picture.source_id, picture.split, (problem,))


class _WriteShard(_PictureFn):
    """Writes one shard and yields its split and what it holds."""

    stage = "write"

    def __init__(self, plan: Plan):
        super().__init__(plan)
        self._class_ids = {name: number for number, name in enumerate(plan.classes, start=1)}

    def process(self, shard: tuple[str, int, bytes]):
        split, number, numbers = shard
        name = f"{split}-{number:05d}-of-{self._plan.shards[split]:05d}.tfrecord.gz"
        # Several workers may try the same shard; whichever finishes puts the same bytes there.
        temporary = self._plan.marks / f"{name}.{uuid.uuid4().hex}"
        # JPEGs hardly compress, so the cheapest level loses nothing.
        options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
        objects = []
        with tf.io.TFRecordWriter(str(temporary), options) as writer:
            for picture in map(self._pictures.__getitem__, np.frombuffer(numbers, np.uint32)):
                annotation, jpeg_path = _annotation(picture), picture.jpeg_path
                objects.append([(found.name, found.difficult) for found in annotation.objects])
                example = build_example(
                    annotation,
                    jpeg_path.read_bytes(),
                    filename=jpeg_path.name,
                    source_id=picture.source_id,
                    class_ids=self._class_ids,
                )
                writer.write(example.SerializeToString(deterministic=True))
                self._marks.add()
        temporary.rename(self._plan.folder / split / name)
        yield split, count_split(objects)


def _uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but the parts."""
    return int(_digest(*parts)[:13], 16) / 16**13


def _digest(*parts: object) -> str:
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()


def _rejected_row(rejected: Rejected) -> str:
    return json.dumps([rejected.source_id, rejected.split, rejected.problems])


def _written_row(split: str, count: SplitCount) -> str:
    return json.dumps([split, asdict(count)])


def _read_result(rejected_path: Path, written_path: Path) -> Result:
    rejected = [
        Rejected(source_id, split, tuple(problems))
        for source_id, split, problems in map(json.loads, rejected_path.open(encoding="utf-8"))
    ]
    written: dict[str, SplitCount] = {}
    for split, count in map(json.loads, written_path.open(encoding="utf-8")):
        classes = {name: Count(**of_class) for name, of_class in count["classes"].items()}
        shard = SplitCount(Count(**count["total"]), classes)
        written[split] = written[split] + shard if split in written else shard
    return Result(
        tuple(sorted(rejected, key=lambda item: (item.source_id, item.split))),
        {split: written[split] for split in SPLITS if split in written},
    )
