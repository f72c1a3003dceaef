"""How time and memory grow with the data: conversion and evaluation, 1k to 100k pictures.

    python -m benchmarks.scaling [--json FILE]

Each size runs in a process of its own. Conversion reads drawn noise of 16 x 16 pixels with one
object; small, so that what is measured is what the pipeline does for each picture and not the disk.
Evaluation is TFMA with the detection metric, from a file of records and 20 given detections each to
written numbers: no network runs. The process's own peak memory is measured from its start, imports
and all, so growth is what the data adds.
"""

import argparse
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from data.console import quiet

_SIZES = (1_000, 10_000, 100_000)
_SIDE = 16
_DETECTIONS = 20
_CLASSES = tuple(f"class{number}" for number in range(20))
# Times the cost of a picture at the smallest size; start-up makes it less than 1 at best.
_MOST_GROWTH_OF_TIME = 1.3
# A picture's bytes of VOC are 80,000.
_MOST_BYTES_PER_PICTURE = 8_000


class Measurement(NamedTuple):
    """One size in a process of its own; memory is the process's peak, and before the work."""

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
    rows = [_in_own_process(work, size) for work in _WORK for size in _SIZES]
    Console(width=120).print(_table(rows))
    text = json.dumps({"measurements": [row._asdict() for row in rows]}, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    problems = [problem for work in _WORK for problem in _problems(work, rows)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


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
    """Of this process and its children: what other work on the machine hardly changes."""
    usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def _peak_mb() -> float:
    """Peak memory of this process and of the largest of its children, in 10^6 bytes."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(who).ru_maxrss for who in whose) * 1024 / 1e6


def _conversion(pictures: int, folder: Path) -> Callable[[], None]:
    from PIL import Image

    from data import conversion  # noqa: F401  # imported before memory is measured
    from data.convert import convert

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
        report = convert(folder, folder / "records", train=["VOC2007/trainval"], classes=["cat"])
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


def _evaluation(pictures: int, folder: Path) -> Callable[[], None]:
    import apache_beam as beam
    import tensorflow_model_analysis as tfma
    from apache_beam.options.pipeline_options import PipelineOptions

    from components.evaluation import OVERALL, read_evaluation
    from components.mean_average_precision import tfma_metric
    from data.beam_runner import IN_PROCESS
    from data.fields import COMMON

    records = _write_extracts(pictures, folder)
    config = tfma.EvalConfig(
        model_specs=[tfma.ModelSpec()],
        metrics_specs=[tfma.MetricsSpec(metrics=[tfma_metric.metric_config(_CLASSES, COMMON)])],
    )

    def evaluate():
        results = folder / "results"
        with beam.Pipeline(options=PipelineOptions(list(IN_PROCESS))) as pipeline:
            _ = (
                pipeline
                | beam.io.ReadFromTFRecord(str(records))
                | beam.Map(pickle.loads)
                | tfma.ExtractAndEvaluate(
                    extractors=[tfma.extractors.SliceKeyExtractor(eval_config=config)],
                    evaluators=tfma.default_evaluators(eval_config=config),
                )
                | tfma.WriteResults(tfma.default_writers(str(results), eval_config=config))
            )
        score = read_evaluation(results).candidate[OVERALL][tfma_metric.MAP].value
        if not 0 < score < 1:
            raise SystemExit(f"error: mAP is {score}")

    return evaluate


def _write_extracts(pictures: int, folder: Path) -> Path:
    """Records and answers as TFMA's extractors leave them, pickled one by one."""
    import tensorflow as tf
    import tensorflow_model_analysis as tfma

    from data.fields import COMMON

    random = np.random.default_rng(0)
    names = np.array([name.encode() for name in _CLASSES], object)
    path = folder / "extracts"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(pictures):
            start = random.uniform(0, 0.6, (_DETECTIONS, 2))
            boxes = np.hstack([start, start + random.uniform(0.05, 0.4, (_DETECTIONS, 2))])
            classes = random.integers(0, len(names), _DETECTIONS)
            # The first three are objects, found a little beside their place.
            moved = np.tile(random.normal(0, 0.02, (_DETECTIONS, 2)), 2)
            ymin, xmin, ymax, xmax = boxes[:3].T
            features = {
                COMMON.source_id: np.array([b"%08d" % number], object),
                COMMON.height: np.array([375]),
                COMMON.width: np.array([500]),
                COMMON.text: names[classes[:3]],
                COMMON.ymin: ymin,
                COMMON.xmin: xmin,
                COMMON.ymax: ymax,
                COMMON.xmax: xmax,
            }
            answer = {
                "detection_boxes": np.clip(boxes + moved, 0, 1).astype(np.float32),
                "detection_scores": random.random(_DETECTIONS, np.float32),
                "detection_class_names": names[classes],
                "num_detections": np.array([_DETECTIONS]),
            }
            extracts = {tfma.FEATURES_KEY: features, tfma.PREDICTIONS_KEY: answer}
            writer.write(pickle.dumps(extracts))
    return path


_WORK = {"conversion": _conversion, "evaluation": _evaluation}


def _growth(rows: list[Measurement]) -> tuple[float, float]:
    """(time of a further picture over the first thousand's, bytes that each further one holds)."""
    small, *_, large = rows
    more = large.pictures - small.pictures
    time_ratio = (large.cpu_seconds / large.pictures) / (small.cpu_seconds / small.pictures)
    return time_ratio, (large.peak_mb - small.peak_mb) * 1e6 / more


def _problems(work: str, rows: list[Measurement]) -> list[str]:
    time_ratio, held = _growth([row for row in rows if row.work == work])
    problems = []
    if time_ratio > _MOST_GROWTH_OF_TIME:
        problems.append(f"{work}: a picture costs {time_ratio:.2f} times as much at the largest")
    if held > _MOST_BYTES_PER_PICTURE:
        problems.append(f"{work}: {held:,.0f} bytes are held for each picture")
    return problems


def _table(rows: list[Measurement]) -> Table:
    table = Table(title=f"scaling, {os.cpu_count()} CPU cores, Beam in one process")
    for header in (
        "work",
        "pictures",
        "seconds",
        "ms/picture",
        "ratio",
        "peak MB",
        "bytes/picture",
    ):
        table.add_column(header, justify="left" if header == "work" else "right")
    for row in rows:
        first = next(other for other in rows if other.work == row.work)
        ratio, held = _growth([first, row]) if row is not first else (1.0, None)
        table.add_row(
            row.work,
            f"{row.pictures:,}",
            f"{row.seconds:.1f}",
            f"{row.cpu_seconds:.1f}",
            f"{1000 * row.cpu_seconds / row.pictures:.2f}",
            f"{ratio:.2f}",
            f"{row.peak_mb:,.0f}",
            "" if held is None else f"{held:,.0f}",
            end_section=row.pictures == _SIZES[-1],
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
