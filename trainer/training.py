"""The training loop, to be read from top to bottom."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data.errors import DataError, reason_of
from trainer import checkpoints, devices, selection
from trainer.config import ConfigInSteps
from trainer.moving_averages import MovingAverages
from trainer.objective import make_optimizer, objective
from trainer.schedule import LearningRate

_log = logging.getLogger("ssd.trainer")


@dataclass(frozen=True)
class StepLosses:
    """One step's losses per positive anchor, and the batch's number of positive anchors."""

    total: float
    classes: float
    boxes: float
    positives: float


def make_step(
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    averages: MovingAverages,
    anchors: np.ndarray,
    config: ConfigInSteps,
    batch_spec: tuple | None = None,
) -> Callable:
    """A compiled optimiser step: (images, boxes, labels) -> total, class, box loss, positives.

    Call it in the strategy's scope. The step is the same for any number of replicas: each returns
    the losses and positives of the whole batch.

    Args:
      batch_spec: the batches' `element_spec`; needed if batches are split over replicas.
    """
    strategy = tf.distribute.get_strategy()

    def replica_step(
        images: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        def over_replicas(values: tf.Tensor | list[tf.Tensor]) -> tf.Tensor | list[tf.Tensor]:
            replica = tf.distribute.get_replica_context()
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, values)

        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            *losses, positives = objective(outputs, boxes, labels, anchors, config, over_replicas)
            scaled = optimizer.scale_loss(losses[0])
        variables = network.trainable_variables
        gradients = over_replicas(tape.gradient(scaled, variables))
        optimizer.apply(gradients, variables)
        averages.update(optimizer.iterations)
        return *over_replicas(losses), positives

    one_device = (
        tf.TensorSpec([None, *network.input_shape[1:]], tf.float32),
        tf.TensorSpec([None, None, 4], tf.float32),
        tf.TensorSpec([None, None], tf.int32),
    )

    @tf.function(input_signature=batch_spec or one_device, jit_compile=config.xla or None)
    def step(images: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        results = strategy.run(replica_step, (images, boxes, labels))
        return tuple(strategy.experimental_local_results(result)[0] for result in results)

    return step


def train(
    network: keras.Model,
    anchors: np.ndarray,
    make_batches: Callable[[int, tf.distribute.InputContext], tf.data.Dataset],
    config: ConfigInSteps,
    checkpoint_dir: Path,
    log_dir: Path,
    evaluate: Callable[[int], float] | None = None,
) -> StepLosses | None:
    """Trains to `config.steps`, resuming from the newest checkpoint in `checkpoint_dir`.

    Stops early after `config.patience` measurements in a row without a new best mAP.

    Call it in the scope of the strategy that the network was built in. Of several workers only the
    chief writes; the others must see its `checkpoint_dir`. At the end the network has the weights
    to export.

    Args:
      make_batches: takes the first step and a `tf.distribute.InputContext`; returns an endless
        dataset of the batches for that context's replicas, in order.
      log_dir: where TensorBoard's event files go.
      evaluate: takes the step; returns the mAP on the eval split. Called every `config.eval_every`
        steps and after the last one, with the weights to export in the network.

    Returns:
      The losses of the last step, None if the checkpoint was already at the end.

    Raises:
      FloatingPointError: loss or state is not finite; the last checkpoint stays.
      DataError: the workers see different checkpoints, or a file cannot be written.
    """
    strategy = tf.distribute.get_strategy()
    is_chief = devices.is_chief(strategy)
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, config.ema)
    state = [*network.variables, *optimizer.variables, *averages.variables]
    first_step = checkpoints.restore_latest(checkpoint_dir, state)
    if not devices.same_everywhere(strategy, first_step):
        raise DataError(
            f"{checkpoint_dir}: the workers see different checkpoints, this one sees step "
            f"{first_step}. Mount the same storage there on all of them"
        )
    if first_step and is_chief:
        _log.info("train resume step=%d checkpoint=%s", first_step, checkpoint_dir)
    if first_step >= config.steps:
        averages.put_into_network()
        return None

    batches = iter(strategy.distribute_datasets_from_function(partial(make_batches, first_step)))
    batch_spec = batches.element_spec if strategy.num_replicas_in_sync > 1 else None
    step_fn = make_step(network, optimizer, averages, anchors, config, batch_spec)
    writer = tf.summary.create_noop_writer()
    if is_chief:
        with _written_to(log_dir):
            writer = tf.summary.create_file_writer(str(log_dir))
    best = selection.best_in(checkpoint_dir) if evaluate else None
    window = _Window()
    pace = _Pace(first_step, config.steps)
    losses = None
    for step in range(first_step + 1, config.steps + 1):
        # Before the step, so that a run resumed after its last measurement stops there too.
        if config.patience and (step - 1) % config.eval_every == 0:
            # Only the chief measures; the others report 0.
            lasting = step - 1 - best.step if best else 0
            if devices.largest(strategy, lasting) >= config.patience * config.eval_every:
                if is_chief and best:
                    _log.info(
                        "  stopped step=%d: the last %d measurements brought no better mAP than "
                        "step %d (trainer.patience)",
                        step - 1,
                        config.patience,
                        best.step,
                    )
                break
        waited_from = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - waited_from
        losses = step_fn(*batch)
        window.add(waited, config.batch_size)
        checkpoint_due = step % config.checkpoint_every == 0 or step == config.steps
        evaluation_due = evaluate and (step % config.eval_every == 0 or step == config.steps)
        if step % config.log_every == 0 or checkpoint_due or evaluation_due:
            losses = StepLosses(*(float(value) for value in losses))
            _check_finite(step, losses)
            if is_chief:
                with _written_to(log_dir):
                    _report(step, losses, window, pace.left(step), config, writer)
            window = _Window()
        if checkpoint_due or evaluation_due:
            _check_state(step, state)
        # Before the checkpoint, so that a run resumed from it has all evaluations up to it.
        if evaluate and evaluation_due:
            with averages.in_network():
                score = evaluate(step)
            with _written_to(log_dir), writer.as_default(step=step):
                tf.summary.scalar("eval/mAP", score)
            # Ties go to the later step, as in `selection.keep_if_best`.
            if best is None or score >= best.score:
                best = selection.Best(step, score)
            window = _Window()
        if checkpoint_due and is_chief:
            checkpoints.save(checkpoint_dir, step, state, config.keep_checkpoints)
    with _written_to(log_dir):
        writer.close()
    averages.put_into_network()
    return losses


class _Pace:
    """Estimates the time left from all the time that the steps so far took."""

    def __init__(self, first_step: int, last_step: int) -> None:
        self._first, self._last = first_step, last_step
        self._started = time.perf_counter()

    def left(self, step: int) -> str:
        """The time left, as in `1:02:30`."""
        per_step = (time.perf_counter() - self._started) / (step - self._first)
        return str(timedelta(seconds=round(per_step * (self._last - step))))


class _Window:
    """Pictures and seconds since the last report."""

    def __init__(self) -> None:
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


def _check_finite(step: int, losses: StepLosses) -> None:
    if not math.isfinite(losses.total):
        raise FloatingPointError(
            f"the loss at step {step} is {losses.total}. Lower trainer.learning_rate or set "
            "trainer.clip_norm"
        )


def _check_state(step: int, state: Iterable[keras.Variable]) -> None:
    """Checks the weights, because the loss shows a bad update only in the next step."""
    for variable in state:
        if not np.isfinite(variable).all():
            raise FloatingPointError(
                f"{variable.path} is not finite after step {step}. Lower trainer.learning_rate or "
                "set trainer.clip_norm"
            )


@contextmanager
def _written_to(log_dir: Path) -> Iterator[None]:
    """Turns TensorFlow's error for logs that cannot be written into a DataError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise DataError(
            f"{log_dir}: TensorBoard's logs cannot be written ({reason_of(error.message)}). "
            "Free disk space and rerun: training resumes from the last checkpoint"
        ) from error


def _report(
    step: int,
    losses: StepLosses,
    window: _Window,
    left: str,
    config: ConfigInSteps,
    writer: tf.summary.SummaryWriter,
) -> None:
    images_per_second, waiting = window.rates()
    rate = float(LearningRate(config)(step - 1))
    _log.info(
        "  step=%d/%d loss=%.3f class=%.3f box=%.3f positives=%d lr=%.2g images/s=%.1f wait=%.0f%% "
        "left=%s",
        step,
        config.steps,
        losses.total,
        losses.classes,
        losses.boxes,
        losses.positives,
        rate,
        images_per_second,
        100 * waiting,
        left,
    )
    with writer.as_default(step=step):
        tf.summary.scalar("loss/total", losses.total)
        tf.summary.scalar("loss/class", losses.classes)
        tf.summary.scalar("loss/box", losses.boxes)
        tf.summary.scalar("learning_rate", rate)
        tf.summary.scalar("images_per_second", images_per_second)
        tf.summary.scalar("share_waiting_for_data", waiting)
