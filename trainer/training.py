"""The training loop, readable from top to bottom."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainer import checkpoints
from trainer.config import TrainerConfig
from trainer.objective import add_weight_decay, make_optimizer, objective
from trainer.schedule import WarmupSteps

_log = logging.getLogger("ssd.trainer")


@dataclass(frozen=True)
class StepLosses:
    """Losses per positive anchor of one step, and how many positive anchors the batch had."""

    total: float
    classes: float
    boxes: float
    positives: float


def make_step(network, optimizer, anchors, config: TrainerConfig):
    """A compiled optimiser step: (images, boxes, labels) -> total, class, box loss, positives."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *network.input_shape[1:]], tf.float32),
            tf.TensorSpec([None, None, 4], tf.float32),
            tf.TensorSpec([None, None], tf.int32),
        ]
    )
    def step(images, boxes, labels):
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            total, class_loss, box_loss, positives = objective(outputs, boxes, labels, anchors)
        variables = network.trainable_variables
        gradients = tape.gradient(total, variables)
        gradients = add_weight_decay(gradients, variables, config.weight_decay)
        optimizer.apply(gradients, variables)
        return total, class_loss, box_loss, positives

    return step


def train(
    network: keras.Model,
    anchors,
    make_batches,
    config: TrainerConfig,
    checkpoint_dir: Path,
    log_dir: Path,
    evaluate: Callable[[int], float] | None = None,
) -> StepLosses | None:
    """Trains to `config.steps`, going on from the newest checkpoint in `checkpoint_dir`.

    Args:
      make_batches: called with the first step, gives an endless dataset of batches.
      log_dir: where TensorBoard's event files go.
      evaluate: called with the step every `config.eval_every` steps and after the last, while the
        network has the weights that it is exported with; gives the mAP on the eval split.

    Returns:
      The losses of the last step, None when the checkpoint had all steps already.

    Raises:
      FloatingPointError: the loss is no longer finite; the last checkpoint stays.
    """
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    state = [*network.variables, *optimizer.variables]
    first_step = checkpoints.restore_latest(checkpoint_dir, state)
    if first_step:
        _log.info("train resume step=%d checkpoint=%s", first_step, checkpoint_dir)
    if first_step >= config.steps:
        return None

    step_fn = make_step(network, optimizer, anchors, config)
    batches = iter(make_batches(first_step))
    writer = tf.summary.create_file_writer(str(log_dir))
    window = _Window()
    losses = None
    for step in range(first_step + 1, config.steps + 1):
        waited_from = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - waited_from
        losses = step_fn(*batch)
        window.add(waited, config.batch_size)
        checkpoint_due = step % config.checkpoint_every == 0 or step == config.steps
        evaluation_due = evaluate and (step % config.eval_every == 0 or step == config.steps)
        if step % config.log_every == 0 or checkpoint_due or evaluation_due:
            losses = StepLosses(*(float(value) for value in losses))
            _report(step, losses, window, config, writer)
            window = _Window()
        # Before the checkpoint: a run that goes on from one has all evaluations up to it.
        if evaluation_due:
            with weights_to_serve(network, optimizer), writer.as_default(step=step):
                tf.summary.scalar("eval/mAP", evaluate(step))
            window = _Window()
        if checkpoint_due:
            checkpoints.save(checkpoint_dir, step, state, config.keep_checkpoints)
    writer.close()
    return losses


@contextmanager
def weights_to_serve(network: keras.Model, optimizer) -> Iterator[None]:
    """The network with the weights that it is exported with: averaged ones where there are any."""
    if not optimizer.use_ema:
        yield
        return
    trained = [np.array(variable) for variable in network.trainable_variables]
    optimizer.finalize_variable_values(network.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(network.trainable_variables, trained, strict=True):
            variable.assign(value)


class _Window:
    """Pictures and seconds since the last report."""

    def __init__(self):
        self.started = time.perf_counter()
        self.waited = 0.0
        self.images = 0

    def add(self, waited: float, images: int) -> None:
        self.waited += waited
        self.images += images

    def rates(self) -> tuple[float, float]:
        """(images/s, share of time spent waiting for data)."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return self.images / seconds, self.waited / seconds


def _report(step, losses: StepLosses, window: _Window, config, writer) -> None:
    if not math.isfinite(losses.total):
        raise FloatingPointError(
            f"the loss at step {step} is {losses.total}. Lower trainer.learning_rate or set "
            "trainer.clip_norm"
        )
    images_per_second, waiting = window.rates()
    rate = float(WarmupSteps(config)(step - 1))
    _log.info(
        "  step=%d/%d loss=%.3f class=%.3f box=%.3f positives=%d lr=%.2g images/s=%.1f wait=%.0f%%",
        step,
        config.steps,
        losses.total,
        losses.classes,
        losses.boxes,
        losses.positives,
        rate,
        images_per_second,
        100 * waiting,
    )
    with writer.as_default(step=step):
        tf.summary.scalar("loss/total", losses.total)
        tf.summary.scalar("loss/class", losses.classes)
        tf.summary.scalar("loss/box", losses.boxes)
        tf.summary.scalar("learning_rate", rate)
        tf.summary.scalar("images_per_second", images_per_second)
        tf.summary.scalar("share_waiting_for_data", waiting)
