"""PyTorch files, compared with PyTorch's own forward passes; unfit and unsafe files."""

import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from tests.trainer.networks import assert_close, build
from trainer.config import TrainerConfig
from trainer.detector import detector_spec
from trainer.weights import load_backbone_weights, locate_weights, vgg16
from trainer.weights.torch_file import read_state_dict
from trainer.weights.vgg16 import VOC_CLASSES as VOC

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder written by torch_reference.py."""
    python = os.environ.get("TORCH_PYTHON")
    if not python:
        pytest.skip("needs PyTorch: set TORCH_PYTHON to a Python that has torch and numpy")
    folder = tmp_path_factory.mktemp("torch")
    script = Path(__file__).with_name("torch_reference.py")
    subprocess.run([python, script, folder], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("size", [300, 512])
def test_equals_the_network_in_pytorch(reference, size, messages):
    network, spec = build(f"ssd{size}-vgg16")
    load_backbone_weights(network, spec, VOC, str(reference / f"ssd{size}.pth"))
    assert "random=none" in messages()[0]
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
    # A class's position may change the order in which a processor sums its products.
    assert_close(reversed_logits[..., 0], logits[..., 0])
    assert_close(reversed_logits[..., 1:], logits[..., :0:-1])


def test_full_ssd_for_other_classes_leaves_class_heads_random(reference, messages):
    network, spec = build(classes=3)
    before = network.get_layer("class_head0").get_weights()[0]
    load_backbone_weights(network, spec, ("a", "b", "c"), str(reference / "ssd300.pth"))
    heads = ",".join(f"class_head{level}" for level in range(6))
    assert f"(conv1_1 to box_head5) random={heads}" in messages()[0]
    np.testing.assert_array_equal(network.get_layer("class_head0").get_weights()[0], before)


def test_full_ssd_on_other_anchors_leaves_all_heads_random(reference, messages):
    network, spec = build(anchors="hikapok")
    load_backbone_weights(network, spec, VOC, str(reference / "ssd300.pth"))
    assert "loaded=24 layers (conv1_1 to conv11_2) random=box_head0," in messages()[0]


def test_reduced_vgg_is_loaded_without_swapping_colours(reference, ssd300, messages):
    network, spec = ssd300
    load_backbone_weights(network, spec, VOC, str(reference / "reducedfc.pth"))
    assert "loaded=15 layers (conv1_1 to fc7) random=conv8_1," in messages()[0]
    stored = read_state_dict(reference / "reducedfc.pth")
    kernel = network.get_layer("conv1_1").get_weights()[0]
    np.testing.assert_array_equal(kernel[0, 2, :, 5], stored["0.weight"][5, :, 0, 2])


def test_pytorch_file_of_the_wrong_size_names_the_layer(reference, ssd300):
    network, spec = ssd300
    with pytest.raises(DataError, match=r"ssd512.pth: .* a layer conv12_1 that this network lacks"):
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
    """A file as written by PyTorch 0.2, with the entry `0.weight` given as pickle opcodes."""
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
def test_a_truncated_file_is_named(tmp_path, length):
    path = tmp_path / "x.pth"
    path.write_bytes(old_file(OLD_TENSOR)[:length])
    with pytest.raises(DataError, match="x.pth: "):
        read_state_dict(path)


def vgg_tensors():
    """Small arrays with the names of ssd.pytorch's reduced VGG-16."""
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


def test_a_zip_that_is_not_a_state_dict_is_refused(tmp_path, ssd300):
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(DataError, match="not from torch.save"):
        load_backbone_weights(*ssd300, VOC, str(tmp_path / "x.keras"))
    with pytest.raises(DataError, match="no PyTorch weights to read"):
        locate_weights(
            str(tmp_path / "x.keras"), detector_spec(TrainerConfig(detector="ssd300-resnet50"))
        )
