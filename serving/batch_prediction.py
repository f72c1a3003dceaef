"""Detections for any number of pictures as a Beam pipeline: files or records in, JSON lines out.

Only paths are distributed. Each worker reads its own pictures, so they neither travel between
workers nor pile up in memory.
"""

import glob
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from google.protobuf.message import DecodeError
from rich.console import Console

from data.errors import DataError
from data.fields import COMMON
from data.output import whole_folder
from data.paths import check_no_wildcard
from data.progress import Marks, watch
from data.record_folder import read_records
from serving.detecting import ask_for_each, shown_detections
from serving.detections import Prediction
from serving.formats import json_line
from serving.picture_files import EncodedPicture, PictureFile, prepare_picture, read_picture
from serving.predict import SavedModelDetector
from serving.thresholds import ScoreThresholds

FAILURES = "failures.jsonl"
_PREDICTIONS = "predictions"
_FAILED = "failed"
# The stage of `data.progress.Marks`.
_STAGE = "detect"


@dataclass(frozen=True)
class Failure:
    """A picture, or the rest of a file of records, that has no result, and why."""

    image: str
    error: str


@dataclass(frozen=True)
class Written:
    """What the pipeline wrote: `pictures` lines in `shards` files, and the failures."""

    pictures: int
    shards: int
    failures: list[Failure]


def find_records(arguments: Sequence[str]) -> list[Path]:
    """TFRecord files by path, folder (recursively, names containing `tfrecord`) or pattern.

    Raises:
        DataError: an argument matches none.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*tfrecord*") if file.is_file())
        elif path.is_file():
            files = [path]
        else:
            files = sorted(map(Path, glob.glob(argument, recursive=True)))  # noqa: PTH207
        if not files:
            raise DataError(
                f"{argument}: no TFRecords. Give a file, a pattern, or a folder with files whose "
                "names contain tfrecord"
            )
        found.update(dict.fromkeys(files))
    return list(found)


def predict_on_beam(
    sources: Sequence[PictureFile | Path],
    model: Path,
    output: Path,
    *,
    thresholds: ScoreThresholds,
    batch_size: int,
    beam_options: Sequence[str],
    console: Console,
) -> Written:
    """Writes `predictions-*.jsonl` and `failures.jsonl` to a folder that appears when complete.

    Args:
      sources: pictures, and files of records (paths) whose `image/encoded` holds one each.
      model: folder of a SavedModel.
      output: folder that does not exist yet or is empty.
      batch_size: pictures per batch of a worker's model.
      console: where progress is shown; with records the number of pictures is unknown.

    Raises:
      DataError: the output folder is unusable, or the model's outputs are not detections.
    """
    check_no_wildcard(output)
    # Workers run in other folders.
    sources = [
        source.absolute()
        if isinstance(source, Path)
        else replace(source, path=source.path.absolute())
        for source in sources
    ]
    known = not any(isinstance(source, Path) for source in sources)
    with whole_folder(output) as folder:
        marks = folder / "marks"
        marks.mkdir()
        with (
            watch(marks, {_STAGE: len(sources)} if known else {}, console),
            beam.Pipeline(options=PipelineOptions(list(beam_options))) as pipeline,
        ):
            pictures, unread = (
                pipeline
                | "Sources" >> beam.Create(sources, reshuffle=True)  # spread before the model
                | "Read" >> beam.FlatMap(_read).with_outputs(_FAILED, main="pictures")
            )
            lines, refused = (
                pictures
                | "Detect" >> RunInference(_Detector(model.absolute(), thresholds, batch_size))
                | "Mark" >> beam.ParDo(_Mark(marks))
                | "Line" >> beam.Map(_line).with_outputs(_FAILED, main="lines")
            )
            _ = lines | "Save" >> beam.io.WriteToText(str(folder / _PREDICTIONS), ".jsonl")
            _ = (
                (unread | "MarkUnread" >> beam.ParDo(_Mark(marks)), refused)
                | "Failures" >> beam.Flatten()
                | "FailureLine" >> beam.Map(lambda failure: json.dumps(vars(failure)))
                | "SaveFailures"
                >> beam.io.WriteToText(str(folder / FAILURES), shard_name_template="")
            )
        shutil.rmtree(marks)
        return _written(folder)


class _Detector(ModelHandler[EncodedPicture, Prediction | Failure, SavedModelDetector]):
    """A worker's model, which detects in batches of pictures."""

    def __init__(self, model: Path, thresholds: ScoreThresholds, batch_size: int) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._model = model
        self._thresholds = thresholds

    def load_model(self) -> SavedModelDetector:
        return SavedModelDetector(self._model)

    def run_inference(
        self,
        batch: Sequence[EncodedPicture],
        model: SavedModelDetector,
        inference_args: dict | None = None,
    ) -> Iterator[Prediction | Failure]:
        answers = ask_for_each(model.detect, batch)
        for picture, found in zip(batch, answers, strict=True):
            file = picture.file
            if isinstance(found, DataError):
                yield Failure(str(file.path), str(found))
                continue
            detections = shown_detections(found, self._thresholds)
            yield Prediction(file.path, file.name, picture.width, picture.height, None, detections)

    def get_num_bytes(self, batch: Sequence[EncodedPicture]) -> int:
        return sum(len(picture.encoded) for picture in batch)  # by default Beam pickles the batch


