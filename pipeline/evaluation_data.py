"""The records for an evaluation outside of a pipeline run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from rich.console import Console
from tensorflow_model_analysis.proto import config_pb2

from components.artifacts import read_json
from data import fields
from data.errors import DataError
from data.fields import Fields
from data.options import IGNORE, ConversionOptions, as_settings
from data.origin import Origin, read_origin
from data.record_folder import read_records
from data.saved_model import IDENTITY
from data.sources import find_source
from data.splits import SPLITS
from pipeline.config import Config
from pipeline.evaluation import evaluation_config


@dataclass(frozen=True)
class Records:
    """TFRecord files of a split and their contents, for a model with these classes."""

    name: str
    files: tuple[Path, ...]
    fields: Fields
    features: tuple[str, ...]
    classes: tuple[str, ...]
    origin: Origin
    notes: tuple[str, ...] = ()

    def eval_config(self, config: Config) -> config_pb2.EvalConfig:
        """The Evaluator's configuration, without a minimum mAP or change."""
        evaluator = dataclasses.replace(config.evaluator, min_map=0.0, min_map_change=-1.0)
        return evaluation_config(evaluator, self.classes, self.fields, self.features)


def find_records(
    data: Path, split: str, model: Path, output: Path, config: Config, beam_args: Sequence[str]
) -> Records:
    """The records of a split; annotated pictures are converted into `output/records` first.

    Raises:
      DataError: the data or the split is missing or unusable.
    """
    classes = tuple(read_json(f"{model}/{IDENTITY}")["classes"])
    notes: tuple[str, ...] = ()
    if not data.is_dir():
        raise DataError(f"{data}: no such folder. Give a folder of TFRecords or annotated pictures")
    folder = data
    if source := find_source(data):
        names = [field.name for field in dataclasses.fields(ConversionOptions)]
        options = ConversionOptions(**{name: getattr(config.data, name) for name in names})
        # Only the model's classes can be measured.
        options = dataclasses.replace(options, classes=classes, other_classes=IGNORE)
        folder = output / "records"
        try:
            report = source.convert(folder, options, beam_options=beam_args, console=Console())
        except DataError as error:
            raise DataError(as_settings(str(error))) from error
        notes = (*report.notes, *report.lines())
    wanted = SPLITS if split == "all" else (split,)
    files = [file for name in wanted for file in _files(folder, name)]
    if not files:
        raise DataError(
            f"{folder}: no TFRecords of the split {split!r}, looked for {wanted[0]}/* and "
            f"{wanted[0]}-*. Choose another with --split, or convert with `ssd convert`"
        )
    features = _features(files[0])
    return Records(
        f"{data.resolve().name}, {split}", tuple(files), fields.detect(features), features, classes,
        read_origin(str(folder.resolve())), notes,
    )  # fmt: skip


def _files(folder: Path, split: str) -> list[Path]:
    pattern = f"{split}/*" if (folder / split).is_dir() else f"{split}-*"
    return sorted(file for file in folder.glob(pattern) if file.is_file())


def _features(file: Path) -> tuple[str, ...]:
    """The names of the features in the first record of a file."""
    try:
        for record in read_records(str(file)).take(1).as_numpy_iterator():
            return tuple(sorted(tf.train.Example.FromString(record).features.feature))
    except tf.errors.OpError as error:
        raise DataError(f"{file}: not a TFRecord file ({error.message})") from error
    raise DataError(f"{file}: no records in this file")
