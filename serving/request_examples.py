"""Turns logged requests into the pipeline's records, with detections as objects.

    ssd request-examples LOG.tfrecord... --output DIR

StatisticsGen and TensorFlow Data Validation can then compare production requests with the training
data.
"""

import argparse
import hashlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from data.fields import COMMON
from data.output import whole_folder
from data.saved_model import BOXES, CLASS_NAMES, CLASSES, SCORES

if TYPE_CHECKING:
    import tensorflow as tf

_PICTURES = "image_bytes"


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--score",
        type=float,
        default=0.5,
        help="lowest score of a detection that becomes an object",
    )
    options = parser.parse_args(arguments)
    quiet()
    try:
        count, skipped = convert(options.logs, options.output, options.score)
    except OSError as error:
        raise DataError(str(error)) from error
    for what in skipped:
        print(f"skipped: {what}", file=sys.stderr)
    print(f"{count} pictures in {options.output}")


def convert(logs: list[Path], output: Path, score: float) -> tuple[int, list[str]]:
    """Writes `serving-00000.tfrecord` with an Example for each logged picture.

    Detections with a score of at least `score` become objects. Pictures that were not sent encoded
    are left out.

    Returns:
      The number of pictures, and what was skipped as damaged: pictures, and files from the damage
      on (a killed server leaves its last record unfinished).

    Raises:
      DataError: no log has a picture, or `output` exists.
    """
    import tensorflow as tf

    count = 0
    skipped: list[str] = []
    with whole_folder(output) as folder:
        with tf.io.TFRecordWriter(str(folder / "serving-00000.tfrecord")) as writer:
            for log in logs:
                for example in _examples(log, score, skipped):
                    writer.write(example.SerializeToString())
                    count += 1
        if not count:
            raise DataError(
                "\n".join(
                    [f"no picture in {len(logs)} logs. Give logs of requests with {_PICTURES}."]
                    + [f"skipped: {what}" for what in skipped]
                )
            )
    return count, skipped


def _examples(log: Path, score: float, skipped: list[str]) -> Iterator:
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    number = -1
    try:
        for number, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(log))):
            predict = prediction_log_pb2.PredictionLog.FromString(record).predict_log
            if _PICTURES not in predict.request.inputs:
                continue
            pictures = tf.make_ndarray(predict.request.inputs[_PICTURES]).ravel()
            outputs = {name: tf.make_ndarray(p) for name, p in predict.response.outputs.items()}
            for row, picture in enumerate(pictures):
                answer = {name: array[row] for name, array in outputs.items()}
                try:
                    yield _example(picture, answer, score, f"{log.name}:{number}:{row}")
                except (OSError, SyntaxError, ValueError) as error:
                    reason = str(error).partition(" <")[0]
                    skipped.append(f"{log}: record {number}, picture {row}: {reason}")
    except (tf.errors.OpError, DecodeError) as error:
        read = f"damaged after {number + 1} records" if number >= 0 else "not a log of requests"
        skipped.append(f"{log}: {read} ({str(error).partition(chr(10))[0]})")


def _example(picture: bytes, answer: dict, score: float, source: str) -> "tf.train.Example":
    import tensorflow as tf
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        (width, height), kind = opened.size, str(opened.format).lower()
    example = tf.train.Example()
    feature = example.features.feature
    for name, value in (
        (COMMON.encoded, picture),
        (COMMON.format, kind.encode()),
        (COMMON.filename, source.encode()),
        (COMMON.source_id, source.encode()),
        (COMMON.sha256, hashlib.sha256(picture).hexdigest().encode()),
    ):
        feature[name].bytes_list.value.append(value)
    feature[COMMON.height].int64_list.value.append(height)
    feature[COMMON.width].int64_list.value.append(width)
    sure = answer[SCORES] >= score
    sides = (COMMON.ymin, COMMON.xmin, COMMON.ymax, COMMON.xmax)
    for name, values in zip(sides, answer[BOXES][sure].T, strict=True):
        feature[name].float_list.value.extend(values)
    feature[COMMON.text].bytes_list.value.extend(answer[CLASS_NAMES][sure])
    feature[COMMON.label].int64_list.value.extend(answer[CLASSES][sure])
    return example


if __name__ == "__main__":
    sys.exit(main())
