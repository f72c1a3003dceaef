import io
import json
import struct
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2

from data.errors import DataError
from trainer import bounded_decoding
from trainer.anchors import SSD128, anchors_hash
from trainer.backbones import small
from trainer.config import TrainerConfig
from trainer.detector import DetectorSpec, build_network
from trainer.export import ServedDetector, export
from trainer.postprocessing import output_specs

MAX_DETECTIONS = 150
CONFIG = TrainerConfig(max_detections=MAX_DETECTIONS)
OUTPUTS = output_specs(MAX_DETECTIONS)


@pytest.fixture(scope="module")
def network(sample_classes):
    """Random weights, with biases that leave some tens of detections per picture."""
    keras.utils.set_random_seed(3)
    network = build_network(DetectorSpec(small.feature_maps, SSD128), len(sample_classes))
    for level in range(4):
        head = network.get_layer(f"class_head{level}")
        kernel, bias = head.get_weights()
        bias.reshape(-1, 1 + len(sample_classes))[:, 0] = 9
        head.set_weights([kernel * 30, bias])
    return network


@pytest.fixture(scope="module")
def served(network, sample_classes, transformed_records):
    return ServedDetector(network, SSD128, sample_classes, transformed_records, CONFIG)


@pytest.fixture(scope="module")
def pictures(make):
    """Five pictures of one size, uint8 [5, 90, 120, 3]."""
    waves = [make.smooth_picture(90, 120, seed).astype(int) for seed in range(5)]
    for seed, wave in enumerate(waves):
        wave[10 * seed : 10 * seed + 40, 20:70] += 60 - 25 * seed
    return np.clip(waves, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, served, make, pictures):
    folder = tmp_path_factory.mktemp("export") / "model"
    warmup = [make.encode(picture) for picture in pictures[:3]]
    export(served, folder, {"preset": "tiny", "steps": 0}, warmup)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def ask(model):
    """Calls a signature of the saved model; returns numpy arrays."""

    def ask(signature, values):
        (name,) = model.signatures[signature].structured_input_signature[1]
        answer = model.signatures[signature](**{name: tf.constant(values)})
        return {name: value.numpy() for name, value in answer.items()}

    return ask


def _assert_same(answer, wanted):
    assert set(answer) == set(wanted) == set(OUTPUTS)
    for name in OUTPUTS:
        if answer[name].dtype == np.float32:
            np.testing.assert_allclose(answer[name], wanted[name], atol=2e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(answer[name], wanted[name], err_msg=name)


@pytest.fixture(scope="module")
def answers(ask, make, pictures):
    """`serving_default`'s answers to each picture separately, as PNG."""
    each = [ask("serving_default", [make.encode(picture, "PNG")]) for picture in pictures]
    return {name: np.concatenate([answer[name] for answer in each]) for name in OUTPUTS}


@pytest.mark.slow
def test_the_saved_model_answers_as_the_network_does(served, answers, pictures):
    inputs = tf.image.resize(tf.cast(pictures, tf.float32), (128, 128))
    eager = {name: value.numpy() for name, value in served.detect(inputs).items()}
    _assert_same(answers, eager)
    counts = eager["num_detections"]
    assert counts.max() == MAX_DETECTIONS > counts[counts > 20].min()


def test_a_session_answers_as_the_functions_do(folder, answers, make, pictures):
    # TensorFlow Serving runs models in a session, which restores variables differently.
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(folder))
        signature = loaded.signature_def["serving_default"]
        answer = session.run(
            {name: info.name for name, info in signature.outputs.items()},
            {signature.inputs["image_bytes"].name: [make.encode(p, "PNG") for p in pictures]},
        )
    _assert_same(answer, answers)


def test_the_three_signatures_agree(ask, answers, make, pictures):
    encoded = [make.encode(picture, "PNG") for picture in pictures]
    records = [make.record(number, picture) for number, picture in enumerate(encoded)]
    _assert_same(ask("serving_default", encoded), answers)
    _assert_same(ask("serving_tensor", pictures), answers)
    _assert_same(ask("serving_examples", records), answers)


@pytest.mark.parametrize("batch", [1, 16, 17, 35])
@pytest.mark.parametrize("signature", ["serving_default", "serving_tensor", "serving_examples"])
def test_any_number_of_pictures(ask, answers, make, pictures, signature, batch):
    indices = np.arange(batch) % 5
    values = pictures[indices]
    if signature != "serving_tensor":
        values = [make.encode(picture, "PNG") for picture in values]
    if signature == "serving_examples":
        values = [make.record(number, picture) for number, picture in enumerate(values)]
    wanted = {name: answer[indices] for name, answer in answers.items()}
    _assert_same(ask(signature, values), wanted)


@pytest.mark.parametrize("signature", ["serving_default", "serving_examples"])
def test_an_empty_request(ask, signature):
    answer = ask(signature, np.zeros((0,), "S"))
    assert {name: value.shape for name, value in answer.items()} == {
        name: (0, *shape) for name, (_, shape) in OUTPUTS.items()
    }


