"""The Beam pipeline that turns annotated pictures into shuffled, sharded, compressed TFRecords.

Only where a picture lies travels between the workers (of COCO its objects, too, which are in no
file of their own); what lies there is read once to check it and once more by the worker that writes
the shard, so memory hardly grows with the data.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from data.errors import DataError
from data.jpeg import read_header
from data.lists import SPLITS, Picture
from data.progress import Marks
from data.records import build_example, find_problems, find_voc_box_problems
from data.voc import Annotation, read_annotation

# About 50 MB of VOC pictures a shard.
_PICTURES_PER_SHARD = 500

# A picture found in several splits stays in the one whose result it would spoil.
_KEEP_ORDER = ("test", "eval", "train")


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
    """A picture that can be written, and the split that it goes to."""

    picture: Picture
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
    """What the pipeline did: rejected pictures, and (class, is difficult) of written objects."""

    rejected: tuple[Rejected, ...]
    written: Mapping[str, list[list[tuple[str, bool]]]]  # split -> picture -> object


def run(pictures: Sequence[Picture], plan: Plan, beam_options: Sequence[str]) -> Result:
    """Checks all pictures, then writes those that passed; with `plan.strict`, all or none."""
    rejected_path, written_path = plan.marks / "rejected.jsonl", plan.marks / "written.jsonl"
    options = PipelineOptions(list(beam_options))
    with beam.Pipeline(options=options) as pipeline:
        checked, rejected = (
            pipeline
            | "Pictures" >> beam.Create(pictures)
            | "Spread" >> beam.Reshuffle()
            | "Check" >> beam.ParDo(_Check(plan)).with_outputs("rejected", main="checked")
        )
        kept, leaked = (
            checked
            | "ByContent" >> beam.Map(lambda item: (item.sha256, item))
            | "SamePictures" >> beam.GroupByKey()
            | "KeepSplitsApart" >> beam.ParDo(_KeepSplitsApart()).with_outputs("leaked", main="ok")
        )
        all_rejected = (rejected, leaked) | "AllRejected" >> beam.Flatten()
        number_rejected = all_rejected | "NumberRejected" >> beam.combiners.Count.Globally()
        written = (
            kept
            | "ByShard" >> beam.Map(_with_shard, plan)
            | "Shards" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(_WriteShard(plan), beam.pvalue.AsSingleton(number_rejected))
        )
        for name, rows, path in (
            ("Rejected", all_rejected | "RejectedRow" >> beam.Map(_rejected_row), rejected_path),
            ("Written", written | "WrittenRow" >> beam.Map(json.dumps), written_path),
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
        jpeg = Path(picture.jpeg_path).read_bytes()
        header = read_header(jpeg)
    except OSError as error:
        problems.append(
            f"{picture.jpeg_path}: cannot read the picture ({error.strerror}). Copy it there, or "
            f"take {picture.source_id} off the list"
        )
    except DataError as error:
        problems.append(f"{picture.jpeg_path}: {error}")
    if annotation and header:
        problems += find_problems(annotation, header, plan.classes)
        if isinstance(picture.annotation, str):
            problems += find_voc_box_problems(annotation, header)
    if problems:
        return Rejected(picture.source_id, picture.split, tuple(problems))
    sha256 = hashlib.sha256(jpeg).hexdigest()
    held_out = picture.split == "train" and _uniform("eval", sha256) < plan.eval_fraction
    return Checked(picture, sha256, "eval" if held_out else picture.split)


def _annotation(picture: Picture) -> Annotation:
    if isinstance(picture.annotation, Annotation):
        return picture.annotation
    return read_annotation(Path(picture.annotation))


def keep_splits_apart(same: Iterable[Checked]) -> Iterator[Checked | Rejected]:
    """Of byte-identical pictures, keeps those of one split; the rest would leak into it."""
    same = sorted(same, key=lambda item: (_KEEP_ORDER.index(item.split), item.picture.source_id))
    first = same[0]
    for item in same:
        if item.split == first.split:
            yield item
            continue
        yield Rejected(
            item.picture.source_id,
            item.picture.split,
            (
                f"{item.picture.jpeg_path}: is for {item.split}, but {first.split} has the same "
                f"picture as {first.picture.source_id} and has to measure on unseen ones. Take it "
                "off one of the lists",
            ),
        )


class _Check(beam.DoFn):
    def __init__(self, plan: Plan):
        self._plan = plan

    def setup(self):
        self._marks = Marks(self._plan.marks, "check")

    def process(self, picture: Picture):
        outcome = check_picture(picture, self._plan)
        self._marks.add()
        if isinstance(outcome, Rejected):
            yield beam.pvalue.TaggedOutput("rejected", outcome)
        else:
            yield outcome

    def teardown(self):
        self._marks.close()


class _KeepSplitsApart(beam.DoFn):
    def process(self, same: tuple[str, Iterable[Checked]]):
        for outcome in keep_splits_apart(same[1]):
            if isinstance(outcome, Rejected):
                yield beam.pvalue.TaggedOutput("leaked", outcome)
            else:
                yield outcome


class _WriteShard(beam.DoFn):
    """Writes one shard in shuffled order and yields its split and the objects it holds."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._class_ids = {name: number for number, name in enumerate(plan.classes, start=1)}

    def setup(self):
        self._marks = Marks(self._plan.marks, "write")

    def process(self, shard: tuple[tuple[str, int], Iterable[Checked]], number_rejected: int):
        if self._plan.strict and number_rejected:
            return
        (split, number), items = shard
        items = sorted(items, key=lambda item: _shuffle_key(item, self._plan.seed))
        name = f"{split}-{number:05d}-of-{self._plan.shards[split]:05d}.tfrecord.gz"
        # Several workers may try the same shard; whichever finishes puts the same bytes there.
        temporary = self._plan.marks / f"{name}.{uuid.uuid4().hex}"
        # JPEGs hardly compress, so the cheapest level loses nothing.
        options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
        objects = []
        with tf.io.TFRecordWriter(str(temporary), options) as writer:
            for item in items:
                annotation, jpeg_path = _annotation(item.picture), Path(item.picture.jpeg_path)
                objects.append([(found.name, found.difficult) for found in annotation.objects])
                example = build_example(
                    annotation,
                    jpeg_path.read_bytes(),
                    filename=jpeg_path.name,
                    source_id=item.picture.source_id,
                    class_ids=self._class_ids,
                )
                writer.write(example.SerializeToString(deterministic=True))
                self._marks.add()
        temporary.rename(self._plan.folder / split / name)
        yield split, objects

    def teardown(self):
        self._marks.close()


def _with_shard(item: Checked, plan: Plan) -> tuple[tuple[str, int], Checked]:
    number = int(_shuffle_key(item, plan.seed)[:16], 16) % plan.shards[item.split]
    return (item.split, number), item


def _shuffle_key(item: Checked, seed: int) -> str:
    return _digest("shuffle", seed, item.sha256, item.picture.source_id)


def _uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but the parts."""
    return int(_digest(*parts)[:13], 16) / 16**13


def _digest(*parts: object) -> str:
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()


def _rejected_row(rejected: Rejected) -> str:
    return json.dumps([rejected.source_id, rejected.split, rejected.problems])


def _read_result(rejected_path: Path, written_path: Path) -> Result:
    rejected = [
        Rejected(source_id, split, tuple(problems))
        for source_id, split, problems in map(json.loads, rejected_path.open(encoding="utf-8"))
    ]
    written: dict[str, list] = {}
    for split, objects in map(json.loads, written_path.open(encoding="utf-8")):
        written.setdefault(split, []).extend(objects)
    return Result(
        tuple(sorted(rejected, key=lambda item: (item.source_id, item.split))),
        {split: written[split] for split in SPLITS if split in written},
    )
