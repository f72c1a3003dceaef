"""The Evaluator keeps the model's answers in its evaluation."""

import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tfx.components.evaluator import executor as tfx_executor
from tfx.types import standard_artifacts

from components.evaluator.answers import answer_extractors, read_features, to_record
from components.evaluator.component import Evaluator, Executor
from data.fields import COMMON
from data.saved_model import BOXES, CLASS_NAMES, CLASSES, COUNT, SCORES


def test_answers_go_into_the_evaluation_of_the_run(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        tfx_executor.Executor, "Do", lambda *_: asked.extend(answer_extractors(COMMON))
    )
    evaluation = standard_artifacts.ModelEvaluation()
    evaluation.uri = str(tmp_path / "evaluation")
    Executor().Do({}, {"evaluation": [evaluation]}, {})
    (extractor,) = asked
    assert extractor.ptransform._prefix.startswith(f"{tmp_path}/evaluation/")
    assert Evaluator.EXECUTOR_SPEC.executor_class is Executor


def test_a_record_has_no_picture_and_no_padding():
    example = tf.train.Example()
    example.features.feature[COMMON.encoded].bytes_list.value.append(b"jpeg")
    example.features.feature[COMMON.source_id].bytes_list.value.append(b"7")
    answer = {
        BOXES: np.arange(12, dtype=np.float32).reshape(3, 4),
        SCORES: np.array([0.9, 0.3, 0], np.float32),
        CLASSES: np.array([2, 1, 0]),
        CLASS_NAMES: np.array([b"dog", b"cat", b""], object),
        COUNT: np.array([2]),
    }
    other = {**answer, COUNT: np.array([0])}
    for predictions in (answer, {tfma.CANDIDATE_KEY: answer, tfma.BASELINE_KEY: other}):
        extracts = {
            tfma.INPUT_KEY: np.array([example.SerializeToString()], object),
            tfma.PREDICTIONS_KEY: predictions,
        }
        found = read_features(to_record(extracts, COMMON))
        assert found[COMMON.encoded] == [] and found[COMMON.source_id] == [b"7"]
        assert found[BOXES] == list(range(8))
        assert found[CLASS_NAMES] == [b"dog", b"cat"] and found[COUNT] == [2]
        np.testing.assert_array_equal(np.float32(found[SCORES]), answer[SCORES][:2])
