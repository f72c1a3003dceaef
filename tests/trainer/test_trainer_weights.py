"""Published weights against the forward passes of PyTorch and Keras; files that do not fit."""

import logging
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from data.errors import DataError
from trainer.anchors import SSD300, SSD300_CLIPPED, anchor_boxes
from trainer.config import TrainerConfig
from trainer.detector import DetectorSpec, build_network, detector_spec
from trainer.weights import (
    check_weights,
    keras_file,
    load_backbone_weights,
    locate_weights,
    vgg16,
)
from trainer.weights.torch_file import read_state_dict

VOC = vgg16.VOC_CLASSES
TOLERANCE = 1e-4


def build(detector="ssd300-vgg16", anchors="paper", classes=20):
    spec = detector_spec(TrainerConfig(detector=detector, anchors=anchors))
    return build_network(spec, classes), spec


@pytest.fixture(scope="module")
def ssd300():
    return build()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Folder of what torch_reference.py writes."""
    python = os.environ.get("TORCH_PYTHON")
    if not python:
        pytest.skip("needs PyTorch: set TORCH_PYTHON to a Python that has torch and numpy")
    folder = tmp_path_factory.mktemp("torch")
    script = Path(__file__).with_name("torch_reference.py")
    subprocess.run([python, script, folder], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ssd"), "propagate", True)
    caplog.set_level(logging.INFO, "ssd")
    return caplog


def assert_close(found, wanted):
    """Equal to 1e-4 of the value, or of the values' usual size where one is near zero."""
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE * np.std(wanted))


@pytest.mark.parametrize("size", [300, 512])
def test_equals_the_network_in_pytorch(reference, size, log):
    network, spec = build(f"ssd{size}-vgg16")
    load_backbone_weights(network, spec, VOC, str(reference / f"ssd{size}.pth"))
    assert "random=none" in log.text
    wanted = np.load(reference / f"ssd{size}.npz")
    codes, logits = network(wanted["images"])
    x, y, width, height = np.split(wanted["boxes"], 4, axis=-1)
    assert_close(np.asarray(codes), np.concatenate([y, x, height, width], axis=-1))
    assert_close(np.asarray(logits), wanted["scores"])


def test_classes_in_another_order_get_their_own_scores(reference, ssd300):
    network, spec = ssd300
    path = str(reference / "ssd300.pth")
    image = np.load(reference / "ssd300.npz")["images"]
    load_backbone_weights(network, spec, VOC, path)
    logits = np.asarray(network(image)[1])
    load_backbone_weights(network, spec, VOC[::-1], path)
    reversed_logits = np.asarray(network(image)[1])
    np.testing.assert_allclose(reversed_logits[..., 0], logits[..., 0], rtol=1e-5)
    np.testing.assert_allclose(reversed_logits[..., 1:], logits[..., :0:-1], rtol=1e-5)


def test_full_ssd_for_other_classes_leaves_class_heads_random(reference, log):
    network, spec = build(classes=3)
    before = network.get_layer("class_head0").get_weights()[0]
    load_backbone_weights(network, spec, ("a", "b", "c"), str(reference / "ssd300.pth"))
    heads = ",".join(f"class_head{level}" for level in range(6))
    assert f"(conv1_1 to box_head5) random={heads}\n" in log.text
    np.testing.assert_array_equal(network.get_layer("class_head0").get_weights()[0], before)


def test_full_ssd_on_other_anchors_leaves_all_heads_random(reference, log):
    network, spec = build(anchors="seed")
    load_backbone_weights(network, spec, VOC, str(reference / "ssd300.pth"))
    assert "loaded=24 layers (conv1_1 to conv11_2) random=box_head0," in log.text


def test_reduced_vgg_is_taken_without_swapping_colours(reference, ssd300, log):
    network, spec = ssd300
    load_backbone_weights(network, spec, VOC, str(reference / "reducedfc.pth"))
    assert "loaded=15 layers (conv1_1 to fc7) random=conv8_1," in log.text
    stored = read_state_dict(reference / "reducedfc.pth")
    kernel = network.get_layer("conv1_1").get_weights()[0]
    np.testing.assert_array_equal(kernel[0, 2, :, 5], stored["0.weight"][5, :, 0, 2])


def test_pytorch_file_of_the_wrong_size_names_the_layer(reference, ssd300):
    network, spec = ssd300
    with pytest.raises(DataError, match=r"ssd512.pth: .* for a layer conv12_1 that is not here"):
        load_backbone_weights(network, spec, VOC, str(reference / "ssd512.pth"))


