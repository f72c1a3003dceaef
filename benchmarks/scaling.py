"""How time and memory of import, conversion and evaluation grow, from 1k to 100k pictures.

    python -m benchmarks.scaling [--json FILE]

Each size runs in a separate process. Import is ImportExampleGen on records of 20 kB in shards of
500. Conversion reads noise of 16 x 16 pixels with one object: small, so that it measures the
pipeline's work per picture and not the disk. Evaluation is TFMA with the detection metric, from a
file of records with 20 given detections each to written numbers, with and without confidence
intervals; no network runs. Peak memory is the process's, including imports, so its growth is what
the data adds.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.drawn import draw, evaluate_by_tfma, write_extracts
from benchmarks.report import Bound, report
from data.console import quiet

_SIZES = (1_000, 10_000, 100_000)
_SIDE = 16
_RECORD_BYTES, _RECORDS_PER_SHARD = 20_000, 500
_DETECTIONS = 20
_CLASSES = 20
# Relative to the cost of a picture at the smallest size; start-up can make it less than 1.
_MOST_GROWTH = 1.3
_IMPORT, _CONVERSION = "import", "conversion"
_EVALUATION, _INTERVALS = "evaluation", "evaluation with intervals"
# A VOC picture has about 80,000 bytes.
_MOST_BYTES_PER_PICTURE = {
    _IMPORT: 300,
    _CONVERSION: 800,
    _EVALUATION: 1_400,
    _INTERVALS: 2_500,
}


class Measurement(NamedTuple):
    """One size in a separate process; memory is the process's peak before and after the work."""

    work: str
    pictures: int
    seconds: float
    cpu_seconds: float
    start_mb: float
    peak_mb: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--one", nargs=2, metavar=("WORK", "PICTURES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet()
    if options.one:
        work, pictures = options.one
        print(json.dumps(_measure(work, int(pictures))._asdict()))
        return 0
    measured = [[_in_own_process(work, size) for size in _SIZES] for work in _WORK]
    rows = [
        {
            "what": row.work,
            "pictures": row.pictures,
            "seconds": row.seconds,
            "CPU s": row.cpu_seconds,
            "CPU ms per picture": 1000 * row.cpu_seconds / row.pictures,
            "MB before": row.start_mb,
            "peak MB": row.peak_mb,
        }
        for of_one_work in measured
        for row in of_one_work
    ]
    bounds = [bound for of_one_work in measured for bound in _bounds(of_one_work)]
    return report("scaling, Beam in one process", rows, bounds, options.json)


def _in_own_process(work: str, pictures: int) -> Measurement:
    command = [sys.executable, "-m", "benchmarks.scaling", "--one", work, str(pictures)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"error: {work} of {pictures:,} pictures failed:\n{process.stderr}")
    return Measurement(**json.loads(process.stdout.splitlines()[-1]))


def _measure(work: str, pictures: int) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        action = _WORK[work](pictures, Path(folder))
        start = _peak_mb()
        started, cpu_started = time.perf_counter(), _cpu_seconds()
        action()
        seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - cpu_started
        return Measurement(work, pictures, seconds, cpu_seconds, start, _peak_mb())


def _cpu_seconds() -> float:
    """CPU time of this process and its children, which other load hardly changes."""
    usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def _peak_mb() -> float:
    """Peak memory of this process plus that of its largest child, in 10^6 bytes."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(who).ru_maxrss for who in whose) * 1024 / 1e6


def _import(pictures: int, folder: Path) -> Callable[[], None]:
    import tensorflow as tf
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.proto import example_gen_pb2
    from tfx.types import standard_artifacts
    from tfx.utils import proto_utils

    from components.example_gen import Executor
    from data.beam_runner import IN_PROCESS

    random = np.random.default_rng(0)
    for start in range(0, pictures, _RECORDS_PER_SHARD):
        path = str(folder / f"{start:06d}.tfrecord.gz")
        with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions("GZIP", compression_level=1)) as file:
            for _ in range(min(_RECORDS_PER_SHARD, pictures - start)):
                file.write(random.bytes(_RECORD_BYTES))
    train = example_gen_pb2.Input.Split(name="train", pattern="*.gz")
    examples = standard_artifacts.Examples()
    examples.uri = str(folder / "examples")
    properties = {
        "input_base": str(folder),
        "input_config": proto_utils.proto_to_json(example_gen_pb2.Input(splits=[train])),
        "output_data_format": example_gen_pb2.FORMAT_TF_EXAMPLE,
    }
    executor = Executor(BaseBeamExecutor.Context(beam_pipeline_args=list(IN_PROCESS)))
    return lambda: executor.Do({}, {"examples": [examples]}, properties)


def _conversion(pictures: int, folder: Path) -> Callable[[], None]:
    from PIL import Image

    from data import conversion  # noqa: F401  # imported before memory is measured
    from data.convert import convert
    from data.options import ConversionOptions

    year = folder / "VOC2007"
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (year / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"{number:06d}" for number in range(pictures)]
    for name in names:
        noise = random.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "JPEG")
        (year / "JPEGImages" / f"{name}.jpg").write_bytes(file.getvalue())
        (year / "Annotations" / f"{name}.xml").write_text(_annotation(name))
    (year / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(names) + "\n")

    def convert_all():
        options = ConversionOptions(train=("VOC2007/trainval",), classes=("cat",))
        report = convert(folder, folder / "records", options)
        written = sum(split.total.images for split in report.splits.values())
        if written != pictures:
            raise SystemExit(f"error: {written:,} of {pictures:,} pictures were converted")

    return convert_all


def _annotation(name: str) -> str:
    return (
        f"<annotation><filename>{name}.jpg</filename><size><width>{_SIDE}</width>"
        f"<height>{_SIDE}</height><depth>3</depth></size><object><name>cat</name><bndbox>"
        "<xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>12</ymax></bndbox></object></annotation>"
    )


def _evaluation(pictures: int, folder: Path, intervals: bool = False) -> Callable[[], None]:
    # Imported before memory is measured.
    import tensorflow_model_analysis  # noqa: F401

    records = folder / "extracts"
    write_extracts(draw(pictures, _CLASSES, _DETECTIONS), _CLASSES, records)

    def evaluate():
        score = evaluate_by_tfma(_CLASSES, records, intervals)
        if not 0 < score < 1:
            raise SystemExit(f"error: mAP is {score}")

    return evaluate


_WORK = {
    _IMPORT: _import,
    _CONVERSION: _conversion,
    _EVALUATION: _evaluation,
    _INTERVALS: partial(_evaluation, intervals=True),
}


def _bounds(rows: list[Measurement]) -> list[Bound]:
    """Bounds on one kind of work: the largest size relative to the smallest."""
    small, *_, large = rows
    cost = (large.cpu_seconds / large.pictures) / (small.cpu_seconds / small.pictures)
    held = (large.peak_mb - small.peak_mb) * 1e6 / (large.pictures - small.pictures)
    return [
        Bound(f"{small.work}: cost per picture, largest / smallest", cost, most=_MOST_GROWTH),
        Bound(
            f"{small.work}: bytes held per picture",
            held,
            most=_MOST_BYTES_PER_PICTURE[small.work],
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
