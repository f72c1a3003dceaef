"""Weights from Keras files, compared with Keras' own forward passes; files that do not fit."""

import dataclasses
import socket
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from data.errors import DataError
from tests.trainer.networks import assert_close, build
from trainer import weights
from trainer.config import TrainerConfig
from trainer.detector import detector_spec
from trainer.weights import check_weights, keras_file, load_backbone_weights, locate_weights, vgg16
from trainer.weights.vgg16 import VOC_CLASSES as VOC


def test_dense_layers_are_decimated_to_convolutions():
    rng = np.random.default_rng(0)
    layers = [(f"block{b}_conv{i}", []) for b in range(1, 6) for i in range(1, 4)]
    # Integers below 2^24 identify every weight, even in float32.
    fc1 = rng.integers(0, 2**24, (7 * 7 * 512, 4096), np.int32)
    fc2 = rng.integers(0, 2**24, (4096, 4096), np.int32)
    bias1, bias2 = np.arange(4096), np.arange(4096) * 2
    converted = vgg16.from_keras([*layers, ("fc1", [fc1, bias1]), ("fc2", [fc2, bias2])])
    fc6, fc6_bias = converted["fc6"]
    fc7, fc7_bias = converted["fc7"]
    assert fc6.shape == (3, 3, 512, 1024)
    assert fc7.shape == (1, 1, 1024, 1024)
    for row, column, channel, output in rng.integers(0, (3, 3, 512, 1024), (200, 4)):
        flat = (3 * row * 7 + 3 * column) * 512 + channel
        assert fc6[row, column, channel, output] == fc1[flat, 4 * output]
        assert fc7[0, 0, channel, output] == fc2[4 * channel, 4 * output]
        assert fc6_bias[output] == 4 * output
        assert fc7_bias[output] == 8 * output


def save_as_published(model, path: Path) -> str:
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)
    return str(path)


