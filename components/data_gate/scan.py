"""The Beam pipeline that reads every record once.

Only hashes and findings travel between workers, so memory does not depend on the pictures' size.
"""

import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import apache_beam as beam
import numpy as np
import tensorflow as tf

from components.data_gate.objects import (
    AnchorGrid,
    box_problems,
    is_usable,
    repeated_objects,
)
from data.errors import DataError
from data.fields import Fields
from data.jpeg import read_header
from data.looks import bands_of, look_of, near_pairs
from trainer.anchors import AnchorSpec


@dataclass(frozen=True, order=True)
class RecordProblem:
    """A problem with one record, found by the named check."""

    check: str
    split: str
    record_id: str
    text: str


@dataclass(frozen=True)
class Leak:
    """One picture in two splits, each record as (split, record id).

    `distance` is the number of bits in which their perceptual hashes differ, None for equal bytes.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    distance: int | None = None


@dataclass(frozen=True)
class SplitFacts:
    """A split's objects with a usable box, and how many of them no anchor can match.

    `misfits` counts those by reason, as in `AnchorGrid.misfits`; `of_others` counts those that
    other detectors' anchors cannot match, by name.
    """

    objects: int = 0
    unmatchable: int = 0
    misfits: Mapping[str, int] = field(default_factory=dict)
    of_others: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "SplitFacts") -> "SplitFacts":
        names = {*self.of_others, *other.of_others}
        return SplitFacts(
            self.objects + other.objects,
            self.unmatchable + other.unmatchable,
            dict(Counter(self.misfits) + Counter(other.misfits)),
            {name: self.of_others.get(name, 0) + other.of_others.get(name, 0) for name in names},
        )


@dataclass(frozen=True)
class Scan:
    """The findings of all splits."""

    problems: tuple[RecordProblem, ...]
    leaks: tuple[Leak, ...]
    splits: Mapping[str, SplitFacts]


@dataclass(frozen=True)
class _Picture:
    split: str
    record_id: str
    sha256: bytes
    look: bytes | None
    problems: tuple[RecordProblem, ...]
    facts: SplitFacts


def scan(
    pipeline: beam.Pipeline,
    patterns: Mapping[str, str],
    fields: Fields,
    anchors: AnchorSpec,
    matching_iou: float,
    leak_distance: int,
    path: str,
    others: Mapping[str, AnchorSpec] | None = None,
) -> Scan:
    """Reads the TFRecords of each split.

    patterns: files of each split.
    matching_iou: the IoU from which an anchor matches an object.
    leak_distance: see `DataGateConfig`.
    path: temporary file for the findings, visible to the pipeline's workers.
    others: anchors to compare with, by name.
    """
    look = functools.partial(_Look, fields, anchors, matching_iou, others or {})
    with pipeline:
        pictures = [
            pipeline
            | f"Read {split}" >> beam.io.ReadFromTFRecord(pattern)
            | f"Look {split}" >> beam.ParDo(look(split))
            for split, pattern in patterns.items()
        ] | beam.Flatten()
        same = (
            pictures
            | "ByBytes" >> beam.Map(lambda p: (p.sha256, (p.split, p.record_id)))
            | "SameBytes" >> beam.GroupByKey()
            | "SamePairs" >> beam.FlatMap(_same_pairs)
        )
        near = (
            pictures
            | "ByLook" >> beam.FlatMap(_keyed_by_band)
            | "SameBand" >> beam.GroupByKey()
            | "NearPairs" >> beam.FlatMap(_near_pairs, leak_distance)
        )
        leaks = (
            (same, near)
            | "Leaks" >> beam.Flatten()
            | "ByPair" >> beam.Map(lambda leak: ((leak.first, leak.second), leak.distance))
            | "OnePair" >> beam.CombinePerKey(_least_distance)
            | "LeakRow" >> beam.MapTuple(lambda pair, distance: ("leak", (*pair, distance)))
        )
        problems = (
            pictures
            | "Problems" >> beam.FlatMap(lambda picture: picture.problems)
            | "ProblemRow" >> beam.Map(lambda problem: ("problem", asdict(problem)))
        )
        facts = (
            pictures
            | "Facts" >> beam.Map(lambda picture: (picture.split, picture.facts))
            | "SplitFacts" >> beam.CombinePerKey(_sum)
            | "FactsRow" >> beam.MapTuple(lambda split, facts: ("facts", (split, asdict(facts))))
        )
        _ = (
            (leaks, problems, facts)
            | "Found" >> beam.Flatten()
            | "Row" >> beam.Map(json.dumps)
            | "Save" >> beam.io.WriteToText(path, shard_name_template="")
        )
    found = _read(path)
    tf.io.gfile.remove(path)
    return found


class _Look(beam.DoFn):
    """Checks a single record."""

    def __init__(
        self,
        fields: Fields,
        anchors: AnchorSpec,
        matching_iou: float,
        others: Mapping[str, AnchorSpec],
        split: str,
    ) -> None:
        self._split = split
        self._fields = fields
        self._anchors = anchors
        self._matching_iou = matching_iou
        self._others = others

    def setup(self) -> None:
        self._grid = AnchorGrid(self._anchors)
        self._other_grids = {name: AnchorGrid(spec) for name, spec in self._others.items()}

    def process(self, record: bytes) -> Iterator[_Picture]:
        features = tf.train.Example.FromString(record).features.feature
        names = self._fields
        record_id = _only(features[names.source_id or names.filename]).decode() or "(no id)"
        encoded = _only(features[names.encoded])
        classes = [value.decode() for value in features[names.text].bytes_list.value]
        sides = [
            features[name].float_list.value
            for name in (names.ymin, names.xmin, names.ymax, names.xmax)
        ]
        found: dict[str, list[str]] = {"pictures": []}
        look = None
        try:
            # Any format has a look, but training reads only JPEGs.
            look = look_of(encoded)
            orientation = read_header(encoded).orientation
            if orientation != 1:
                found["orientation"] = [f"an EXIF tag rotates it (orientation {orientation})"]
        except DataError as error:
            found["pictures"].append(str(error))
        # Lists of different lengths are an anomaly, which stops the run anyway.
        count = min(len(classes), *map(len, sides))
        boxes = np.array([side[:count] for side in sides], np.float64).T
        found["boxes"] = box_problems(boxes, classes)
        found["duplicates"] = repeated_objects(boxes, classes)
        usable = boxes[is_usable(boxes)]
        yield _Picture(
            split=self._split,
            record_id=record_id,
            sha256=hashlib.sha256(encoded).digest(),
            look=look,
            problems=tuple(
                RecordProblem(check, self._split, record_id, text)
                for check, texts in found.items()
                for text in texts
            ),
            facts=self._facts(usable),
        )

    def _facts(self, boxes: np.ndarray) -> SplitFacts:
        def unmatchable(grid: AnchorGrid) -> np.ndarray:
            return grid.best_iou(boxes) < self._matching_iou

        own = unmatchable(self._grid)
        return SplitFacts(
            len(boxes),
            int(own.sum()),
            dict(Counter(self._grid.misfits(boxes[own], self._matching_iou))),
            {name: int(unmatchable(grid).sum()) for name, grid in self._other_grids.items()},
        )


def _only(feature: tf.train.Feature) -> bytes:
    """The feature's value; empty if it is missing, which is an anomaly that stops the run."""
    values = feature.bytes_list.value
    return values[0] if values else b""


