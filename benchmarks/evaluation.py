"""How fast the metric is, beside pycocotools on the same data in the same run.

    python -m benchmarks.evaluation [--json FILE]

The real detector's output is measured where VOC_FIXTURES names the folder that holds it.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from data.console import quiet

_PICTURES = 5_000
_OBJECTS = 7  # a picture, as in COCO


class Scene(NamedTuple):
    """Drawn pictures: objects and detections of one picture after another, boxes in pixels."""

    num_classes: int
    truth: list[tuple[np.ndarray, np.ndarray]]  # boxes [n, 4], class indices [n]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # boxes, class indices, scores


class Measurement(NamedTuple):
    """Seconds of the metric; `bound` is what they must stay below, and where it comes from."""

    name: str
    seconds: float
    bound: float
    reference: str


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    quiet()
    measurements = [*_oracle(), *_coco(), *_tfma()]
    table = Table(title=f"evaluation, {os.cpu_count()} CPU cores")
    for header in ("what", "seconds", "may take", "times as fast"):
        table.add_column(header, justify="left" if header == "what" else "right")
    for row in measurements:
        table.add_row(
            row.name,
            f"{row.seconds:.2f}",
            f"{row.bound:.2f} ({row.reference})",
            f"{row.bound / row.seconds:.1f}",
        )
    Console(width=140).print(table)
    document = {
        "measurements": [row._asdict() for row in measurements],
        "bytes_per_detection": _bytes_per_detection(),
    }
    text = json.dumps(document, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    slow = [row.name for row in measurements if row.seconds > row.bound]
    if slow:
        print(f"slower than it may be: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


def _seconds(action: Callable) -> tuple[float, object]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def _oracle() -> list[Measurement]:
    """A real detector on VOC2007's test list, from parsed files to AP."""
    from components.mean_average_precision.voc import evaluate
    from components.voc_map import accumulate, read_folders

    folder = os.environ.get("VOC_FIXTURES")
    if not folder:
        print("VOC_FIXTURES is not set: no measurement of a real detector", file=sys.stderr)
        return []
    archives = Path(folder) / "oracles" / "voc2007_test"
    with tempfile.TemporaryDirectory() as unpacked:
        for name in ("annotations_and_lists", "detections"):
            with tarfile.open(archives / f"{name}.tar.xz") as archive:
                archive.extractall(unpacked, filter="data")
        (annotations,) = Path(unpacked).rglob("Annotations")
        detections = next(Path(unpacked).rglob("comp4_det_test_*.txt")).parent
        image_set = annotations.parent / "ImageSets" / "Main" / "test.txt"
        data = read_folders(annotations, image_set, detections)
    seconds, result = _seconds(lambda: evaluate(accumulate(data)))
    count = sum(row.detections for row in result.classes.values())
    name = f"VOC07 AP of {len(data.image_ids):,} pictures, {count:,} detections"
    return [Measurement(f"{name}: mAP {result.map_11_point:.4f}", seconds, 2.0, "target")]


def _coco() -> list[Measurement]:
    """COCO's twelve numbers on 5,000 pictures with 100 detections each."""
    from components.mean_average_precision.coco import evaluate

    scene = _draw(num_classes=80, detections=100)
    seconds, result = _seconds(lambda: evaluate(_accumulate(scene)))
    reference, evaluation = _pycocotools(scene, None)
    _check_equal(result.ap, evaluation.stats[0])
    name = f"COCO metrics, {_PICTURES:,} pictures x 100 detections"
    return [Measurement(name, seconds, reference / 2, "half of pycocotools' time")]


def _tfma() -> list[Measurement]:
    """TFMA with the metric, from a file of records and answers to written numbers."""
    scene = _draw(num_classes=20, detections=200)
    with tempfile.TemporaryDirectory() as folder:
        records = _write_extracts(scene, Path(folder))
        seconds, found = _seconds(lambda: _evaluate_by_tfma(scene.num_classes, records))
    reference, evaluation = _pycocotools(scene, [0.5])
    name = f"TFMA, {_PICTURES:,} pictures x 200 detections x 20 classes"
    # Not the same rule, but on such data nearly the same number: both did all the work.
    _check_close(found, evaluation.stats[1])
    return [Measurement(name, seconds, reference, "pycocotools' time for one IoU")]


def _draw(num_classes: int, detections: int) -> Scene:
    """Pictures of 500 x 375 with objects of all sizes; half of the detections are near one."""
    random = np.random.default_rng(0)

    def boxes(count):
        size = np.exp(random.uniform(np.log(10), np.log(300), (count, 2)))
        start = random.uniform(0, 1, (count, 2)) * ((375, 500) - size).clip(0)
        return np.hstack([start, start + size])

    truth, found = [], []
    for _ in range(_PICTURES):
        objects = boxes(_OBJECTS)
        classes = random.integers(0, num_classes, _OBJECTS)
        meant = random.integers(0, _OBJECTS, detections)
        near = objects[meant] + random.normal(0, 8, (detections, 4))
        near[:, 2:] = np.maximum(near[:, :2] + 1, near[:, 2:])
        is_near = random.random(detections) < 0.5
        # Float32, as a model gives them: no two implementations can differ by rounding.
        place = np.where(is_near[:, None], near, boxes(detections)).astype(np.float32)
        strange = random.integers(0, num_classes, detections)
        scores = random.beta(np.where(is_near, 3, 1), 2).astype(np.float32)
        truth.append((objects.astype(np.float32), classes))
        found.append((place, np.where(is_near, classes[meant], strange), scores))
    return Scene(num_classes, truth, found)


