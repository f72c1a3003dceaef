"""The speed of the input pipeline, compared with bare decoding and with the paper's plain order.

    python -m benchmarks.input_pipeline [--records DIR] [--rounds N] [--json FILE]

`DIR` has converted pictures with VOC's classes. By default, the 300 pictures in VOC_FIXTURES are
converted first.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Bound, report
from benchmarks.side_by_side import Task, cpu_ratio, measure

_BATCH = 32
_BATCHES = 10
_WARM_UP_BATCHES = 5
_SIZE = 300
_PICTURES = _BATCH * _BATCHES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline")
    parser.add_argument("--records", type=Path, metavar="DIR", help="converted VOC pictures")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = options.records or _converted(Path(folder) / "records")
        files = tuple(str(path) for path in sorted(records.glob("*/*.tfrecord.gz")))
        kinds = {"read": _read, "read + decode": _decode, "full chain": _full, "plain": _plain}
        tasks = {
            f"{kind}, {cores} core{'s' * (cores > 1)}": Task(prepare, (files,), cores)
            for cores in (1, 2)
            for kind, prepare in kinds.items()
        }
        measured = measure(tasks, options.rounds)
    rows = [
        {
            "what": name,
            "pictures/s": _PICTURES / found.median,
            "pictures/CPU second": _PICTURES / found.cpu_median,
            "peak memory MiB": found.peak_mib,
        }
        for name, found in measured.items()
    ]
    bounds = []
    for cores in ("1 core", "2 cores"):
        full = measured[f"full chain, {cores}"]
        against = cpu_ratio(measured[f"read + decode, {cores}"], full)
        bounds.append(Bound(f"full chain / decode alone, {cores}", against, least=0.6))
        against = cpu_ratio(measured[f"plain, {cores}"], full)
        bounds.append(Bound(f"full chain / plain order, {cores}", against, least=3.0))
    return report(f"input pipeline to {_SIZE} px", rows, bounds, options.json)


def _converted(output: Path) -> Path:
    fixtures = os.environ.get("VOC_FIXTURES")
    if not fixtures:
        raise SystemExit("error: give --records DIR, or set VOC_FIXTURES")
    command = [sys.executable, "-m", "data.convert", "--voc", f"{fixtures}/voc2007_300"]
    # In a separate process, so that this one stays small.
    subprocess.run([*command, "--output", str(output)], check=True, capture_output=True)
    return output


class _Drain:
    """Takes batches from a dataset that keeps running between rounds, after a warm-up."""

    def __init__(self, dataset):
        from trainer.input_pipeline import keep_freed_memory

        keep_freed_memory()  # as in training
        self._batches = iter(dataset)

    def warm_up(self):
        self._take(_WARM_UP_BATCHES)

    def __call__(self):
        self._take(_BATCHES)

    def _take(self, count):
        for _ in range(count):
            next(self._batches)


def _read(files):
    from data.record_folder import read_records

    return _Drain(read_records(files).repeat().batch(_BATCH))


def _decode(files):
    import tensorflow as tf

    from data.fields import COMMON
    from data.record_folder import read_records

    def decode(record):
        spec = {COMMON.encoded: tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_single_example(record, spec)[COMMON.encoded]
        # One number per picture, so that batching costs nothing.
        return tf.io.decode_jpeg(encoded, channels=3)[0, 0, 0]

    records = read_records(files).repeat()
    return _Drain(records.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(_BATCH))


def _full(files):
    from data.schema import VOC_SCHEMA, read_schema
    from trainer.config import TrainerConfig
    from trainer.input_pipeline import count_records, training_batches
    from trainer.schema_records import SchemaRecords

    config = TrainerConfig(batch_size=_BATCH)
    records = SchemaRecords(read_schema(VOC_SCHEMA))
    count, _ = count_records(files)
    return _Drain(training_batches(files, records, config, _SIZE, count))


def _plain(files):
    """The paper's order, each step applied to the whole picture, which grows on the way."""
    import tensorflow as tf

    from data.record_folder import read_records
    from data.schema import VOC_SCHEMA, read_schema
    from trainer import augmentation
    from trainer.backbones import MEAN_RGB
    from trainer.schema_records import SchemaRecords

    records = SchemaRecords(read_schema(VOC_SCHEMA))
    expand_only = dataclasses.replace(augmentation.PAPER, patch_scale=None, flip_probability=0.0)
    patch_only = dataclasses.replace(augmentation.PAPER, expand_probability=0.0)

    def draw(numbers, serialised):
        found = records(serialised)
        boxes = tf.ragged.boolean_mask(found["boxes"], found["labels"] > 0)
        seeds = tf.stack([numbers, tf.zeros_like(numbers)], axis=1)
        expanded = augmentation.draw(boxes, seeds, expand_only)
        canvas = tf.gather(expanded.window, boxes.value_rowids())
        on_canvas = augmentation.boxes_in_window(boxes.flat_values, canvas, False)
        patch = augmentation.draw(boxes.with_flat_values(on_canvas), seeds + 2**32, patch_only)
        return found, expanded, patch

    def augment(record, expanded, patch):
        real = record["labels"] > 0
        picture = tf.cast(tf.io.decode_jpeg(record["encoded"], channels=3), tf.float32)
        picture = augmentation.distort_colours(picture, expanded.colours)

        canvas = expanded.window
        extent = tf.cast(tf.shape(picture)[:2], tf.float32)
        before = tf.cast(-canvas[:2] * extent, tf.int32)
        after = tf.cast((canvas[2:] - 1.0) * extent, tf.int32)
        padding = tf.concat([tf.stack([before, after], axis=1), [[0, 0]]], axis=0)
        picture = tf.pad(picture - MEAN_RGB, padding) + MEAN_RGB
        boxes = augmentation.boxes_in_window(tf.boolean_mask(record["boxes"], real), canvas, False)

        window = patch.window
        extent = tf.cast(tf.shape(picture)[:2], tf.float32)
        first = tf.cast(window[:2] * extent, tf.int32)
        last = tf.maximum(tf.cast(window[2:] * extent, tf.int32), first + 1)
        picture = picture[first[0] : last[0], first[1] : last[1]]
        picture = tf.image.resize(picture, [_SIZE, _SIZE])
        picture = tf.cond(patch.flip, lambda: picture[:, ::-1], lambda: picture)
        kept = augmentation.centres_inside(boxes, window)
        boxes = augmentation.boxes_in_window(tf.boolean_mask(boxes, kept), window, patch.flip)
        labels = tf.boolean_mask(tf.boolean_mask(record["labels"], real), kept)
        return tf.ensure_shape(picture, [_SIZE, _SIZE, 3]), boxes, labels

    numbered = read_records(files).repeat().enumerate().batch(64)
    examples = numbered.map(draw).unbatch().map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return _Drain(examples.padded_batch(_BATCH, ([_SIZE, _SIZE, 3], [None, 4], [None])))


if __name__ == "__main__":
    sys.exit(main())
