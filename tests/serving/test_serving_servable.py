import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.model_server import pictures
from serving.model_server.servable import Servable
from serving.model_server.status import StatusError


@pytest.fixture
def adder(tmp_path, save_adder):
    save_adder(tmp_path / "1", 3)
    return tmp_path / "1"


def _warm_up(folder, records):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def _log(**inputs):
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "m"
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return log.SerializeToString()


def _load_error(folder) -> StatusError:
    with pytest.raises(StatusError) as raised:
        Servable(folder)
    return raised.value


def test_answers_equal_those_of_the_signature(blob_model, picture):
    folder = blob_model / "20"
    content = picture.read_bytes()
    expected = tf.saved_model.load(str(folder)).signatures["serving_default"](
        image_bytes=tf.constant([content])
    )
    loaded = Servable(folder)
    for busy in (False, True):
        found = loaded.run("", {"image_bytes": np.array([content], object)}, busy=busy)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name].numpy())


def test_shapes_are_not_checked_against_the_signature(adder):
    loaded = Servable(adder)
    assert loaded.run("", {"x": np.ones((2, 3), np.float32)})["y"].tolist() == [[4.0] * 3] * 2
    with pytest.raises(StatusError, match="INVALID_ARGUMENT"):
        loaded.run("", {"x": np.ones(2, np.int32)})


def test_models_that_do_not_load(tmp_path, adder):
    assert _load_error(tmp_path / "nothing").code == "NOT_FOUND"
    shutil.rmtree(adder / "variables")
    (adder / "saved_model.pb").write_bytes(b"no graph")
    assert _load_error(adder).code == "DATA_LOSS"


def test_warm_up_requests_run_while_loading(adder, monkeypatch):
    _warm_up(adder, [_log(x=np.float32([1, 2])), _log(x=np.float32([3]))])
    ran = []
    run = Servable.run
    monkeypatch.setattr(Servable, "run", lambda self, *a: ran.append(run(self, *a)) or ran[-1])
    Servable(adder)
    # Each runs with busy=False and busy=True.
    assert [answer["y"].tolist() for answer in ran] == [[4.0, 5.0]] * 2 + [[6.0]] * 2
    Servable(adder, warm_up=False)
    assert len(ran) == 4


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([_log(y=np.float32([1]))], "INVALID_ARGUMENT"),
        ([b"\xff\xff no message"], "INVALID_ARGUMENT"),
        ([prediction_log_pb2.PredictionLog().SerializeToString()], "UNIMPLEMENTED"),
    ],
)
def test_a_failing_warm_up_request_fails_the_load(adder, records, code):
    _warm_up(adder, records)
    assert _load_error(adder).code == code


def test_a_warm_up_file_that_is_not_a_tfrecord(adder):
    _warm_up(adder, [])
    (adder / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"text" * 100)
    assert _load_error(adder).code == "DATA_LOSS"


def test_the_pixel_limit_counts_all_pictures_of_a_request(picture, monkeypatch):
    inputs = [np.array([picture.read_bytes()] * 2, object), np.zeros((1, 9, 9, 3), np.uint8)]
    monkeypatch.setattr(pictures, "MAX_PIXELS", 2 * 200 * 100)
    assert pictures.count_pixels(inputs) == 2 * 200 * 100
    monkeypatch.setattr(pictures, "MAX_PIXELS", 2 * 200 * 100 - 1)
    with pytest.raises(StatusError, match="have 40000 pixels, but a request may have 39999"):
        pictures.count_pixels(inputs)


def test_an_error_message_that_quotes_binary_input(blob_model):
    loaded = Servable(blob_model / "20")
    inputs = {"examples": np.array([b"\x01 no Example \xff"], object)}
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: Could not parse example") as raised:
        loaded.run("serving_examples", inputs)
    assert r"no Example \xff" in raised.value.message
