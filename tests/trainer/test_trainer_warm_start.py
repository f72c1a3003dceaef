"""Training that starts from an exported model."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from data.errors import DataError
from data.saved_model import IDENTITY
from trainer import checkpoints
from trainer.anchors import anchors_hash
from trainer.config import TrainerConfig
from trainer.detector import build_network, detector_spec
from trainer.export import ServedDetector, export
from trainer.weights.saved_model import check_base_model, load_base_model

CONFIG = TrainerConfig(detector="ssd128-small")

pytestmark = pytest.mark.usefixtures("tiny_detector")


def _network(seed, num_classes):
    keras.utils.set_random_seed(seed)
    network = build_network(detector_spec(CONFIG), num_classes)
    rng = np.random.default_rng(seed)
    for variable in network.variables:
        if "moving" in variable.path:
            variable.assign(rng.uniform(0.5, 2, variable.shape))
    return network


@pytest.fixture(scope="module")
def exported(tiny_detector, make, transformed_records, sample_classes, tmp_path_factory):
    """A network and the folder it was exported to, as a pushed version."""
    network = _network(1, len(sample_classes))
    spec = detector_spec(CONFIG)
    served = ServedDetector(network, spec.anchors, sample_classes, transformed_records, CONFIG)
    folder = tmp_path_factory.mktemp("pushed") / "1700000000"
    picture = make.encode(make.smooth_picture(40, 40))
    export(served, folder, {"trainer": dataclasses.asdict(CONFIG)}, [picture])
    return network, folder


def _load(network, path, classes, messages):
    load_base_model(network, CONFIG, classes, str(path))
    return messages()[-1]


def test_with_the_same_classes_outputs_equal_the_exported_models(
    exported, sample_classes, messages
):
    network, folder = exported
    started = _network(2, len(sample_classes))
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    wanted = [np.array(output) for output in network(images)]
    assert any(
        np.abs(np.array(o) - w).max() > 1e-3 for o, w in zip(started(images), wanted, strict=True)
    )
    line = _load(started, folder, sample_classes, messages)
    for output, other in zip(started(images), wanted, strict=True):
        np.testing.assert_array_equal(np.array(output), other)
    assert line == (f"  warm start: backbone 4 layers from {folder}, heads 4 layers from there too")


@pytest.mark.parametrize("change", [lambda c: c[::-1], lambda c: c[:4]])
def test_with_other_classes_the_heads_stay_new(exported, sample_classes, messages, change):
    network, folder = exported
    classes = change(list(sample_classes))
    started = _network(2, len(classes))
    before = {v.path: keras.ops.convert_to_numpy(v) for v in started.variables}
    line = _load(started, folder, classes, messages)
    stored = {v.path: keras.ops.convert_to_numpy(v) for v in network.variables}
    heads = {path for path in before if "_head" in path}
    assert len(heads) == 8
    for variable in started.variables:
        wanted = before if variable.path in heads else stored
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), wanted[variable.path])
    assert line == (f"  warm start: backbone 4 layers from {folder}, heads new (classes differ)")


@pytest.mark.slow
def test_the_light_detector_starts_from_one_of_its_kind(tmp_path, messages):
    config = TrainerConfig(detector="ssd300-lite0")
    spec = detector_spec(config)
    first, second = (build_network(spec, 3) for _ in range(2))
    new = {variable.path: keras.ops.convert_to_numpy(variable) for variable in second.variables}
    stored = {variable.path: keras.ops.convert_to_numpy(variable) for variable in first.variables}
    # Like `export`, but without the functions, which are slow to trace.
    saved = tf.Module()
    saved.weights = {checkpoints.key(i, v): v.value for i, v in enumerate(first.variables)}
    tf.saved_model.save(saved, str(tmp_path))
    facts = {"trainer": dataclasses.asdict(config), "classes": ["a", "b", "c"]}
    (tmp_path / IDENTITY).parent.mkdir()
    (tmp_path / IDENTITY).write_text(
        json.dumps(facts | {"anchors_hash": anchors_hash(spec.anchors)})
    )
    load_base_model(second, config, ["c", "b", "a"], str(tmp_path))
    assert messages()[-1].endswith("heads new (classes differ)")
    heads = {path for path in new if "_head" in path}
    for variable in second.variables:
        wanted = new if variable.path in heads else stored
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), wanted[variable.path])
    load_base_model(second, config, ["a", "b", "c"], str(tmp_path))
    for variable in second.variables:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), stored[variable.path])
    assert 0 < len(heads) < len(stored)


def test_the_model_is_found_in_tfx_folders(exported, tmp_path):
    _, folder = exported
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / "Format-Serving").symlink_to(folder)
    inner = f"{tmp_path}/8/Format-Serving"
    assert check_base_model(f"{tmp_path}/8", CONFIG) == inner
    assert check_base_model(inner, CONFIG) == inner
    # The path that the Trainer gets for an imported version.
    assert check_base_model(f"{folder}/Format-Serving", CONFIG) == str(folder)


def test_other_anchors_are_refused_with_both_hashes(exported, sample_classes):
    _, folder = exported
    other = dataclasses.replace(CONFIG, anchors="hikapok")
    own = json.loads((folder / IDENTITY).read_text())["anchors_hash"]
    network = _network(2, len(sample_classes))
    before = network.get_weights()
    with pytest.raises(
        DataError, match=f"{folder}.*anchors hash is {own}, this run's is [0-9a-f]+"
    ):
        load_base_model(network, other, sample_classes, str(folder))
    for value, old in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_another_detector_is_refused(exported):
    _, folder = exported
    other = dataclasses.replace(CONFIG, detector="ssd300-vgg16")
    with pytest.raises(DataError, match="detector is ssd128-small, this run's is ssd300-vgg16"):
        check_base_model(str(folder), other)


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the exported model to damage."""
    return shutil.copytree(exported[1], tmp_path / "model")


def test_a_folder_without_our_model_is_refused(copied, tmp_path):
    with pytest.raises(DataError, match=rf"trainer\.warm_start: {tmp_path}/none: no SavedModel"):
        check_base_model(f"{tmp_path}/none", CONFIG)
    (copied / IDENTITY).write_text("{")
    with pytest.raises(DataError, match=f"{copied}/{IDENTITY}: cannot be read"):
        check_base_model(str(copied), CONFIG)
    (copied / IDENTITY).write_text("{}")
    with pytest.raises(DataError, match=f"{IDENTITY}: has no 'trainer'"):
        check_base_model(str(copied), CONFIG)


def test_weights_of_other_code_are_refused(copied, exported, sample_classes, tmp_path):
    network = _network(2, len(sample_classes))
    (copied / "variables" / "variables.index").write_bytes(b"")
    with pytest.raises(DataError, match=f"{copied}/variables: cannot be read"):
        load_base_model(network, CONFIG, sample_classes, str(copied))
    saved = tf.Module()
    saved.weights = {"0:conv8/kernel": tf.Variable(np.zeros((8, 8, 3, 7), np.float32))}
    tf.saved_model.save(saved, str(tmp_path / "other"))
    (tmp_path / "other" / IDENTITY).parent.mkdir()
    shutil.copy(exported[1] / IDENTITY, tmp_path / "other" / IDENTITY)
    with pytest.raises(DataError, match=r"conv8/kernel: .*\(8, 8, 3, 8\), .* \(8, 8, 3, 7\)"):
        load_base_model(network, CONFIG, sample_classes, str(tmp_path / "other"))
