"""Random objects, with detections for TFMA or as a training batch."""

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

_OBJECTS = 7  # per picture, as in COCO
_HEIGHT_PX, _WIDTH_PX = 375, 500
_MOST_OBJECTS = 10  # per picture of a training batch; half as many on average


class Drawn(NamedTuple):
    """One picture; boxes float32 [n, 4] in pixels, ymin, xmin, ymax, xmax; classes as indices."""

    objects: np.ndarray
    object_classes: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def class_names(num_classes: int) -> list[str]:
    """The names of the drawn classes, by index."""
    return [f"class{index}" for index in range(num_classes)]


def draw(pictures: int, num_classes: int, detections: int) -> Iterator[Drawn]:
    """Pictures of 500 x 375 with objects of all sizes; half the detections are near an object."""
    random = np.random.default_rng(0)

    def boxes(count):
        size = np.exp(random.uniform(np.log(10), np.log(300), (count, 2)))
        start = random.uniform(0, 1, (count, 2)) * ((_HEIGHT_PX, _WIDTH_PX) - size).clip(0)
        return np.hstack([start, start + size])

    for _ in range(pictures):
        objects = boxes(_OBJECTS)
        classes = random.integers(0, num_classes, _OBJECTS)
        meant = random.integers(0, _OBJECTS, detections)
        near = objects[meant] + random.normal(0, 8, (detections, 4))
        near[:, 2:] = np.maximum(near[:, :2] + 1, near[:, 2:])
        is_near = random.random(detections) < 0.5
        # Float32, as from a model, so that implementations do not differ by rounding.
        place = np.where(is_near[:, None], near, boxes(detections)).astype(np.float32)
        strange = random.integers(0, num_classes, detections)
        scores = random.beta(np.where(is_near, 3, 1), 2).astype(np.float32)
        yield Drawn(
            objects.astype(np.float32),
            classes,
            place,
            np.where(is_near, classes[meant], strange),
            scores,
        )


def training_batch(pictures: int, size: int, num_classes: int) -> tuple[np.ndarray, ...]:
    """A batch for the training step: noise, with one to ten objects of all sizes per picture.

    images float32 [pictures, size, size, 3] in 0-255; boxes float32 [pictures, 10, 4] and labels
    int32 [pictures, 10], padded with zeros.
    """
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (pictures, size, size, 3)).astype(np.float32)
    extent = np.exp(random.uniform(np.log(0.05), np.log(0.9), (pictures, _MOST_OBJECTS, 2)))
    origin = random.uniform(0, 1, extent.shape) * (1 - extent)
    boxes = np.concatenate([origin, origin + extent], axis=-1).astype(np.float32)
    labels = random.integers(1, num_classes + 1, (pictures, _MOST_OBJECTS)).astype(np.int32)
    counts = random.integers(1, _MOST_OBJECTS + 1, pictures)
    counts[0] = _MOST_OBJECTS
    real = np.arange(_MOST_OBJECTS) < counts[:, None]
    return images, boxes * real[..., None], labels * real


def write_extracts(drawn: Iterable[Drawn], num_classes: int, path: Path) -> None:
    """Writes records and answers, as TFMA's extractors give them, pickled in a TFRecord file."""
    import tensorflow as tf
    import tensorflow_model_analysis as tfma

    from data.fields import COMMON

    names = np.array([name.encode() for name in class_names(num_classes)], object)
    size = np.array([_HEIGHT_PX, _WIDTH_PX] * 2, np.float64)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, picture in enumerate(drawn):
            ymin, xmin, ymax, xmax = (picture.objects / size).T
            features = {
                COMMON.source_id: np.array([b"%012d" % number], object),
                COMMON.height: np.array([_HEIGHT_PX]),
                COMMON.width: np.array([_WIDTH_PX]),
                COMMON.text: names[picture.object_classes],
                COMMON.ymin: ymin,
                COMMON.xmin: xmin,
                COMMON.ymax: ymax,
                COMMON.xmax: xmax,
            }
            answer = {
                "detection_boxes": picture.boxes / size,
                "detection_scores": picture.scores,
                "detection_class_names": names[picture.classes],
                "num_detections": np.array([len(picture.scores)]),
            }
            extracts = {tfma.FEATURES_KEY: features, tfma.PREDICTIONS_KEY: answer}
            writer.write(pickle.dumps(extracts))


def evaluate_by_tfma(num_classes: int, records: Path, intervals: bool = False) -> float:
    """mAP_area from a whole TFMA run over the file of `write_extracts`.

    intervals: whether to draw the 20 samples for confidence intervals, as the Evaluator does.
    """
    import apache_beam as beam
    import tensorflow_model_analysis as tfma
    from apache_beam.options.pipeline_options import PipelineOptions
    from tensorflow_model_analysis.proto import config_pb2

    from components.evaluation import OVERALL, read_evaluation
    from components.mean_average_precision import metric_names, tfma_metric
    from data.beam_runner import IN_PROCESS
    from data.fields import COMMON

    metric = tfma_metric.metric_config(class_names(num_classes), COMMON, with_intervals=intervals)
    config = config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec()],
        metrics_specs=[config_pb2.MetricsSpec(metrics=[metric])],
    )
    pipeline = beam.Pipeline(options=PipelineOptions(list(IN_PROCESS)))
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
        return read_evaluation(Path(folder)).candidate[OVERALL][metric_names.MAP_AREA].value