def _accumulate(scene: Scene):
    from components.mean_average_precision.accumulator import DetectionAccumulator

    accumulator = DetectionAccumulator([f"class{index}" for index in range(scene.num_classes)])
    for number, (truth, found) in enumerate(zip(scene.truth, scene.found, strict=True)):
        (objects, classes), (boxes, found_classes, scores) = truth, found
        difficult = np.zeros(len(classes), bool)
        image_id = f"{number:012d}"
        accumulator.add(image_id, objects, classes, difficult, boxes, scores, found_classes)
    return accumulator


def _pycocotools(scene: Scene, iou_thresholds: list[float] | None):
    """Seconds of pycocotools' evaluation alone, without building its index, and what it found."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def corner_and_size(boxes):
        boxes = boxes.astype(np.float64)
        return np.hstack([boxes[:, 1::-1], boxes[:, :1:-1] - boxes[:, 1::-1]])

    annotations = [
        {"image_id": image, "category_id": int(kind) + 1, "bbox": box.tolist()}
        for image, (boxes, classes) in enumerate(scene.truth)
        for box, kind in zip(corner_and_size(boxes), classes, strict=True)
    ]
    for number, item in enumerate(annotations, start=1):
        item |= {"id": number, "iscrowd": 0, "area": item["bbox"][2] * item["bbox"][3]}
    detections = np.vstack(
        [
            np.column_stack(
                [np.full(len(scores), image), corner_and_size(boxes), scores, classes + 1]
            )
            for image, (boxes, classes, scores) in enumerate(scene.found)
        ]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(scene.truth))],
            "categories": [{"id": number + 1} for number in range(scene.num_classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        if iou_thresholds:
            evaluation.params.iouThrs = np.array(iou_thresholds)

        def evaluate():
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()

        seconds, _ = _seconds(evaluate)
    return seconds, evaluation


def _evaluate_by_tfma(num_classes: int, records: Path) -> float:
    """mAP_area of a whole TFMA run over what `_write_extracts` wrote."""
    import apache_beam as beam
    import tensorflow_model_analysis as tfma
    from apache_beam.options.pipeline_options import PipelineOptions
    from tensorflow_model_analysis.proto import config_pb2

    from components.evaluation import OVERALL, read_evaluation
    from components.mean_average_precision import tfma_metric
    from data.fields import COMMON

    names = [f"class{index}" for index in range(num_classes)]
    config = config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec()],
        metrics_specs=[config_pb2.MetricsSpec(metrics=[tfma_metric.metric_config(names, COMMON)])],
    )
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    with tempfile.TemporaryDirectory() as folder:
        with pipeline:
            _ = (
                pipeline
                | beam.io.ReadFromTFRecord(str(records))
                | beam.Map(pickle.loads)
                | tfma.ExtractAndEvaluate(
                    extractors=[tfma.extractors.SliceKeyExtractor(eval_config=config)],
                    evaluators=tfma.default_evaluators(eval_config=config),
                )
                | tfma.WriteResults(tfma.default_writers(folder, eval_config=config))
            )
        return read_evaluation(Path(folder)).candidate[OVERALL][tfma_metric.MAP_AREA].value


def _write_extracts(scene: Scene, folder: Path) -> Path:
    """Records and answers as TFMA's extractors leave them, pickled into a TFRecord file."""
    import tensorflow as tf
    import tensorflow_model_analysis as tfma

    from data.fields import COMMON

    names = np.array([b"class%d" % index for index in range(scene.num_classes)], object)
    size = np.array([375.0, 500.0, 375.0, 500.0])
    path = folder / "extracts"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, (truth, found) in enumerate(zip(scene.truth, scene.found, strict=True)):
            (objects, classes), (boxes, found_classes, scores) = truth, found
            ymin, xmin, ymax, xmax = (objects / size).T
            features = {
                COMMON.source_id: np.array([b"%012d" % number], object),
                COMMON.height: np.array([375]),
                COMMON.width: np.array([500]),
                COMMON.text: names[classes],
                COMMON.ymin: ymin,
                COMMON.xmin: xmin,
                COMMON.ymax: ymax,
                COMMON.xmax: xmax,
            }
            answer = {
                "detection_boxes": boxes / size,
                "detection_scores": scores,
                "detection_class_names": names[found_classes],
                "num_detections": np.array([len(scores)]),
            }
            extracts = {tfma.FEATURES_KEY: features, tfma.PREDICTIONS_KEY: answer}
            writer.write(pickle.dumps(extracts))
    return path


def _bytes_per_detection() -> dict[str, float]:
    """Memory of the accumulated columns for each further detection of a picture."""

    def size(detections):
        columns = _accumulate(_draw(num_classes=20, detections=detections)).columns()
        return sum(column.nbytes for column in columns)

    return {"accumulator": (size(60) - size(20)) / (40 * _PICTURES)}


def _check_equal(mine: float, theirs: float) -> None:
    if abs(mine - theirs) > 1e-9:
        raise SystemExit(f"error: AP is {mine}, pycocotools says {theirs}")


def _check_close(mine: float, theirs: float) -> None:
    if abs(mine - theirs) > 0.02:
        raise SystemExit(f"error: mAP is {mine}, pycocotools' AP50 {theirs}")


if __name__ == "__main__":
    sys.exit(main())
