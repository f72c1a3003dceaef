"""Checks a folder of TFRecords before a pipeline reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError

from data import fields
from data.errors import DataError
from data.splits import SPLITS


@dataclass(frozen=True)
class RecordFolder:
    """A folder with records of all splits: `patterns` per split, relative to `path`."""

    path: Path
    patterns: dict[str, str]
    fields: fields.Fields


def open_record_folder(path: Path) -> RecordFolder:
    """Finds the splits of a folder (subfolders `train/` or files `train-*`) and reads a record.

    Raises:
        DataError: a split is missing or empty, a file is not TFRecord, or its records are not
            annotated pictures.
    """
    patterns = {}
    for split in SPLITS:
        pattern = f"{split}/*" if (path / split).is_dir() else f"{split}-*"
        if not any(path.glob(pattern)):
            raise DataError(
                f"{path}: no TFRecords for the split {split!r} ({split}/* or {split}-*), and no "
                f"annotations (VOC's XML or COCO's JSON). Found: {_listing(path)}. Export other "
                "formats, such as YOLO's and labelme's, as Pascal VOC or COCO. A run needs train, "
                "eval and test: without lists, split annotated pictures with --set "
                "data.split=80/10/10. Convert other layouts with `ssd convert`, where you name "
                "each list or file"
            )
        patterns[split] = pattern
    found = {_first_record_fields(sorted(path.glob(p))) for p in patterns.values()}
    if len(found) != 1:
        raise DataError(f"{path}: its splits name their fields differently; convert them together")
    return RecordFolder(path, patterns, found.pop())


def read_records(files: str | Sequence[str] | tf.Tensor) -> tf.data.Dataset:
    """The records of TFRecord files; as in Beam, GZIP if the (first) name ends in `.gz`.

    Names may be tensors.
    """
    gzip = tf.strings.regex_full_match(tf.reshape(files, [-1])[0], r".*\.gz")
    return tf.data.TFRecordDataset(files, compression_type=tf.where(gzip, "GZIP", ""))


def _first_record_fields(files: list[Path]) -> fields.Fields:
    """The field names of the first record in the files."""
    for file in files:
        try:
            for record in read_records(str(file)).take(1):
                example = tf.train.Example.FromString(record.numpy())
                return fields.detect(example.features.feature)
        except tf.errors.OpError as error:
            raise DataError(f"{file}: not a TFRecord file ({error.message})") from error
        except DecodeError as error:
            raise DataError(
                f"{file}: its records are not tf.Examples. Write them with `ssd convert`"
            ) from error
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
    raise DataError(f"{files[0].parent}: the TFRecords hold no record")


def _listing(path: Path) -> str:
    names = sorted(child.name for child in path.iterdir())
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "nothing"
