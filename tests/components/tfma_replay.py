"""A model that replays detections stored in its records, and TFMA runs on such records."""

import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_model_analysis.proto import config_pb2

from data.beam_runner import IN_PROCESS
from data.fields import COMMON
from metrics.accumulator import DetectionAccumulator

CLASSES = ("cat", "dog", "owl", "ghost")  # no record has a ghost, so it has no AP
ROWS = 6  # rows of an answer, including padding
HEIGHT, WIDTH = 120, 400  # of every picture
WEAK = 0.45  # the baseline keeps only detections above this score


class Replay(tf.Module):
    """Returns the detections stored in the record with a score above `score_bound`."""

    def __init__(self, score_bound):
        super().__init__()
        self._score_bound = score_bound

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def serving_examples(self, examples):
        stored = tf.io.parse_example(
            examples,
            {
                "stored/box": tf.io.FixedLenFeature([ROWS, 4], tf.float32),
                "stored/score": tf.io.FixedLenFeature([ROWS], tf.float32),
                "stored/name": tf.io.FixedLenFeature([ROWS], tf.string),
            },
        )
        kept = tf.reduce_sum(tf.cast(stored["stored/score"] > self._score_bound, tf.int64), axis=1)
        return {
            "detection_boxes": stored["stored/box"],
            "detection_scores": stored["stored/score"],
            "detection_class_names": stored["stored/name"],
            "detection_classes": tf.zeros_like(stored["stored/score"], tf.int64),
            "num_detections": kept,
        }


def save_model(folder, score_bound=0.0):
    module = Replay(score_bound)
    tf.saved_model.save(
        module, str(folder), signatures={"serving_examples": module.serving_examples}
    )
    return str(folder)


def pictures(count=24):
    """(id, boxes, names, difficult, detected boxes, scores, names) for each picture."""
    random = np.random.default_rng(0)

    def boxes(count):
        start = random.uniform(0, 0.6, (count, 2))
        return np.hstack([start, start + random.uniform(0.1, 0.4, (count, 2))]).astype(np.float32)

    made = []
    for number in range(count):
        objects = [0, 3, 1, 4][number % 4]  # batches hold pictures with and without objects
        truth = boxes(objects)
        names = random.choice(CLASSES[:3], objects)
        found = int(random.integers(0, ROWS + 1))
        near = (truth + random.normal(0, 0.02, truth.shape)).astype(np.float32)
        near = np.hstack([near[:, :2], np.maximum(near[:, 2:], near[:, :2])])
        detected = np.vstack([near, boxes(ROWS)])[:found]
        detected_names = np.append(names, random.choice(CLASSES[:3], ROWS))[:found]
        scores = np.sort(random.choice(np.linspace(0.1, 1, 10), found))[::-1].astype(np.float32)
        difficult = random.random(objects) < 0.2
        made.append((f"p{number:03}", truth, names, difficult, detected, scores, detected_names))
    return made


PICTURES = pictures()


def truncated(names):
    """Marks every second object of a picture."""
    return np.arange(len(names)) % 2


def accumulate(pictures, score_bound=0.0):
    """What the metric should collect from the pictures, in pixels, without TFMA."""
    accumulator = DetectionAccumulator(CLASSES)
    scale = (HEIGHT, WIDTH, HEIGHT, WIDTH)
    for image_id, truth, names, difficult, detected, scores, detected_names in pictures:
        kept = scores > np.float32(score_bound)
        accumulator.add(
            image_id,
            truth.astype(np.float64) * scale,
            names,
            difficult,
            detected[kept].astype(np.float64) * scale,
            scores[kept],
            detected_names[kept],
            gt_truncated=truncated(names),
        )
    return accumulator


def feature(values):
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values.reshape(-1)))
    if values.dtype.kind in "bi":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values.reshape(-1)))
    data = [value.encode() for value in values.reshape(-1).tolist()]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=data))


