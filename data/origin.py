"""The origin of records: the data set's name, and what its conversion left out."""

import json
from dataclasses import dataclass
from pathlib import PurePath

import tensorflow as tf

from data.errors import DataError
from data.problems import KINDS, counted
from data.report import REPORT_FILE


@dataclass(frozen=True)
class Origin:
    """`left_out` says how many pictures were left out and why; empty if none were."""

    name: str
    left_out: str = ""


def read_origin(folder: str) -> Origin:
    """Reads the origin from a conversion's report, on any file system that TensorFlow reads.

    Without a report, the folder's name stands for the data set's.

    Raises:
        DataError: the report is damaged.
    """
    path = f"{folder}/{REPORT_FILE}"
    name = PurePath(folder).name
    if not tf.io.gfile.exists(path):
        return Origin(name)
    with tf.io.gfile.GFile(path) as file:
        try:
            report = json.loads(file.read())
            counts = report["rejected"], report["pictures"], report["left_out"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged ({error!r}). Convert the data again") from error
    return Origin(report.get("data_set") or name, _left_out(*counts))


def _left_out(rejected: int, pictures: int, kinds: dict[str, int]) -> str:
    """Such as "2 of 90 pictures, and objects of others: the box has no area (3)"."""
    if not kinds:
        return ""
    others = ", and objects of others" if rejected < max(kinds.values()) else ""
    reasons = ", ".join(f"{KINDS[kind].title} ({count:,})" for kind, count in kinds.items())
    return f"{rejected:,} of {counted(pictures, 'picture')}{others}: {reasons}"