def randomised(model):
    """Randomises all weights, even those that start at 0 or 1; variances stay positive."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        scale = (2 / np.prod(weight.shape[:-1])) ** 0.5 if len(weight.shape) > 1 else 0.1
        value = scale * rng.standard_normal(weight.shape)
        weight.assign(1 + np.abs(value) if "variance" in weight.path else weight + value)
    return model


APPLICATIONS = {
    # SSD's pool3 rounds up, so compare the layer before it.
    "ssd300-vgg16": (keras.applications.VGG16, "vgg16", "block3_conv3", "conv3_3"),
    "ssd300-resnet50": (keras.applications.ResNet50, "resnet50", *["conv5_block3_out"] * 2),
    "ssd300-mobilenet": (keras.applications.MobileNetV3Large, "mobilenet_v3", *["conv_1_bn"] * 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("detector", APPLICATIONS)
def test_outputs_equal_those_of_keras_applications(detector, tmp_path, messages):
    application, module, layer, our_layer = APPLICATIONS[detector]
    model = randomised(application(include_top=False, weights=None, input_shape=(300, 300, 3)))
    path = save_as_published(model, tmp_path / "weights.h5")
    network, spec = build(detector)
    load_backbone_weights(network, spec, VOC, path)
    assert "random=" in messages()[0]
    images = np.random.default_rng(2).uniform(0, 255, (1, 300, 300, 3)).astype(np.float32)
    prepared = getattr(keras.applications, module).preprocess_input(images.copy())
    wanted = keras.Model(model.input, model.get_layer(layer).output)(prepared)
    found = keras.Model(network.input, network.get_layer(our_layer).output)(images)
    assert_close(np.asarray(found), np.asarray(wanted))


def test_vgg_without_dense_layers_leaves_fc6_and_fc7_random(tmp_path, ssd300, messages):
    model = keras.applications.VGG16(include_top=False, weights=None)
    model.save(tmp_path / "whole.h5")
    network, spec = ssd300
    load_backbone_weights(network, spec, VOC, str(tmp_path / "whole.h5"))
    assert "loaded=13 layers (conv1_1 to conv5_3) random=fc6,fc7,conv8_1," in messages()[0]
    np.testing.assert_array_equal(
        network.get_layer("conv5_3").get_weights()[0],
        model.get_layer("block5_conv3").get_weights()[0],
    )


def test_weights_of_the_whole_network(tmp_path):
    network, spec = build("ssd128-small", classes=2)
    network.save_weights(tmp_path / "x.weights.h5")
    other, _ = build("ssd128-small", classes=2)
    load_backbone_weights(other, spec, ("a", "b"), str(tmp_path / "x.weights.h5"))
    for found, wanted in zip(other.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)
    more_classes, _ = build("ssd128-small", classes=3)
    message = r"x.weights.h5: not weights of this detector with .*class_head0.*Received: [^<]*$"
    with pytest.raises(DataError, match=message):
        load_backbone_weights(more_classes, spec, ("a", "b", "c"), str(tmp_path / "x.weights.h5"))
    with pytest.raises(DataError, match=message):
        check_weights(more_classes, spec, ("a", "b", "c"), str(tmp_path / "x.weights.h5"))
    check_weights(other, spec, ("a", "b"), str(tmp_path / "x.weights.h5"))
    # While the classes are unknown, any number of them may be right.
    check_weights(more_classes, spec, (), str(tmp_path / "x.weights.h5"))


@pytest.mark.parametrize(
    ("detector", "layer"),
    # The latter's layers have the same names in the detector.
    [("ssd300-vgg16", "block1_conv1"), ("ssd300-resnet50", "box_head0")],
)
def test_other_keras_files_are_refused_with_advice(tmp_path, detector, layer):
    model = APPLICATIONS[detector][0](include_top=False, weights=None)
    model.save_weights(tmp_path / "x.weights.h5")
    model.save(tmp_path / "x.keras")
    network, spec = build(detector)
    advice = r"Give a keras.applications model saved with save\('x.h5'\)"
    for name, message in (
        ("x.weights.h5", f"for another model: only one of the two has a layer {layer}"),
        ("x.keras", "a .keras archive, which is not supported"),
    ):
        with pytest.raises(DataError, match=f"{name}: .*{message}. {advice}"):
            check_weights(network, spec, VOC, str(tmp_path / name))


def small_h5(path: Path, *shapes) -> str:
    inputs = keras.Input((8, 8, shapes[0][0]))
    x = inputs
    for number, (_, filters) in enumerate(shapes, start=1):
        x = keras.layers.Conv2D(filters, 3, name=f"block1_conv{number}")(x)
    return save_as_published(keras.Model(inputs, x), path)


def test_keras_file_of_another_model_names_the_first_mismatch(tmp_path, ssd300):
    path = small_h5(tmp_path / "x.h5", (3, 64), (64, 64))
    with pytest.raises(DataError, match=r"x.h5: has no layer block2_conv1; it has block1_conv1, "):
        check_weights(*ssd300, (), path)
    network, spec = build("ssd300-mobilenet")
    with pytest.raises(DataError, match=r"x.h5: 2 layers with weights; \d+ are needed"):
        load_backbone_weights(network, spec, VOC, path)
    with pytest.raises(DataError, match="weights of the whole network"):
        locate_weights(path, detector_spec(TrainerConfig(detector="ssd128-small")))


def test_wrong_shape_names_the_layer_and_changes_nothing(tmp_path, ssd300):
    network, spec = ssd300
    before = network.get_layer("conv1_1").get_weights()[0]
    layers = [(f"block{b}_conv{i}", [np.zeros((1,))]) for b in range(1, 6) for i in range(1, 4)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [name for name, _ in layers]
        for name, weights in layers:
            group = file.create_group(name)
            group.attrs["weight_names"] = ["kernel"]
            group["kernel"] = weights[0]
    message = r"x.h5: layer conv1_1: the file has weights of \[\(1,\)\], not of \[\(3, 3, 3, 64\), "
    with pytest.raises(DataError, match=message):
        load_backbone_weights(network, spec, VOC, str(tmp_path / "x.h5"))
    np.testing.assert_array_equal(network.get_layer("conv1_1").get_weights()[0], before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a Keras .h5 file nor a PyTorch state dict"),
        (b"version https://git-lfs", "neither a Keras .h5 .* starts with b'version '"),
        (b"\x89HDF\r\n\x1a\n cut", "not a complete HDF5 file"),
        (None, "no such file. Give none, imagenet, or the path"),
    ],
)
def test_other_files_are_refused_before_work_starts(tmp_path, content, message):
    path = tmp_path / "x.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        locate_weights(str(path), detector_spec(TrainerConfig()))


def test_hdf5_without_layers_is_refused(tmp_path, ssd300):
    h5py.File(tmp_path / "x.h5", "w").close()
    with pytest.raises(DataError, match="an HDF5 file, but without Keras layers"):
        load_backbone_weights(*ssd300, VOC, str(tmp_path / "x.h5"))


def spoil(path, name):
    """Makes a dataset's values unreadable."""
    with h5py.File(path, "a") as file:
        values = file[name][:]
        del file[name]
        stored = file.create_dataset(name, data=values, compression="gzip", chunks=values.shape)
        start = stored.id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 16)


