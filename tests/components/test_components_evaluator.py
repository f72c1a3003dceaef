"""The Evaluator keeps the model's answers in its evaluation."""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2
from tfx.components.evaluator import executor as tfx_executor
from tfx.types import standard_artifacts

from components.evaluator import answers, standalone
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


def test_a_model_is_evaluated_outside_of_a_run_as_in_one(monkeypatch, tmp_path):
    seen = {}

    class Stub:
        def __init__(self, context):
            seen["beam"] = context.beam_pipeline_args

        def Do(self, inputs, outputs, properties):  # noqa: N802
            seen["inputs"] = {
                name: [p.resolve() for p in sorted(Path(artifact.uri).glob(pattern))]
                for name, pattern in (
                    ("examples", "Split-evaluated/*"),
                    ("model", "*"),
                    ("baseline_model", "*"),
                )
                for artifact in inputs.get(name, ())
            }
            seen["evaluation"] = outputs["evaluation"][0].uri
            seen["properties"] = properties
            seen["marks"] = answers._marks.get()

    monkeypatch.setattr(standalone, "Executor", Stub)
    # Splits have files of the same names.
    records = [tmp_path / split / "data.gz" for split in ("train", "test")]
    for file in records:
        file.parent.mkdir()
        file.touch()
    models = [tmp_path / "good", tmp_path / "weak"]
    for folder in models:
        folder.mkdir()
    config = config_pb2.EvalConfig()
    given = models[0], records, config, tmp_path / "out"
    standalone.evaluate_model(*given, beam_args=["--runner=X"])
    assert seen["inputs"] == {"examples": records, "model": models[:1]}
    assert (seen["beam"], seen["evaluation"]) == (["--runner=X"], str(tmp_path / "out"))
    assert seen["properties"]["example_splits"] == '["evaluated"]'
    assert seen["properties"]["module_path"].endswith(".picture_slices")
    standalone.evaluate_model(*given, baseline=models[1], marks=tmp_path)
    assert seen["inputs"]["baseline_model"] == models[1:]
    assert seen["marks"] == tmp_path and answers._marks.get() is None


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
