"""The TFMA metric over records and a SavedModel, against the plain evaluation of the same boxes."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_metadata.proto.v0 import schema_pb2

from components.mean_average_precision import tfma_metric
from components.mean_average_precision.accumulator import DetectionAccumulator
from components.mean_average_precision.voc import evaluate
from data.fields import COMMON, SEED

CLASSES = ("cat", "dog", "owl", "ghost")  # no record has a ghost, so it has no AP
ROWS = 6  # rows of an answer, padding included
HEIGHT, WIDTH = 120, 400  # of every picture
WEAK = 0.45  # the baseline keeps only detections above this score


class Replay(tf.Module):
    """A model that answers with the detections stored in the record, weakened on request."""

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


def pictures():
    """(id, boxes, names, difficult, detected boxes, scores, names) of 24 pictures."""
    random = np.random.default_rng(0)

    def boxes(count):
        start = random.uniform(0, 0.6, (count, 2))
        return np.hstack([start, start + random.uniform(0.1, 0.4, (count, 2))]).astype(np.float32)

    made = []
    for number in range(24):
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
        made.append((f"p{number:02}", truth, names, difficult, detected, scores, detected_names))
    return made


PICTURES = pictures()


def plain(score_bound=0.0, pictures=PICTURES):
    accumulator = DetectionAccumulator(CLASSES)
    for image_id, truth, names, difficult, detected, scores, detected_names in pictures:
        keep = scores > np.float32(score_bound)
        accumulator.add(
            image_id, truth, names, difficult, detected[keep], scores[keep], detected_names[keep]
        )
    return evaluate(accumulator)


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
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def schema(fields):
    """As SchemaGen would infer it: object features of any length, the others with one value."""
    result = schema_pb2.Schema()
    kinds = dict.fromkeys((fields.ymin, fields.xmin, fields.ymax, fields.xmax), schema_pb2.FLOAT)
    kinds |= {fields.text: schema_pb2.BYTES, fields.difficult: schema_pb2.INT}
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


def eval_config(fields, thresholds=(), baseline=False, sliced=True, **options):
    models = [tfma.ModelSpec(name="candidate", signature_name="serving_examples")]
    if baseline:
        models.append(
            tfma.ModelSpec(name="baseline", signature_name="serving_examples", is_baseline=True)
        )
    return tfma.EvalConfig(
        model_specs=models,
        slicing_specs=[tfma.SlicingSpec()] + [tfma.SlicingSpec(feature_keys=["size"])] * sliced,
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[tfma_metric.metric_config(CLASSES, fields)], thresholds=dict(thresholds)
            )
        ],
        options=tfma.Options(**options),
    )


def run(tmp_path, models, config, fields=COMMON, with_schema=False):
    for shard in range(3):
        with tf.io.TFRecordWriter(str(tmp_path / f"records-{shard}")) as writer:
            for picture in PICTURES[shard::3]:
                writer.write(example(picture, fields))
    tfma.run_model_analysis(
        eval_shared_model=[
            tfma.default_eval_shared_model(path, model_name=name, eval_config=config)
            for name, path in models.items()
        ],
        eval_config=config,
        data_location=str(tmp_path / "records-*"),
        output_path=str(tmp_path / "evaluation"),
        schema=schema(fields) if with_schema else None,
        pipeline_options=PipelineOptions(["--runner=FnApiRunner"]),
    )
    return str(tmp_path / "evaluation")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "candidate": save_model(folder / "candidate"),
        "baseline": save_model(folder / "baseline", score_bound=WEAK),
    }


def metrics_of(result, slice_key=()):
    """Name -> value, as `tfma.load_eval_result` hands it to a reader."""
    (found,) = [metrics for key, metrics in result.slicing_metrics if key == slice_key]
    return found[""][""]


def number(value):
    return float(value["doubleValue"])


def assert_equals_plain(metrics, expected):
    values = {"mAP": expected.map_11_point, "mAP_area": expected.map_area}
    for name, row in expected.classes.items():
        values |= {f"AP/{name}": row.ap_11_point, f"AP_area/{name}": row.ap_area}
    found = {name: number(metrics[name]) for name in values}
    assert found == pytest.approx(values, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(("fields", "with_schema"), [(COMMON, False), (COMMON, True), (SEED, True)])
def test_evaluation_equals_the_plain_function(tmp_path, models, fields, with_schema):
    config = eval_config(fields, baseline=True)
    output = run(tmp_path, models, config, fields, with_schema)
    result = tfma.load_eval_result(output, model_name="candidate")
    assert_equals_plain(metrics_of(result), plain())
    baseline = tfma.load_eval_result(output, model_name="baseline")
    assert_equals_plain(metrics_of(baseline), plain(WEAK))
    difference = plain().map_11_point - plain(WEAK).map_11_point
    assert number(metrics_of(result)["mAP_diff"]) == pytest.approx(difference, abs=1e-6)

    many = [picture for picture in PICTURES if len(picture[2]) > 1]
    assert_equals_plain(metrics_of(result, (("size", "many"),)), plain(pictures=many))

    cat = plain().classes["cat"]
    stored = metrics_of(result)["precision_at_recall/cat"]["arrayValue"]["float64Values"]
    best = [cat.precision[cat.recall >= recall] for recall in tfma_metric.CURVE_RECALLS]
    np.testing.assert_allclose(stored, [max(above, default=0) for above in best], atol=1e-12)

    (plots,) = [plots for key, plots in result.plots if key == ()]
    matrices = plots[""]["classId:1"]["confusionMatrixAtThresholds"]["matrices"]
    at_half = min(matrices, key=lambda matrix: abs(matrix.get("threshold", 0.0) - 0.5))
    above = cat.hits[cat.scores > 0.5]
    assert at_half["truePositives"] == above.sum()
    assert at_half["falsePositives"] == (~above).sum()
    assert at_half["falseNegatives"] == cat.positives - above.sum()


def value_bound(lower):
    return tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(lower_bound={"value": lower})
    )


def change_bound(absolute):
    return tfma.MetricThreshold(
        change_threshold=tfma.GenericChangeThreshold(
            direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": absolute}
        )
    )


@pytest.mark.parametrize("passing", [True, False])
def test_bounds_on_value_and_change_decide(tmp_path, models, passing):
    """Just below what the plain function says all pass, just above all fail."""
    new, old = plain(), plain(WEAK)
    step = -1e-3 if passing else 1e-3
    values = {"mAP": new.map_11_point, "AP/cat": new.classes["cat"].ap_11_point}
    changes = {
        "mAP_area": new.map_area - old.map_area,
        "AP_area/dog": new.classes["dog"].ap_area - old.classes["dog"].ap_area,
    }
    thresholds = {name: value_bound(value + step) for name, value in values.items()}
    thresholds |= {name: change_bound(value + step) for name, value in changes.items()}
    config = eval_config(COMMON, thresholds, baseline=True, sliced=False)
    validation = tfma.load_validation_result(run(tmp_path, models, config))
    assert validation.validation_ok == passing
    failures = {
        failure.metric_key.name
        for per_slice in validation.metric_validations_per_slice
        for failure in per_slice.failures
    }
    assert failures == (set() if passing else set(thresholds))
    assert not any(
        failure.message
        for per_slice in validation.metric_validations_per_slice
        for failure in per_slice.failures
    )


def test_bound_on_a_class_without_objects_blocks(tmp_path, models):
    config = eval_config(COMMON, {"AP/ghost": value_bound(0.0)}, sliced=False)
    output = run(tmp_path, {"candidate": models["candidate"]}, config)
    assert not tfma.load_validation_result(output).validation_ok


@pytest.mark.parametrize("method", ["JACKKNIFE", "POISSON_BOOTSTRAP"])
def test_confidence_intervals_surround_the_plain_number(tmp_path, models, method):
    """Both methods score many mixtures of partial accumulators; the point stays the same."""
    config = eval_config(
        COMMON,
        sliced=False,
        compute_confidence_intervals={"value": True},
        confidence_intervals=tfma.ConfidenceIntervalOptions(
            method=tfma.ConfidenceIntervalOptions.ConfidenceIntervalMethod.Value(method)
        ),
    )
    output = run(tmp_path, {"candidate": models["candidate"]}, config)
    bounded = metrics_of(tfma.load_eval_result(output))["mAP"]["boundedValue"]
    assert bounded["value"] == pytest.approx(plain().map_11_point, abs=1e-6)
    assert bounded["lowerBound"] < bounded["value"] < bounded["upperBound"]
