"""The speed of the metric, compared with pycocotools on the same data in the same run.

    python -m benchmarks.evaluation [--json FILE]

If VOC_FIXTURES is set, it also measures on the output of a real detector.
"""

import argparse
import contextlib
import io
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.drawn import Drawn, class_names, draw, evaluate_by_tfma, write_extracts
from benchmarks.report import Bound, report
from data.console import quiet

_PICTURES = 5_000
# A box, its score, its class, its picture, and their order.
_BYTES_PER_DETECTION = 100


class Measurement(NamedTuple):
    """Seconds of the metric, their upper bound, and where the bound comes from."""

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
    rows = [
        {
            "what": row.name,
            "seconds": row.seconds,
            "may take": row.bound,
            "that is": row.reference,
            "times as fast": row.bound / row.seconds,
        }
        for row in measurements
    ]
    bounds = [Bound(row.name, row.seconds, most=row.bound) for row in measurements]
    bounds.append(Bound("bytes per detection", _bytes_per_detection(), most=_BYTES_PER_DETECTION))
    return report("evaluation", rows, bounds, options.json)


def _seconds(action: Callable) -> tuple[float, object]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def _oracle() -> list[Measurement]:
    """A real detector on VOC2007's test list: from parsed files to AP."""
    from metrics.detection_files import accumulate, read_folders
    from metrics.voc import evaluate

    folder = os.environ.get("VOC_FIXTURES")
    if not folder:
        print("VOC_FIXTURES is not set: real detector not measured", file=sys.stderr)
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
    from metrics.coco import evaluate

    drawn = list(draw(_PICTURES, num_classes=80, detections=100))
    seconds, result = _seconds(lambda: evaluate(_accumulate(drawn, 80)))
    reference, evaluation = _pycocotools(drawn, 80, None)
    _check_equal(result.ap, evaluation.stats[0])
    name = f"COCO metrics, {_PICTURES:,} pictures x 100 detections"
    return [Measurement(name, seconds, reference / 2, "half of pycocotools' time")]


def _tfma() -> list[Measurement]:
    """TFMA with the metric: from a file of records and answers to written numbers."""
    drawn = list(draw(_PICTURES, num_classes=20, detections=200))
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder, "extracts")
        write_extracts(drawn, 20, records)
        seconds, found = _seconds(lambda: evaluate_by_tfma(20, records))
    reference, evaluation = _pycocotools(drawn, 20, [0.5])
    name = f"TFMA, {_PICTURES:,} pictures x 200 detections x 20 classes"
    # The rules differ, but on this data the numbers are close, so both did all the work.
    _check_close(found, evaluation.stats[1])
    return [Measurement(name, seconds, reference, "pycocotools' time for one IoU")]


def _accumulate(drawn: Iterable[Drawn], num_classes: int):
    from metrics.accumulator import DetectionAccumulator

    accumulator = DetectionAccumulator(class_names(num_classes))
    for number, picture in enumerate(drawn):
        accumulator.add(
            f"{number:012d}",
            picture.objects,
            picture.object_classes,
            np.zeros(len(picture.objects), bool),
            picture.boxes,
            picture.scores,
            picture.classes,
        )
    return accumulator


def _pycocotools(drawn: Sequence[Drawn], num_classes: int, iou_thresholds: list[float] | None):
    """Seconds of pycocotools' evaluation, without building its index, and the evaluation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def corner_and_size(boxes):
        boxes = boxes.astype(np.float64)
        return np.hstack([boxes[:, 1::-1], boxes[:, :1:-1] - boxes[:, 1::-1]])

    annotations = [
        {"image_id": image, "category_id": int(kind) + 1, "bbox": box.tolist()}
        for image, picture in enumerate(drawn)
        for box, kind in zip(corner_and_size(picture.objects), picture.object_classes, strict=True)
    ]
    for number, item in enumerate(annotations, start=1):
        item |= {"id": number, "iscrowd": 0, "area": item["bbox"][2] * item["bbox"][3]}
    detections = np.vstack(
        [
            np.column_stack(
                [
                    np.full(len(picture.scores), image),
                    corner_and_size(picture.boxes),
                    picture.scores,
                    picture.classes + 1,
                ]
            )
            for image, picture in enumerate(drawn)
        ]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(drawn))],
            "categories": [{"id": number + 1} for number in range(num_classes)],
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


def _bytes_per_detection() -> float:
    """Memory that each additional detection adds to the accumulated columns."""

    def size(detections):
        columns = _accumulate(draw(_PICTURES, 20, detections), 20).columns()
        return sum(column.nbytes for column in columns)

    return (size(60) - size(20)) / (40 * _PICTURES)


def _check_equal(mine: float, theirs: float) -> None:
    if abs(mine - theirs) > 1e-9:
        raise SystemExit(f"error: AP is {mine}, pycocotools has {theirs}")


def _check_close(mine: float, theirs: float) -> None:
    if abs(mine - theirs) > 0.02:
        raise SystemExit(f"error: mAP is {mine}, pycocotools has AP50 {theirs}")


if __name__ == "__main__":
    sys.exit(main())
