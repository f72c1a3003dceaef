import dataclasses
import itertools
import math
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.ops import convert_to_numpy

from tests.trainer.tiny import TINY
from tests.trainer.tiny_training import (
    SMALL,
    batches_from,
    make_config,
    make_network,
    read_scalars,
    squares,
    train_tiny,
)
from trainer import selection, training
from trainer.anchors import anchor_boxes
from trainer.moving_averages import MovingAverages
from trainer.objective import make_optimizer, objective
from trainer.training import make_step, train


@pytest.mark.slow
def test_steps_reduce_the_loss_on_fixed_pictures(tmp_path):
    config = make_config(steps=25, batch_size=16, warmup_steps=5, log_every=5, checkpoint_every=25)
    _, last = train_tiny(
        tmp_path, config, lambda first, context: batches_from(first, batch=16, size=128), spec=SMALL
    )
    losses = read_scalars(tmp_path, "loss/total")
    assert list(losses) == [5, 10, 15, 20, 25]
    assert losses[25] == pytest.approx(last.total)
    assert last.total < 0.6 * losses[5]
    assert last.total == pytest.approx(last.classes + last.boxes, rel=1e-5)
    assert last.positives >= 16


@pytest.mark.slow
def test_logs_have_losses_rate_and_speed(tmp_path, monkeypatch, messages):
    # Every reading of the clock advances it by a second.
    seconds = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    _, last = train_tiny(tmp_path, make_config())
    rates = read_scalars(tmp_path, "learning_rate")
    np.testing.assert_allclose(list(rates.values()), [0.01, 0.015, 0.02, 0.02, 0.02, 0.02], 1e-5)
    for tag, value in (("total", last.total), ("class", last.classes), ("box", last.boxes)):
        assert read_scalars(tmp_path, f"loss/{tag}")[6] == pytest.approx(value)
    # A window reads the clock four times, once for the wait.
    assert read_scalars(tmp_path, "images_per_second")[5] == 4 / 4
    assert read_scalars(tmp_path, "share_waiting_for_data")[5] == 1 / 4
    text = next(text for text in messages() if "step=5/6" in text)
    assert "images/s=1.0 wait=25% left=0:00:05" in text
    shown = f"loss={last.total:.3f} class={last.classes:.3f} box={last.boxes:.3f}"
    assert any(f"step=6/6 {shown} positives={last.positives:.0f} lr=0.02" in t for t in messages())


@pytest.mark.slow
def test_the_last_step_is_measured_and_saved_whatever_the_intervals(tmp_path):
    """The averages are measured, because they are exported."""
    network, seen = make_network(), {}

    def evaluate(step):
        seen[step] = network.get_weights()
        return step / 10

    config = make_config(steps=3, checkpoint_every=2, eval_every=2, log_every=9, ema=0.5)
    folders = tmp_path / "ckpt", tmp_path / "logs"
    train(network, anchor_boxes(TINY.anchors), batches_from, config, *folders, evaluate)
    assert list(seen) == [2, 3]
    assert read_scalars(tmp_path, "eval/mAP") == pytest.approx({2: 0.2, 3: 0.3})
    assert sorted(path.name for path in folders[0].iterdir()) == [
        f"step-{step:08d}.npz" for step in (2, 3)
    ]
    for value, other in zip(seen[3], network.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)
    with np.load(folders[0] / "step-00000003.npz") as stored:
        last = [stored[f"{i}:{v.path}"] for i, v in enumerate(network.variables)]
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(last, seen[3], strict=True))


def test_pictures_without_objects_train(tmp_path):
    network, losses = train_tiny(
        tmp_path, make_config(steps=3), lambda first, context: batches_from(first, objects=False)
    )
    assert losses.positives == 0
    assert losses.boxes == 0
    assert losses.total > 0
    assert all(np.isfinite(weights).all() for weights in network.get_weights())