@pytest.mark.parametrize("name", ["tensors-new.pth", "tensors-old.pth"])
def test_tensors_are_read_as_pytorch_wrote_them(reference, name):
    wanted = np.load(reference / "tensors.npz")
    found = read_state_dict(reference / name)
    assert sorted(found) == sorted(wanted)
    for key, value in found.items():
        assert value.dtype == wanted[key].dtype
        np.testing.assert_array_equal(value, wanted[key])


def test_pickled_module_is_refused(reference):
    with pytest.raises(DataError, match=r"module.pth: holds a torch.nn.*state_dict\(\)"):
        read_state_dict(reference / "module.pth")


def old_file(tensor_opcodes: bytes, values=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)) -> bytes:
    """A file as PyTorch 0.2 wrote it, the entry `0.weight` given in opcodes of pickle."""
    parts = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2),
        b"\x80\x02}U\x080.weight" + tensor_opcodes + b"s.",
        pickle.dumps(["key"], 2),
        struct.pack("<q", len(values)) + np.array(values, "<f4").tobytes(),
    ]
    return b"".join(parts)


STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x03keyU\x03cpuK\x06NtQ"
OLD_TENSOR = b"ctorch._utils\n_rebuild_tensor\n(" + STORAGE + b"K\x00K\x02K\x03\x86K\x03K\x01\x86tR"