class _Mark(beam.DoFn):
    """Marks each picture for `data.progress.watch`, and passes it on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def setup(self) -> None:
        self._marks = Marks(self._folder, _STAGE)

    def process(self, result: Any) -> Iterator[Any]:
        yield result
        self._marks.add()

    def teardown(self) -> None:
        self._marks.close()


def _read(source: PictureFile | Path) -> Iterator[EncodedPicture | beam.pvalue.TaggedOutput]:
    """The picture, or the pictures in the records, ready for the model."""
    if isinstance(source, Path):
        yield from _read_records(source)
        return
    try:
        yield read_picture(source)
    except DataError as error:
        yield _failed(str(source.path), error)


def _read_records(path: Path) -> Iterator[EncodedPicture | beam.pvalue.TaggedOutput]:
    number = 0
    try:
        for number, record in enumerate(read_records(str(path)), start=1):
            try:
                yield _picture_of(record.numpy(), f"{path}, record {number}")
            except DataError as error:
                yield _failed(f"{path}, record {number}", error)
    except tf.errors.OpError as error:
        where = f"{path}, after record {number}"
        yield _failed(
            where, DataError(f"{where}: not a TFRecord file, or cut off ({error.message})")
        )


def _picture_of(record: bytes, where: str) -> EncodedPicture:
    """The picture in a serialised `tf.Example`, named by its id, its file name or its position."""
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise DataError(f"{where}: not a tf.Example") from error

    def first(name: str) -> bytes:
        values = features[name].bytes_list.value if name in features else ()
        return values[0] if values else b""

    encoded = first(COMMON.encoded)
    if not encoded:
        raise DataError(f"{where}: no {COMMON.encoded}")
    name = (first(COMMON.source_id or "") or first(COMMON.filename)).decode("utf-8", "replace")
    try:
        return prepare_picture(PictureFile(Path(name or where), name or where), encoded)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _failed(image: str, error: DataError) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(_FAILED, Failure(image, str(error)))


def _line(result: Prediction | Failure) -> str | beam.pvalue.TaggedOutput:
    if isinstance(result, Failure):
        return beam.pvalue.TaggedOutput(_FAILED, result)
    return json_line(result)


def _written(folder: Path) -> Written:
    """Counts what is in the files: Beam's own counters include retried bundles."""
    shards = sorted(folder.glob(f"{_PREDICTIONS}-*.jsonl"))
    pictures = 0
    for shard in shards:
        with shard.open("rb") as lines:
            pictures += sum(1 for _ in lines)
    with (folder / FAILURES).open(encoding="utf-8") as lines:
        failures = [Failure(**json.loads(line)) for line in lines]
    return Written(pictures, len(shards), sorted(failures, key=lambda failure: failure.image))