def _same_pairs(group: tuple[bytes, Iterable[tuple[str, str]]]) -> Iterator[Leak]:
    by_split: dict[str, list[tuple[str, str]]] = {}
    for record in sorted(group[1]):
        by_split.setdefault(record[0], []).append(record)
    for records, others in itertools.combinations(by_split.values(), 2):
        for first, second in itertools.product(records, others):
            yield Leak(first, second)


def _keyed_by_band(picture: _Picture) -> Iterator[tuple[tuple[int, bytes], tuple[str, str, bytes]]]:
    if picture.look is not None:
        for band in bands_of(picture.look):
            yield band, (picture.split, picture.record_id, picture.look)


def _near_pairs(
    group: tuple[tuple[int, bytes], Iterable[tuple[str, str, bytes]]], max_distance: int
) -> Iterator[Leak]:
    for first, second, distance in near_pairs(group[1], max_distance):
        yield Leak(first, second, distance)


def _least_distance(distances: Iterable[int | None]) -> int | None:
    """None (equal bytes) wins, since such pairs have equal looks as well."""
    all_distances = list(distances)
    known = [distance for distance in all_distances if distance is not None]
    return min(known) if len(known) == len(all_distances) else None


def _sum(facts: Iterable[SplitFacts]) -> SplitFacts:
    return sum(facts, SplitFacts())


def _read(path: str) -> Scan:
    found: dict[str, list] = {"problem": [], "leak": [], "facts": []}
    with tf.io.gfile.GFile(path) as lines:
        for kind, value in map(json.loads, lines):
            found[kind].append(value)
    leaks = [Leak(tuple(first), tuple(second), bits) for first, second, bits in found["leak"]]
    return Scan(
        problems=tuple(sorted(RecordProblem(**value) for value in found["problem"])),
        leaks=tuple(sorted(leaks, key=lambda leak: (leak.first, leak.second))),
        splits={split: SplitFacts(**facts) for split, facts in found["facts"]},
    )