def test_reads_the_first_format_of_tensors(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(old_file(OLD_TENSOR))
    found = read_state_dict(path)
    np.testing.assert_array_equal(found["0.weight"], np.float32([[1, 2, 3], [4, 5, 6]]))


def test_a_tensor_cannot_reach_outside_its_storage(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(old_file(OLD_TENSOR.replace(b"K\x03K\x01", b"K\x7fK\x01")))
    with pytest.raises(DataError, match="too short for its tensor"):
        read_state_dict(path)


def test_unpickling_runs_nothing(tmp_path):
    path = tmp_path / "x.pth"
    target = tmp_path / "made"
    command = f"touch {target}".encode()
    path.write_bytes(
        old_file(b"cos\nsystem\n(X" + struct.pack("<I", len(command)) + command + b"tR")
    )
    with pytest.raises(DataError, match="holds a os.system"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"cos\nsystem\n(X\x04\x00\x00\x00exittR.")
    with pytest.raises(DataError, match="holds a os.system"):
        read_state_dict(path)
    assert not target.exists()


@pytest.mark.parametrize("length", [20, 60, 150, -4])
def test_cut_off_file_is_named(tmp_path, length):
    path = tmp_path / "x.pth"
    path.write_bytes(old_file(OLD_TENSOR)[:length])
    with pytest.raises(DataError, match="x.pth: "):
        read_state_dict(path)


def vgg_tensors():
    """The names of ssd.pytorch's reduced VGG-16, with small arrays."""
    positions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33)
    return {
        f"{position}.{part}": np.zeros((2, 3, 3, 3) if part == "weight" else (2,))
        for position in positions
        for part in ("weight", "bias")
    }


def test_missing_and_surplus_tensors_are_named():
    tensors = vgg_tensors()
    assert list(vgg16.from_torch(tensors))[-2:] == ["fc6", "fc7"]
    with pytest.raises(DataError, match=r"tensor 35.weight belongs to no layer"):
        vgg16.from_torch({**tensors, "35.weight": np.zeros(1)})
    del tensors["31.bias"]
    with pytest.raises(DataError, match=r"has no tensor 31.bias; it has 0.weight"):
        vgg16.from_torch(tensors)


def test_dense_layers_are_decimated_to_convolutions():
    rng = np.random.default_rng(0)
    layers = [(f"block{b}_conv{i}", []) for b in range(1, 6) for i in range(1, 4)]
    # Whole numbers below 2^24 tell every weight apart, also in float32.
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
    """All weights random, those that start at 0 or 1 too; variances stay above zero."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        scale = (2 / np.prod(weight.shape[:-1])) ** 0.5 if len(weight.shape) > 1 else 0.1
        value = scale * rng.standard_normal(weight.shape)
        weight.assign(1 + np.abs(value) if "variance" in weight.path else weight + value)
    return model


APPLICATIONS = {
    # pool3 rounds up in SSD: the same up to there.
    "ssd300-vgg16": (keras.applications.VGG16, "vgg16", "block3_conv3", "conv3_3"),
    "ssd300-resnet50": (keras.applications.ResNet50, "resnet50", *["conv5_block3_out"] * 2),
    "ssd300-mobilenet": (keras.applications.MobileNetV3Large, "mobilenet_v3", *["conv_1_bn"] * 2),
}


@pytest.mark.parametrize("detector", APPLICATIONS)
def test_keras_weights_give_what_keras_applications_gives(detector, tmp_path, log):
    application, module, layer, our_layer = APPLICATIONS[detector]
    model = randomised(application(include_top=False, weights=None, input_shape=(300, 300, 3)))
    path = save_as_published(model, tmp_path / "weights.h5")
    network, spec = build(detector)
    load_backbone_weights(network, spec, VOC, path)
    assert "random=" in log.text
    images = np.random.default_rng(2).uniform(0, 255, (1, 300, 300, 3)).astype(np.float32)
    prepared = getattr(keras.applications, module).preprocess_input(images.copy())
    wanted = keras.Model(model.inputs, model.get_layer(layer).output)(prepared)
    found = keras.Model(network.inputs, network.get_layer(our_layer).output)(images)
    assert_close(np.asarray(found), np.asarray(wanted))


def test_vgg_without_dense_layers_leaves_fc6_and_fc7_random(tmp_path, ssd300, log):
    model = keras.applications.VGG16(include_top=False, weights=None)
    model.save(tmp_path / "whole.h5")
    network, spec = ssd300
    load_backbone_weights(network, spec, VOC, str(tmp_path / "whole.h5"))
    assert "loaded=13 layers (conv1_1 to conv5_3) random=fc6,fc7,conv8_1," in log.text
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
    # As long as the classes are not known, any number of them may be right.
    check_weights(more_classes, spec, (), str(tmp_path / "x.weights.h5"))


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
        (b"\x89HDF\r\n\x1a\n cut", "not a whole HDF5 file"),
        (None, "no such file. Give none, imagenet, or the path"),
    ],
)
def test_what_is_no_weights_file_is_told_before_work_starts(tmp_path, content, message):
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
    """Makes a dataset one whose values cannot be read."""
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
def test_damage_inside_an_hdf5_file_is_told(tmp_path, damage):
    path = Path(small_h5(tmp_path / "x.h5", (3, 64)))
    with h5py.File(path) as file:
        kernel = file["block1_conv1"].attrs["weight_names"][0]
    damage(path, kernel)
    with pytest.raises(DataError, match=r"x.h5: not a whole HDF5 file \(.*\). Get it again"):
        keras_file.read_layers(path)


def test_damage_inside_weights_of_the_whole_network_is_told(tmp_path):
    network, spec = build("ssd128-small", classes=2)
    path = tmp_path / "x.weights.h5"
    network.save_weights(path)
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(name) if hasattr(item, "chunks") else None)
    spoil(path, next(name for name in found if name.endswith("vars/0")))
    with pytest.raises(DataError, match=r"x.weights.h5: not weights of this detector"):
        check_weights(network, spec, ("a", "b"), str(path))


def test_zip_that_is_no_state_dict_is_refused(tmp_path, ssd300):
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(DataError, match="not one that torch.save writes"):
        load_backbone_weights(*ssd300, VOC, str(tmp_path / "x.keras"))
    with pytest.raises(DataError, match="no PyTorch weights to read"):
        locate_weights(
            str(tmp_path / "x.keras"), detector_spec(TrainerConfig(detector="ssd300-resnet50"))
        )


@pytest.mark.parametrize("detector", APPLICATIONS)
def test_failed_download_says_where_the_file_is(detector, monkeypatch):
    def offline(*_, **__):
        raise Exception("URL fetch failure on X: None -- no route")

    monkeypatch.setattr(keras.utils, "get_file", offline)
    spec = detector_spec(TrainerConfig(detector=detector))
    with pytest.raises(DataError, match=rf"no route.* {spec.pretrained.url}.*weights=PATH/.*\.h5"):
        locate_weights("imagenet", spec)


def test_downloaded_file_is_taken(monkeypatch, tmp_path):
    path = small_h5(tmp_path / "x.h5", (3, 64))
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **__: path)
    assert locate_weights("imagenet", detector_spec(TrainerConfig())) == Path(path)


def test_no_imagenet_weights_for_a_backbone_of_our_own():
    with pytest.raises(DataError, match="use none"):
        locate_weights("imagenet", detector_spec(TrainerConfig(detector="ssd128-small")))


def test_random_weights_stay(log):
    network, spec = build("ssd128-small")
    before = network.get_weights()
    load_backbone_weights(network, spec, VOC, "none")
    for found, wanted in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert "weights=random" in log.text


def test_clipped_anchors_differ_only_outside_the_picture():
    plain, clipped = anchor_boxes(SSD300), anchor_boxes(SSD300_CLIPPED)
    assert plain.max() > 1
    np.testing.assert_array_equal(clipped, np.minimum(plain, 1))
    assert DetectorSpec(None, SSD300_CLIPPED) != DetectorSpec(None, SSD300)