def _without_weight_names(path, kernel):
    with h5py.File(path, "a") as file:
        del file["block1_conv1"].attrs["weight_names"]


def _without_a_kernel(path, kernel):
    with h5py.File(path, "a") as file:
        del file["block1_conv1"][kernel]


def _without_a_layer(path, kernel):
    with h5py.File(path, "a") as file:
        del file["block1_conv1"]


@pytest.mark.parametrize(
    "damage",
    [
        _without_weight_names,
        _without_a_kernel,
        _without_a_layer,
        lambda path, kernel: spoil(path, f"block1_conv1/{kernel}"),
    ],
    ids=["weight names", "kernel", "layer", "values"],
)
def test_damage_inside_an_hdf5_file_is_reported(tmp_path, damage):
    path = Path(small_h5(tmp_path / "x.h5", (3, 64)))
    with h5py.File(path) as file:
        kernel = file["block1_conv1"].attrs["weight_names"][0]
    damage(path, kernel)
    with pytest.raises(DataError, match=r"x.h5: not a complete HDF5 file .*. Download it again"):
        keras_file.read_layers(path)


def test_damage_inside_weights_of_the_whole_network_is_reported(tmp_path):
    network, spec = build("ssd128-small", classes=2)
    path = tmp_path / "x.weights.h5"
    network.save_weights(path)
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(name) if hasattr(item, "chunks") else None)
    spoil(path, next(name for name in found if name.endswith("vars/0")))
    with pytest.raises(DataError, match=r"x.weights.h5: not weights of this detector"):
        check_weights(network, spec, ("a", "b"), str(path))


@pytest.mark.parametrize("detector", APPLICATIONS)
def test_failed_download_says_where_the_file_is(detector, monkeypatch):
    def offline(*_, **__):
        raise Exception("URL fetch failure on X: None -- no route")

    monkeypatch.setattr(weights, "_check_reachable", lambda url: None)
    monkeypatch.setattr(keras.utils, "get_file", offline)
    spec = detector_spec(TrainerConfig(detector=detector))
    with pytest.raises(DataError, match=rf"no route.* {spec.pretrained.url}.*weights=PATH/.*\.h5"):
        locate_weights("imagenet", spec)


@pytest.mark.parametrize("answers", [False, True])
def test_an_unreachable_server_is_reported_before_keras_tries(answers, monkeypatch, tmp_path):
    """One server accepts connections but never answers, the other refuses them."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "_ANSWER_S", 0.2)
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **__: pytest.fail("downloads"))
    spec = detector_spec(TrainerConfig())
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/vgg16.h5"
        spec = dataclasses.replace(spec, pretrained=dataclasses.replace(spec.pretrained, url=url))
        reason = "no answer within 0.2 s|timed out" if answers else "refused"
        with pytest.raises(DataError, match=rf"({reason}).*download {url}.*weights=PATH/vgg16.h5"):
            locate_weights("imagenet", spec)


def test_a_file_in_keras_cache_needs_no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "_check_reachable", lambda url: pytest.fail("asks the server"))
    spec = detector_spec(TrainerConfig())
    path = tmp_path / "models" / spec.pretrained.url.rsplit("/", 1)[-1]
    path.parent.mkdir()
    small_h5(path, (3, 64))
    monkeypatch.setattr(
        keras.utils, "get_file", lambda name, *_, cache_dir, **__: cache_dir / "models" / name
    )
    assert locate_weights("imagenet", spec) == path


def test_a_downloaded_file_is_used(monkeypatch, tmp_path):
    path = small_h5(tmp_path / "x.h5", (3, 64))
    monkeypatch.setattr(weights, "_check_reachable", lambda url: None)
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **__: path)
    assert locate_weights("imagenet", detector_spec(TrainerConfig())) == Path(path)


def test_no_imagenet_weights_for_a_backbone_of_our_own():
    with pytest.raises(DataError, match="use none"):
        locate_weights("imagenet", detector_spec(TrainerConfig(detector="ssd128-small")))


def test_random_weights_stay(messages):
    network, spec = build("ssd128-small")
    before = network.get_weights()
    load_backbone_weights(network, spec, VOC, "none")
    for found, wanted in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert "weights=random" in messages()[0]
