"""TFX's BulkInferrer, set up as in the pipeline, predicts on every record of the splits."""

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2
from tfx.components.bulk_inferrer.executor import Executor
from tfx.types import artifact_utils, standard_artifacts

from data.beam_runner import IN_PROCESS
from data.errors import DataError
from pipeline.config import load_config
from tests.serving.conftest import CLASS_NAMES, blob_picture, save_blob_model

_COUNTS = {"train": 1, "eval": 2, "test": 5}


@pytest.fixture
def inputs(tmp_path):
    """Records of three splits and a blessed model that reads them."""
    examples = standard_artifacts.Examples()
    examples.uri = str(tmp_path / "examples")
    examples.split_names = artifact_utils.encode_split_names(list(_COUNTS))
    for split, count in _COUNTS.items():
        folder = tmp_path / "examples" / f"Split-{split}"
        folder.mkdir(parents=True)
        options = tf.io.TFRecordOptions("GZIP")
        with tf.io.TFRecordWriter(str(folder / "records-00000-of-00001.gz"), options) as writer:
            for number in range(count):
                path = tmp_path / "picture.png"
                blob_picture(blobs=[(CLASS_NAMES[number % 3], (0, 0, 0.5, 0.5))]).save(path)
                example = tf.train.Example()
                feature = example.features.feature["image/encoded"]
                feature.bytes_list.value.append(path.read_bytes())
                writer.write(example.SerializeToString())
    model, blessing = standard_artifacts.Model(), standard_artifacts.ModelBlessing()
    model.uri, blessing.uri = str(tmp_path / "model"), str(tmp_path / "blessing")
    save_blob_model(tmp_path / "model" / "Format-Serving")
    blessing.set_int_custom_property("blessed", 1)
    return {"examples": [examples], "model": [model], "model_blessing": [blessing]}


@pytest.mark.parametrize("splits", [("test",), ("train", "eval")], ids=",".join)
def test_every_record_of_the_splits_gets_a_prediction(build, inputs, tmp_path, splits):
    pipeline = build("bulk_inferrer.enabled=true", f"bulk_inferrer.splits={','.join(splits)}")
    (component,) = [part for part in pipeline.components if part.id == "BulkInferrer"]
    result = standard_artifacts.InferenceResult()
    result.uri = str(tmp_path / "result")
    context = Executor.Context(
        beam_pipeline_args=list(IN_PROCESS), tmp_dir=str(tmp_path / "temporary"), unique_id="1"
    )
    Executor(context).Do(inputs, {"inference_result": [result]}, component.exec_properties)
    files = [str(path) for path in (tmp_path / "result").rglob("*.gz")]
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log
        for record in tf.data.TFRecordDataset(files, "GZIP")
    ]
    assert len(logs) == sum(_COUNTS[split] for split in splits)
    names = [tf.make_ndarray(log.response.outputs["detection_class_names"])[0, 0] for log in logs]
    expected = [CLASS_NAMES[n % 3] for split in splits for n in range(_COUNTS[split])]
    assert sorted(names) == sorted(name.encode() for name in expected)


def test_it_is_off_by_default_and_rejects_unknown_splits(build):
    assert "BulkInferrer" not in [component.id for component in build().components]
    with pytest.raises(DataError, match="bulk_inferrer.splits"):
        load_config("sample", ["bulk_inferrer.enabled=true", "bulk_inferrer.splits=tests"])
