"""Reading an Evaluator's folder: scores survive, and damage is named."""

import math

import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import metrics_for_slice_pb2, validation_result_pb2

from components.evaluation import OVERALL, Score, read_evaluation
from data.errors import DataError


def slice_metrics(columns=(), **values):
    """values: (value, model name, is_diff) by metric name."""
    proto = metrics_for_slice_pb2.MetricsForSlice()
    for name, value in columns:
        proto.slice_key.single_slice_keys.add(column=name, bytes_value=value)
    for name, (value, model, is_diff) in values.items():
        item = proto.metric_keys_and_values.add()
        item.key.name, item.key.model_name, item.key.is_diff = name, model, is_diff
        item.value.double_value.value = value
    return proto


def write(folder, metrics, validation=None):
    validation = validation or validation_result_pb2.ValidationResult(validation_ok=True)
    for name, protos in (
        ("metrics-00000-of-00001.tfrecord", metrics),
        ("validations.tfrecord", [validation]),
    ):
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for proto in protos:
                writer.write(proto.SerializeToString())


WHOLE = slice_metrics(mAP=(0.5, "", False))


def test_scores_by_model_and_slice(tmp_path):
    both = slice_metrics(
        mAP=(0.5, tfma.CANDIDATE_KEY, False),
        AP=(0.25, tfma.BASELINE_KEY, False),
        mAP_diff=(0.125, tfma.CANDIDATE_KEY, True),
    )
    curve = both.metric_keys_and_values.add()
    curve.key.name = "curve"
    curve.value.array_value.float64_values[:] = [1.0, 0.5]
    spread = both.metric_keys_and_values[0].confidence_interval
    spread.standard_error.double_value.value = 0.1
    spread.degrees_of_freedom.value = 19
    other = slice_metrics([("objects", b"2-4")], mAP=(0.75, tfma.CANDIDATE_KEY, False))
    write(tmp_path, [other, both])
    evaluation = read_evaluation(tmp_path)
    (name, score), *more = evaluation.candidate[OVERALL].items()
    # Student's factor for 19 degrees of freedom is 2.0930.
    assert (name, more) == ("mAP", [])
    assert score == pytest.approx((0.5, 0.5 - 0.2093, 0.5 + 0.2093), abs=1e-4)
    assert evaluation.candidate["objects=2-4"]["mAP"].value == 0.75
    assert math.isnan(evaluation.candidate["objects=2-4"]["mAP"].lower)
    assert evaluation.baseline == {OVERALL: {"AP": pytest.approx(Score(0.25), nan_ok=True)}}
    assert evaluation.changes[OVERALL]["mAP"].value == 0.125
    assert evaluation.failures == ()


def test_bounds_without_a_measurement_fail(tmp_path):
    validation = validation_result_pb2.ValidationResult()
    failure = validation.metric_validations_per_slice.add().failures.add(
        message="Metric not found."
    )
    failure.metric_key.name = "AP/emu"
    failure.metric_threshold.value_threshold.lower_bound.value = 0.5
    validation.missing_slices.add().feature_values["objects"] = "10+"
    write(tmp_path, [WHOLE], validation)
    assert read_evaluation(tmp_path).failures == (
        "AP/emu was not measured; the minimum is 0.5",
        "no picture has objects=10+, for which there is a minimum mAP",
    )


@pytest.mark.parametrize(
    ("counted", "text"),
    [
        (0.0, "mAP changed by +0.0150 (not significant), below the minimum of +0.01"),
        (-0.25, "mAP changed by +0.0150, below the minimum of +0.01"),
    ],
)
def test_an_insignificant_change_is_not_a_gain(tmp_path, counted, text):
    scores = slice_metrics(
        mAP=(0.5, tfma.CANDIDATE_KEY, False), mAP_diff=(0.015, tfma.CANDIDATE_KEY, True)
    )
    validation = validation_result_pb2.ValidationResult()
    failure = validation.metric_validations_per_slice.add().failures.add()
    failure.metric_key.name = "mAP_significant_diff"
    failure.metric_value.double_value.value = counted
    failure.metric_threshold.change_threshold.absolute.value = 0.01
    write(tmp_path, [scores], validation)
    assert read_evaluation(tmp_path).failures == (text,)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def scribble(path):
    path.write_bytes(b"not records at all")


def wrong_proto(path):
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\xff\xff\xff")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("file", ["metrics-00000-of-00001.tfrecord", "validations.tfrecord"])
@pytest.mark.parametrize("damage", [cut, scribble, wrong_proto, empty, lambda path: path.unlink()])
def test_a_damaged_evaluation_is_named(tmp_path, file, damage):
    write(tmp_path, [WHOLE])
    read_evaluation(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(DataError, match="damaged evaluation .*--from Evaluator") as caught:
        read_evaluation(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert file.split("-")[0].split(".")[0] in str(caught.value)


def test_another_kind_of_evaluation_is_named(tmp_path):
    write(tmp_path, [slice_metrics(accuracy=(0.5, "", False))])
    with pytest.raises(DataError, match="no mAP for the whole split"):
        read_evaluation(tmp_path)
    with pytest.raises(DataError, match="is missing"):
        read_evaluation(tmp_path / "nowhere")
