"""The model's answer for each evaluated picture, stored with an evaluation's metrics.

A record holds the features of the picture's record except the picture itself, and the model's
outputs under their names in `data.saved_model`, without padding.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma

from data import fields
from data.errors import DataError
from data.fields import Fields
from data.progress import Marks
from data.record_folder import read_records
from data.saved_model import BOXES, COUNT, OUTPUTS
from metrics.accumulator import DetectionAccumulator
from metrics.picture_reader import as_columns, read_detections, read_ground_truth

_FILES = "answers/pictures"
_destination: contextvars.ContextVar[str | None] = contextvars.ContextVar("answers", default=None)
_marks: contextvars.ContextVar[Path | None] = contextvars.ContextVar("marks", default=None)

# The stage of `data.progress.Marks`.
STAGE = "evaluate"


@contextlib.contextmanager
def answers_kept_in(evaluation: str) -> Iterator[None]:
    """Makes evaluations set up in the block write their answers to the folder `evaluation`.

    TFX passes no folder to the function that makes extractors.
    """
    token = _destination.set(evaluation)
    try:
        yield
    finally:
        _destination.reset(token)


@contextlib.contextmanager
def marks_kept_in(folder: Path | None) -> Iterator[None]:
    """Makes evaluations set up in the block mark each picture (`data.progress.watch`)."""
    token = _marks.set(folder)
    try:
        yield
    finally:
        _marks.reset(token)


def answer_extractors(record: Fields) -> list[tfma.extractors.Extractor]:
    """Extractors that write answers; none outside `answers_kept_in`."""
    evaluation = _destination.get()
    if evaluation is None:
        return []
    keep = _KeepAnswers(f"{evaluation}/{_FILES}", record, _marks.get())
    return [tfma.extractors.Extractor("KeepAnswers", keep)]


def read_answers(evaluation: str, class_names: list[str]) -> DetectionAccumulator:
    """The evaluated pictures with their objects and detections, ordered by id.

    Raises:
      DataError: the evaluation kept no answers, or they are damaged.
    """
    files = sorted(tf.io.gfile.glob(f"{evaluation}/{_FILES}*"))
    if not files:
        raise DataError(
            f"{evaluation}: no answers of the model there. Run again with --from Evaluator"
        )
    accumulator = DetectionAccumulator(class_names)
    pictures = []
    for serialised in read_records(files).as_numpy_iterator():
        features = read_features(serialised)
        truth = read_ground_truth(features, fields.detect(features))
        pictures.append((truth.image_id, truth, read_detections(features, truth)))
    for _, truth, found in sorted(pictures, key=lambda picture: picture[0]):
        accumulator.add_columns(as_columns(accumulator, truth, found))
    return accumulator


def read_features(serialised: bytes) -> dict[str, list]:
    """A `tf.Example`'s values by feature name."""
    found = {}
    for name, feature in tf.train.Example.FromString(serialised).features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def to_record(extracts: Mapping[str, Any], record: Fields) -> bytes:
    """The record to keep for a picture that TFMA evaluated."""
    (serialised,) = np.ravel(extracts[tfma.INPUT_KEY])
    example = tf.train.Example.FromString(serialised)
    features = example.features.feature
    # Pictures without objects may lack these features.
    for name in filter(None, dataclasses.astuple(record)):
        features[name].SetInParent()
    features[record.encoded].Clear()
    answers = extracts[tfma.PREDICTIONS_KEY]
    # With a baseline, answers are grouped by model.
    outputs = answers if BOXES in answers else answers[tfma.CANDIDATE_KEY]
    count = int(np.ravel(outputs[COUNT])[0])
    for name in OUTPUTS:
        values = np.asarray(outputs[name])
        values = (
            np.ravel(values) if name == COUNT else np.reshape(values, (-1, *_row(name)))[:count]
        )
        features[name].CopyFrom(_feature(values.ravel()))
    return example.SerializeToString()


def _row(output: str) -> tuple[int, ...]:
    return (4,) if output == BOXES else ()


def _feature(values: np.ndarray) -> tf.train.Feature:
    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    if values.dtype.kind in "iu":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values.tolist()))


class _ToRecord(beam.DoFn):
    def __init__(self, record: Fields, marks: Path | None) -> None:
        self._record = record
        self._folder = marks
        self._marks: Marks | None = None

    def setup(self) -> None:
        if self._folder:
            self._marks = Marks(self._folder, STAGE)

    def process(self, extracts: Mapping[str, Any]) -> Iterator[bytes]:
        yield to_record(extracts, self._record)
        if self._marks:
            self._marks.add()

    def teardown(self) -> None:
        if self._marks:
            self._marks.close()


class _KeepAnswers(beam.PTransform):
    """Writes records and passes its input on unchanged to the metrics."""

    def __init__(self, prefix: str, record: Fields, marks: Path | None) -> None:
        super().__init__()
        self._prefix = prefix
        self._to_record = _ToRecord(record, marks)

    def expand(self, extracts: beam.PCollection) -> beam.PCollection:
        _ = (
            extracts
            | "ToRecord" >> beam.ParDo(self._to_record)
            | "Write" >> beam.io.WriteToTFRecord(self._prefix, file_name_suffix=".gz")
        )
        return extracts