@pytest.mark.parametrize("log_every", [1, 10])
def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path, log_every):
    def spoilt(first_step, context):
        for number, (images, boxes, labels) in enumerate(batches_from(first_step), start=1):
            yield (images * np.nan if number == 5 else images), boxes, labels

    config = make_config(log_every=log_every)
    step = 5 if log_every == 1 else 6
    with pytest.raises(FloatingPointError, match=rf"loss at step {step} is nan.*learning_rate"):
        train_tiny(tmp_path, config, spoilt)
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["step-00000003.npz"]


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path):
    """The loss that leads to them, of the batch before, is finite."""

    def too_bright(first_step, context):
        for number, (images, boxes, labels) in enumerate(batches_from(first_step), start=1):
            yield (images * 1e25 if number == 6 else images), boxes, labels

    with pytest.raises(FloatingPointError, match=r"is not finite after step 6. Lower trainer"):
        train_tiny(tmp_path, make_config(clip_norm=0.0), too_bright)
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["step-00000003.npz"]


def test_a_measured_step_is_logged_and_its_weights_checked(tmp_path):
    def too_bright(first_step, context):
        for number, (images, boxes, labels) in enumerate(batches_from(first_step), start=1):
            yield (images * 1e25 if number == 4 else images), boxes, labels

    measured = []
    config = make_config(clip_norm=0.0, eval_every=2, log_every=9, checkpoint_every=9)
    folders = tmp_path / "ckpt", tmp_path / "logs"
    with pytest.raises(FloatingPointError, match="is not finite after step 4"):
        train(
            make_network(),
            anchor_boxes(TINY.anchors),
            too_bright,
            config,
            *folders,
            lambda step: measured.append(step) or 0.5,
        )
    assert measured == [2]
    assert list(read_scalars(tmp_path, "loss/total")) == [2, 4]


def _loss_when_served(network):
    """The loss on the pictures from `batches_from`."""
    images, boxes, labels = squares(16, 32)
    outputs = network(images, training=False)
    return float(objective(outputs, boxes, labels, anchor_boxes(TINY.anchors), make_config())[0])


@pytest.mark.slow
def test_averages_of_a_short_training_serve_as_well_as_the_last_weights(tmp_path):
    """Even with an `ema` that would take thousands of steps to forget the initial weights."""
    loss = {}
    for ema in (0.0, 0.9999):
        config = make_config(steps=150, ema=ema, log_every=150, checkpoint_every=150)
        network, _ = train_tiny(tmp_path / str(ema), config)
        loss[ema] = _loss_when_served(network)
    untrained = _loss_when_served(make_network())
    assert loss[0.0] < 0.5 * untrained
    assert loss[0.9999] < 1.1 * loss[0.0]


def _losses_of_steps(config):
    network = make_network(precision=config.precision)
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, config.ema)
    step = make_step(network, optimizer, averages, anchor_boxes(TINY.anchors), config)
    losses = [[float(value) for value in step(*batch)] for batch in batches_from(0).take(3)]
    return network, np.array(losses)


@pytest.mark.slow
def test_steps_match_and_mine_as_configured(plain_steps):
    _, fewer = _losses_of_steps(make_config(matching_iou=0.8))
    _, harder = _losses_of_steps(make_config(negatives_per_positive=1))
    # Every object keeps its best anchor; in the last batch it never had another.
    assert (fewer[:2, 3] < plain_steps[:2, 3]).all()
    assert harder[0, 1] < plain_steps[0, 1]
    np.testing.assert_array_equal(harder[:, 3], plain_steps[:, 3])


@pytest.fixture(scope="module")
def plain_steps():
    """Losses of three steps in float32."""
    return _losses_of_steps(make_config())[1]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_close_to_float32(plain_steps, precision):
    network, losses = _losses_of_steps(make_config(precision=precision))
    np.testing.assert_allclose(losses[:, :3], plain_steps[:, :3], rtol=0.05)
    np.testing.assert_array_equal(losses[:, 3], plain_steps[:, 3])
    # Computation is mixed, but the loss's inputs and the variables are float32.
    assert network.get_layer("conv8").compute_dtype == precision.removeprefix("mixed_")
    assert {v.dtype for v in network.variables} == {"float32"}
    outputs = network(next(iter(batches_from(0)))[0])
    assert {keras.backend.standardize_dtype(x.dtype) for x in outputs} == {"float32"}
    # The exported network gives nearly the same outputs.
    served = make_network(seed=99)
    served.set_weights(network.get_weights())
    images = next(iter(batches_from(0)))[0]
    for mixed, exact in zip(network(images), served(images), strict=True):
        np.testing.assert_allclose(mixed, exact, atol=0.03 * np.abs(exact).max())