def test_an_empty_tensor_request(ask):
    answer = ask("serving_tensor", np.zeros((0, 30, 40, 3), np.uint8))
    assert answer["detection_boxes"].shape == (0, MAX_DETECTIONS, 4)


def test_pictures_of_different_sizes_in_one_request(ask, make):
    encoded = [make.encode(make.smooth_picture(*size)) for size in ((1, 1), (300, 40), (64, 64))]
    together = ask("serving_default", encoded)
    for index, picture in enumerate(encoded):
        alone = ask("serving_default", [picture])
        _assert_same({name: value[index : index + 1] for name, value in together.items()}, alone)


def test_boxes_refer_to_the_picture_whatever_its_size(ask, answers, pictures):
    twice = pictures.repeat(2, axis=1).repeat(2, axis=2)
    answer = ask("serving_tensor", twice)
    for picture in range(5):
        best, wanted = (a["detection_boxes"][picture, 0] for a in (answer, answers))
        np.testing.assert_allclose(best, wanted, atol=0.05)


def test_jpeg_and_png_answer_alike(ask, answers, make, pictures):
    answer = ask("serving_default", [make.encode(picture, "JPEG") for picture in pictures])
    np.testing.assert_allclose(
        answer["detection_scores"][:, 0], answers["detection_scores"][:, 0], atol=0.1
    )


def _png_header(width: int, height: int) -> bytes:
    """The start of a PNG, up to its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    check = zlib.crc32(b"IHDR" + header)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", check)
    )


def _claims(kind: str, width: int, height: int) -> bytes:
    """A picture whose header claims a size."""
    if kind == "PNG":
        return _png_header(width, height)
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, kind)
    content = bytearray(stream.getvalue())
    if kind == "GIF":
        content[6:10] = struct.pack("<HH", width, height)
    elif kind == "BMP":
        content[18:26] = struct.pack("<ii", width, height)
    else:
        start = content.index(b"\xff\xc0") + 5
        content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [
        ("PNG", 10_000, 10_000),
        ("PNG", 2**31 - 1, 2**31 - 1),
        ("JPEG", 9_460, 9_460),
        ("GIF", 65_535, 65_535),
        ("BMP", 10_000, -10_000),
    ],
)
@pytest.mark.parametrize("signature", ["serving_default", "serving_examples"])
def test_a_picture_of_too_many_pixels_is_an_error(ask, make, signature, kind, width, height):
    picture = _claims(kind, width, height)
    if signature == "serving_examples":
        picture = make.record(0, picture)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 89478485 pixels"):
        ask(signature, [picture])


@pytest.mark.parametrize("content", [b"", b"\x89PNG", b"\xff\xd8", b"BM", b"GIF89a", b"text" * 20])
def test_other_content_is_a_decoder_error(ask, content):
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        ask("serving_default", [content])
    assert "more than" not in str(raised.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_the_decoder_gives_tensorflows_pixels(make, pictures, kind):
    content = make.encode(pictures[0], kind)
    wanted = tf.io.decode_image(content, channels=3, expand_animations=False)
    np.testing.assert_array_equal(bounded_decoding.decode(content), wanted)


def test_grey_pictures_are_answered(ask, make, pictures):
    encoded = [make.encode(pictures[0], kind, "L") for kind in ("PNG", "JPEG")]
    answer = ask("serving_default", encoded)
    grey = np.repeat(np.array(tf.io.decode_png(encoded[0])), 3, axis=-1)
    alone = ask("serving_tensor", grey[None])
    _assert_same({name: value[:1] for name, value in answer.items()}, alone)


def test_records_without_labels_are_answered(ask, answers, make, pictures):
    def bare(picture):
        encoded = tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture]))
        features = tf.train.Features(feature={"image/encoded": encoded})
        return tf.train.Example(features=features).SerializeToString()

    records = [bare(make.encode(picture, "PNG")) for picture in pictures]
    _assert_same(ask("serving_examples", records), answers)


def test_a_class_list_that_does_not_fit_is_refused(network, transformed_records):
    with pytest.raises(DataError, match=r"has 6 classes, but there are 2 names \(cat, dog"):
        ServedDetector(network, SSD128, ("cat", "dog"), transformed_records, CONFIG)


def test_the_model_says_what_it_is(folder, sample_classes):
    facts = json.loads((folder / "assets.extra" / "model.json").read_text())
    assert facts == {
        "preset": "tiny",
        "steps": 0,
        "image_size": 128,
        "anchors_hash": anchors_hash(SSD128),
        "classes": list(sample_classes),
    }


def test_warm_up_requests_are_answered(folder, model, make, pictures):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]
    assert len(logs) == 2
    for log, picture in zip(logs, pictures, strict=False):
        request = log.predict_log.request
        assert request.model_spec.name == "ssd"
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        assert inputs["image_bytes"].tolist() == [make.encode(picture)]
        signature = model.signatures[request.model_spec.signature_name]
        answer = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        assert answer["detection_boxes"].shape == (1, MAX_DETECTIONS, 4)
