import dataclasses
import math
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.ops import convert_to_numpy

from data.errors import DataError
from tests.trainer.tiny import TINY
from trainer import selection, training
from trainer.anchors import SSD128, anchor_boxes
from trainer.backbones import small
from trainer.config import TrainerConfig
from trainer.detector import DetectorSpec, build_network
from trainer.moving_averages import MovingAverages
from trainer.objective import make_optimizer, objective
from trainer.training import make_step, train

_CLASSES = 2


_SMALL = DetectorSpec(small.feature_maps, SSD128)


def _config(**fields):
    defaults = {
        "detector": "ssd128-small",
        "batch_size": 4,
        "steps": 6,
        "learning_rate": 0.02,
        "warmup_steps": 2,
        "warmup_learning_rate": 0.01,
        "learning_rate_steps": (),
        "clip_norm": 10.0,
        "log_every": 1,
        "checkpoint_every": 3,
    }
    return TrainerConfig(**{**defaults, **fields})


def _network(spec=TINY, seed=0, precision="float32"):
    keras.utils.set_random_seed(seed)
    return build_network(spec, _CLASSES, precision)


def _pictures(n, size):
    """Grey pictures with one bright (class 1) or dark (class 2) square each."""
    rng = np.random.default_rng(0)
    images = rng.normal(120, 10, (n, size, size, 3)).astype(np.float32)
    boxes, labels = np.zeros((n, 2, 4), np.float32), np.zeros((n, 2), np.int32)
    for index in range(n):
        y, x = rng.integers(0, size * 5 // 8, 2)
        side = rng.integers(size // 5, size * 3 // 8)
        images[index, y : y + side, x : x + side] = (240, 20)[index % 2]
        boxes[index, 0] = np.array([y, x, y + side, x + side]) / size
        labels[index, 0] = 1 + index % 2
    return images, boxes, labels


def _batches(first_step, context=None, batch=4, size=32, objects=True):
    images, boxes, labels = _pictures(16, size)
    if not objects:
        boxes, labels = boxes[:, :0], labels[:, :0]
    dataset = tf.data.Dataset.from_tensor_slices((images, boxes, labels))
    return dataset.batch(batch).repeat().skip(first_step)


def _train(folder, config, make_batches=_batches, network=None, spec=TINY):
    network = network or _network(spec)
    anchors = anchor_boxes(spec.anchors)
    losses = train(network, anchors, make_batches, config, folder / "ckpt", folder / "logs")
    return network, losses


def _scalars(folder, tag):
    """Values by step that TensorBoard's event files hold."""
    values = {}
    for path in sorted(folder.glob("logs/events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == tag:
                    values[event.step] = float(tf.make_ndarray(value.tensor))
    return values


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Six steps in one go: folder, network and last losses."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, *_train(folder, _config())


@pytest.mark.slow
def test_steps_reduce_the_loss_on_fixed_pictures(tmp_path):
    config = _config(steps=25, batch_size=16, warmup_steps=5, log_every=5, checkpoint_every=25)
    _, last = _train(
        tmp_path, config, lambda first, context: _batches(first, batch=16, size=128), spec=_SMALL
    )
    losses = _scalars(tmp_path, "loss/total")
    assert list(losses) == [5, 10, 15, 20, 25]
    assert losses[25] == pytest.approx(last.total)
    assert last.total < 0.6 * losses[5]
    assert last.total == pytest.approx(last.classes + last.boxes, rel=1e-5)
    assert last.positives >= 16


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(uninterrupted, tmp_path):
    folder, network, last = uninterrupted

    class Killed(Exception):
        pass

    def killed_after_five(first_step, context):
        for number, batch in enumerate(_batches(first_step)):
            if number == 5:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        _train(tmp_path, _config(), killed_after_five)
    started_at = []

    def batches(first_step, context):
        started_at.append(first_step)
        return _batches(first_step)

    # A network of its own, with other weights until the checkpoint is read.
    resumed, resumed_last = _train(tmp_path, _config(), batches, _network(seed=99))
    assert started_at == [3]
    assert resumed_last == last
    assert _scalars(tmp_path, "loss/total") == _scalars(folder, "loss/total")
    for value, other in zip(network.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_finished_run_does_nothing_more(uninterrupted):
    folder, network, _ = uninterrupted
    again, losses = _train(folder, _config(), lambda *_: pytest.fail("no batch is needed"))
    assert losses is None
    for value, other in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


def test_logs_tell_rate_and_speed(uninterrupted):
    folder, *_ = uninterrupted
    rates = _scalars(folder, "learning_rate")
    np.testing.assert_allclose(list(rates.values()), [0.01, 0.015, 0.02, 0.02, 0.02, 0.02], 1e-5)
    assert min(_scalars(folder, "images_per_second").values()) > 0
    assert all(0 <= share <= 1 for share in _scalars(folder, "share_waiting_for_data").values())


def test_pictures_without_objects_train(tmp_path):
    network, losses = _train(
        tmp_path, _config(steps=3), lambda first, context: _batches(first, objects=False)
    )
    assert losses.positives == 0
    assert losses.boxes == 0
    assert losses.total > 0
    assert all(np.isfinite(weights).all() for weights in network.get_weights())


@pytest.mark.parametrize("log_every", [1, 10])
def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path, log_every):
    def spoilt(first_step, context):
        for number, (images, boxes, labels) in enumerate(_batches(first_step), start=1):
            yield (images * np.nan if number == 5 else images), boxes, labels

    config = _config(log_every=log_every)
    step = 5 if log_every == 1 else 6
    with pytest.raises(FloatingPointError, match=rf"loss at step {step} is nan.*learning_rate"):
        _train(tmp_path, config, spoilt)
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["step-00000003.npz"]


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path):
    """They come from a loss that is finite: the one of the batch before."""

    def too_bright(first_step, context):
        for number, (images, boxes, labels) in enumerate(_batches(first_step), start=1):
            yield (images * 1e25 if number == 6 else images), boxes, labels

    with pytest.raises(FloatingPointError, match=r"is not finite after step 6. Lower trainer"):
        _train(tmp_path, _config(clip_norm=0.0), too_bright)
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["step-00000003.npz"]


def test_a_disk_that_is_too_full_for_logs_loses_nothing(uninterrupted, tmp_path, monkeypatch):
    # What is printed may go to a file too.
    monkeypatch.setattr(training._log, "disabled", True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full_from_step_5_on(first_step, context):
        for number, batch in enumerate(_batches(first_step), start=1):
            if number == 5:
                # Writing beyond the limit fails as on a full disk.
                resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            yield batch

    try:
        with pytest.raises(
            DataError, match=rf"^{tmp_path}/logs: .* \({tmp_path}/.* File too large\). Free disk"
        ):
            _train(tmp_path, _config(), full_from_step_5_on)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _, network, last = uninterrupted
    resumed, resumed_last = _train(tmp_path, _config(), network=_network(seed=99))
    assert resumed_last == last
    for value, other in zip(network.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


_EVERY_OPTION = {
    "schedule": "cosine",
    "double_bias_rate": True,
    "ema": 0.8,
    "precision": "mixed_float16",
}


@pytest.fixture(scope="module")
def with_every_option(tmp_path_factory):
    """Six steps in one go, each with its checkpoint: folder, network and last losses."""
    folder = tmp_path_factory.mktemp("options")
    config = _config(checkpoint_every=1, keep_checkpoints=6, **_EVERY_OPTION)
    return folder, *_train(folder, config, network=_network(precision="mixed_float16"))


def test_resume_is_exact_with_every_option(with_every_option, tmp_path):
    folder, network, last = with_every_option
    (tmp_path / "ckpt").mkdir()
    shutil.copy(folder / "ckpt" / "step-00000003.npz", tmp_path / "ckpt")
    other = _network(seed=99, precision="mixed_float16")
    resumed, resumed_last = _train(tmp_path, _config(**_EVERY_OPTION), network=other)
    assert resumed_last == last
    losses = _scalars(folder, "loss/total")
    assert _scalars(tmp_path, "loss/total") == {step: losses[step] for step in (4, 5, 6)}
    for value, other in zip(network.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)
    # A run that has its last step gives the same averages again.
    again, losses = _train(tmp_path, _config(**_EVERY_OPTION), network=_network(seed=98))
    assert losses is None
    for value, other in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


def test_trained_weights_are_the_averages_over_the_steps(with_every_option):
    """Those that are kept beside them; test_trainer_averages.py computes them in numpy."""
    folder, network, _ = with_every_option
    with np.load(folder / "ckpt" / "step-00000006.npz") as stored:
        averages = [stored[name] for name in stored.files if name.endswith("_average")]
        last = [stored[f"{i}:{v.path}"] for i, v in enumerate(network.variables)]
    for variable, average, value in zip(network.variables, averages, last, strict=True):
        np.testing.assert_array_equal(convert_to_numpy(variable), average)
        assert len(value.shape) == 1 or np.abs(average - value).max() > 1e-5


def _loss_when_served(network):
    """On the pictures that `_batches` trains with."""
    images, boxes, labels = _pictures(16, 32)
    outputs = network(images, training=False)
    return float(objective(outputs, boxes, labels, anchor_boxes(TINY.anchors), _config())[0])


@pytest.mark.slow
def test_averages_of_a_short_training_serve_as_well_as_the_last_weights(tmp_path):
    """With an `ema` that would take thousands of steps to forget the first weights."""
    loss = {}
    for ema in (0.0, 0.9999):
        config = _config(steps=150, ema=ema, log_every=150, checkpoint_every=150)
        network, _ = _train(tmp_path / str(ema), config)
        loss[ema] = _loss_when_served(network)
    untrained = _loss_when_served(_network())
    assert loss[0.0] < 0.5 * untrained
    assert loss[0.9999] < 1.1 * loss[0.0]


def _losses_of_steps(config):
    network = _network(precision=config.precision)
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, config.ema)
    step = make_step(network, optimizer, averages, anchor_boxes(TINY.anchors), config)
    losses = [[float(value) for value in step(*batch)] for batch in _batches(0).take(3)]
    return network, np.array(losses)


def test_steps_match_and_mine_as_configured(plain_steps):
    _, fewer = _losses_of_steps(_config(matching_iou=0.8))
    _, harder = _losses_of_steps(_config(negatives_per_positive=1))
    # Every object keeps its best anchor; in the last batch, it has no other.
    assert (fewer[:2, 3] < plain_steps[:2, 3]).all()
    assert harder[0, 1] < plain_steps[0, 1]
    np.testing.assert_array_equal(harder[:, 3], plain_steps[:, 3])


@pytest.fixture(scope="module")
def plain_steps():
    """Losses of three steps in float32."""
    return _losses_of_steps(_config())[1]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_close_to_float32(plain_steps, precision):
    network, losses = _losses_of_steps(_config(precision=precision))
    np.testing.assert_allclose(losses[:, :3], plain_steps[:, :3], rtol=0.05)
    np.testing.assert_array_equal(losses[:, 3], plain_steps[:, 3])
    # It is mixed indeed, but what goes into the loss and what is learned is float32.
    assert network.get_layer("conv8").compute_dtype == precision.removeprefix("mixed_")
    assert {v.dtype for v in network.variables} == {"float32"}
    outputs = network(next(iter(_batches(0)))[0])
    assert {keras.backend.standardize_dtype(x.dtype) for x in outputs} == {"float32"}
    # The network that is exported.
    served = _network(seed=99)
    served.set_weights(network.get_weights())
    images = next(iter(_batches(0)))[0]
    for mixed, exact in zip(network(images), served(images), strict=True):
        np.testing.assert_allclose(mixed, exact, atol=0.03 * np.abs(exact).max())


def test_xla_gives_the_same_losses(plain_steps):
    _, losses = _losses_of_steps(_config(xla=True))
    np.testing.assert_allclose(losses, plain_steps, rtol=1e-4)


def _one_step(config, network):
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, config.ema)
    step = make_step(network, optimizer, averages, anchor_boxes(TINY.anchors), config)
    before = network.get_weights()
    step(*next(iter(_batches(0))))
    names = [v.path for v in network.variables]
    return {
        name: after - old
        for name, old, after in zip(names, before, network.get_weights(), strict=True)
    }


def test_weight_decay_pulls_kernels_and_nothing_else():
    base = dataclasses.replace(_config(clip_norm=0.0), warmup_steps=0, learning_rate=0.1)
    network = _network()
    kernels = {v.path: convert_to_numpy(v) for v in network.trainable_variables if len(v.shape) > 1}
    without = _one_step(dataclasses.replace(base, weight_decay=0.0), network)
    decayed = _one_step(dataclasses.replace(base, weight_decay=0.5), _network())
    assert kernels
    assert len(kernels) < len(without)
    for name, change in decayed.items():
        wanted = without[name] - 0.1 * 0.5 * kernels[name] if name in kernels else without[name]
        np.testing.assert_allclose(change, wanted, rtol=1e-3, atol=2e-5)


def test_clipping_bounds_the_step():
    config = _config(clip_norm=0.01, warmup_steps=0, learning_rate=1.0, weight_decay=0.0)
    network = _network()
    trained = {v.path for v in network.trainable_variables}
    changes = [c for name, c in _one_step(config, network).items() if name in trained]
    norm = math.sqrt(sum(float((change.astype(float) ** 2).sum()) for change in changes))
    assert norm == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize("killed_at", [None, 8])
def test_a_training_stops_when_measurements_bring_no_new_best(tmp_path, messages, killed_at):
    scores = {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.4}
    measured = []

    def evaluate(step):
        measured.append(step)
        if len(measured) == 4 and step == killed_at:
            raise KeyboardInterrupt
        selection.keep_if_best(tmp_path / "ckpt", step, scores[step], [])
        return scores[step]

    def run():
        folders = tmp_path / "ckpt", tmp_path / "logs"
        config = _config(steps=12, eval_every=2, patience=2, checkpoint_every=2)
        train(_network(), anchor_boxes(TINY.anchors), _batches, config, *folders, evaluate)

    if killed_at:
        with pytest.raises(KeyboardInterrupt):
            run()
    run()
    # Killed at step 8 it goes on from step 6 and still knows the best of step 4.
    assert measured == [2, 4, 6, 8] + [8] * bool(killed_at)
    # It has stopped, whoever runs it again.
    run()
    assert measured[-1] == 8
    assert "stopped step=8" in "\n".join(messages())


def test_the_time_left_is_what_the_steps_so_far_take_on_average(monkeypatch):
    now = iter([100.0, 130.0])
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(now))
    pace = training._Pace(first_step=40, last_step=190)
    # 30 s for 5 steps.
    assert pace.left(45) == "0:14:30"