def test_xla_gives_the_same_losses(plain_steps):
    with mock.patch.object(tf, "function", wraps=tf.function) as function:
        _, losses = _losses_of_steps(make_config(xla=True))
    # Keras compiles functions too.
    (step,) = (call for call in function.mock_calls if "input_signature" in call.kwargs)
    assert step.kwargs["jit_compile"]
    np.testing.assert_allclose(losses, plain_steps, rtol=1e-4)


def _one_step(config, network):
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, config.ema)
    step = make_step(network, optimizer, averages, anchor_boxes(TINY.anchors), config)
    before = network.get_weights()
    step(*next(iter(batches_from(0))))
    names = [v.path for v in network.variables]
    return {
        name: after - old
        for name, old, after in zip(names, before, network.get_weights(), strict=True)
    }


def test_weight_decay_pulls_kernels_and_nothing_else():
    base = dataclasses.replace(make_config(clip_norm=0.0), warmup_steps=0, learning_rate=0.1)
    network = make_network()
    kernels = {v.path: convert_to_numpy(v) for v in network.trainable_variables if len(v.shape) > 1}
    without = _one_step(dataclasses.replace(base, weight_decay=0.0), network)
    decayed = _one_step(dataclasses.replace(base, weight_decay=0.5), make_network())
    assert kernels
    assert len(kernels) < len(without)
    # As in training, batch statistics normalise, and are averaged.
    moving = [change for name, change in without.items() if "moving" in name]
    assert moving and all(np.abs(change).max() > 0 for change in moving)
    for name, change in decayed.items():
        wanted = without[name] - 0.1 * 0.5 * kernels[name] if name in kernels else without[name]
        np.testing.assert_allclose(change, wanted, rtol=1e-3, atol=2e-5)


def test_clipping_limits_the_step():
    config = make_config(clip_norm=0.01, warmup_steps=0, learning_rate=1.0, weight_decay=0.0)
    network = make_network()
    trained = {v.path for v in network.trainable_variables}
    changes = [c for name, c in _one_step(config, network).items() if name in trained]
    norm = math.sqrt(sum(float((change.astype(float) ** 2).sum()) for change in changes))
    assert norm == pytest.approx(0.01, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [None, 8])
def test_a_training_stops_when_measurements_bring_no_new_best(tmp_path, messages, killed_at):
    scores = {2: 0.5, 4: 0.5, 6: 0.4, 8: 0.4}
    measured = []

    def evaluate(step):
        measured.append(step)
        if len(measured) == 4 and step == killed_at:
            raise KeyboardInterrupt
        selection.keep_if_best(tmp_path / "ckpt", step, scores[step], [])
        return scores[step]

    def run():
        folders = tmp_path / "ckpt", tmp_path / "logs"
        config = make_config(steps=12, eval_every=2, patience=2, checkpoint_every=2)
        train(make_network(), anchor_boxes(TINY.anchors), batches_from, config, *folders, evaluate)

    if killed_at:
        with pytest.raises(KeyboardInterrupt):
            run()
    run()
    # Killed at step 8, it resumes from step 6 and still knows step 4's best.
    assert measured == [2, 4, 6, 8] + [8] * bool(killed_at)
    # Running it again stops at once.
    run()
    assert measured[-1] == 8
    assert "stopped step=8" in "\n".join(messages())


def test_the_time_left_follows_from_the_average_step(monkeypatch):
    now = iter([100.0, 130.0])
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(now))
    pace = training._Pace(first_step=40, last_step=190)
    # 30 s for 5 steps.
    assert pace.left(45) == "0:14:30"