def example(picture, fields):
    image_id, truth, names, difficult, detected, scores, detected_names = picture
    padding = ROWS - len(scores)
    features = {
        fields.filename: feature([f"{image_id}.jpg"]),
        fields.height: feature([HEIGHT]),
        fields.width: feature([WIDTH]),
        "stored/box": feature(np.vstack([detected, np.zeros((padding, 4))]).astype(np.float32)),
        "stored/score": feature(np.append(scores, np.zeros(padding)).astype(np.float32)),
        "stored/name": feature(np.append(detected_names, [""] * padding).astype(str)),
        "size": feature(["many" if len(names) > 1 else "few"]),
    }
    if fields.source_id:
        features[fields.source_id] = feature([image_id])
    if len(names):
        for name, column in zip(
            (fields.ymin, fields.xmin, fields.ymax, fields.xmax), truth.T, strict=True
        ):
            features[name] = feature(column)
        features[fields.text] = feature(names)
        features[fields.difficult] = feature(difficult.astype(np.int64))
        features[fields.truncated] = feature(truncated(names))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def schema(fields):
    """Like SchemaGen's: object features of any length, the others with one value."""
    result = schema_pb2.Schema()
    kinds = dict.fromkeys((fields.ymin, fields.xmin, fields.ymax, fields.xmax), schema_pb2.FLOAT)
    kinds |= {fields.text: schema_pb2.BYTES}
    kinds |= dict.fromkeys((fields.difficult, fields.truncated), schema_pb2.INT)
    for name, kind in kinds.items():
        result.feature.add(name=name, type=kind)
    for name in (fields.height, fields.width):
        result.feature.add(name=name, type=schema_pb2.INT).shape.dim.add(size=1)
        result.feature[-1].presence.min_fraction = 1.0
    for name in (fields.filename, fields.source_id, "size"):
        if name:
            result.feature.add(name=name, type=schema_pb2.BYTES).shape.dim.add(size=1)
            result.feature[-1].presence.min_fraction = 1.0
    return result


def eval_config(metric, bounds=(), baseline=False, slices=()):
    """bounds: config_pb2.MetricThreshold by metric name, for the whole split."""
    models = [config_pb2.ModelSpec(name="candidate", signature_name="serving_examples")]
    if baseline:
        models.append(
            config_pb2.ModelSpec(
                name="baseline", signature_name="serving_examples", is_baseline=True
            )
        )
    overall = config_pb2.SlicingSpec()
    thresholds = {
        name: config_pb2.PerSliceMetricThresholds(
            thresholds=[
                config_pb2.PerSliceMetricThreshold(slicing_specs=[overall], threshold=threshold)
            ]
        )
        for name, threshold in dict(bounds).items()
    }
    return config_pb2.EvalConfig(
        model_specs=models,
        slicing_specs=[overall, *(config_pb2.SlicingSpec(feature_keys=[name]) for name in slices)],
        metrics_specs=[config_pb2.MetricsSpec(metrics=[metric], per_slice_thresholds=thresholds)],
    )


def run(
    folder,
    models,
    config,
    pictures=PICTURES,
    fields=COMMON,
    with_schema=False,
    extractors=(),
    beam_args=IN_PROCESS,
):
    """Evaluates saved models by name; returns the evaluation's folder."""
    for shard in range(3):
        with tf.io.TFRecordWriter(str(folder / f"records-{shard}")) as writer:
            for picture in pictures[shard::3]:
                writer.write(example(picture, fields))
    shared = [
        tfma.default_eval_shared_model(path, model_name=name, eval_config=config)
        for name, path in models.items()
    ]
    tfma.run_model_analysis(
        eval_shared_model=shared,
        eval_config=config,
        data_location=str(folder / "records-*"),
        output_path=str(folder / "evaluation"),
        extractors=extractors and extractors(shared, config, None),
        schema=schema(fields) if with_schema else None,
        pipeline_options=PipelineOptions(list(beam_args)),
    )
    return folder / "evaluation"
