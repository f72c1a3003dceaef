"""Which devices a training runs on: one, several on this machine, or those of several machines."""

import contextlib
import json
import logging
import os
import re

import keras
import tensorflow as tf

from data.errors import DataError
from trainer.config import TrainerConfig

_log = logging.getLogger("ssd.trainer")

# The cluster's task types that train.
_TRAINING = ("chief", "worker")


def choose_strategy() -> tf.distribute.Strategy:
    """The strategy for the available devices; build and train the network in its scope.

    Several workers in the environment's `TF_CONFIG`: MultiWorkerMirroredStrategy over their
    devices, which waits for all of them. Several devices here (GPUs, or CPUs where there is no
    GPU): MirroredStrategy. One: TensorFlow's default. Call it before computing anything: TensorFlow
    connects the workers' devices when it starts.

    Raises:
        DataError: Keras runs on another backend, or `TF_CONFIG` cannot be read or describes no
            cluster this process can train in.
    """
    if (backend := keras.backend.backend()) != "tensorflow":
        raise DataError(
            f"KERAS_BACKEND: Keras runs on {backend}, but training needs TensorFlow. Unset it, or "
            'if it is not set, write "backend": "tensorflow" in ~/.keras/keras.json'
        )
    workers = cluster_size()
    if workers > 1:
        _log.info("  waiting for the other workers of TF_CONFIG: %d", workers - 1)
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def cluster_size() -> int:
    """How many workers the environment's `TF_CONFIG` names.

    Raises:
        DataError: `TF_CONFIG` cannot be read or describes no cluster to train in.
    """
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        return _count_workers(json.loads(text))
    except ValueError as error:
        raise DataError(
            f"TF_CONFIG: {error}, in {text}. Write "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": N}}'
        ) from error


def _count_workers(tf_config: object) -> int:
    """The number of workers; ValueError for what TensorFlow rejects or would wait on forever."""
    if not isinstance(tf_config, dict) or not isinstance(tf_config.get("cluster", {}), dict):
        raise ValueError("not a JSON object with an object `cluster`")
    cluster = tf_config.get("cluster", {})
    for kind, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise ValueError(f'cluster.{kind} is not a list of "host:port"')
    workers = sum(len(cluster.get(kind, ())) for kind in _TRAINING)
    if workers < 2:
        return workers  # It trains alone, whatever its task.
    # An evaluator is allowed: unlike a parameter server, nothing waits for it.
    if unknown := cluster.keys() - {*_TRAINING, "evaluator"}:
        raise ValueError(f"cluster.{min(unknown)} takes no part in this training")
    if len(cluster.get("chief", ())) > 1:
        raise ValueError("cluster.chief names more than one")
    task = tf_config.get("task")
    if not isinstance(task, dict):
        raise ValueError("`task` is not an object")
    kind, index = task.get("type"), task.get("index")
    if kind not in _TRAINING:
        raise ValueError(f"task.type is {json.dumps(kind)}, not chief or worker")
    number = len(cluster.get(kind, ()))
    # TensorFlow accepts quoted indices too.
    if not str(index).isdecimal() or int(str(index)) >= number:
        raise ValueError(
            f"task.index is {json.dumps(index)}, but cluster.{kind} has {number}, counted from 0"
        )
    return workers


def _is_address(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r".+:[0-9]+", value) is not None


def check_fit(config: TrainerConfig, strategy: tf.distribute.Strategy) -> None:
    """Raises DataError unless a training can be split over the strategy's devices."""
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        lower = config.batch_size // replicas * replicas
        near = f"{lower} or {lower + replicas}" if lower else f"{replicas}"
        raise DataError(
            f"trainer.batch_size: {config.batch_size} pictures cannot be split evenly over "
            f"{replicas} devices. Set it to a multiple, such as {near}, or hide devices with "
            "CUDA_VISIBLE_DEVICES"
        )
    if config.xla and replicas > 1:
        raise DataError(
            f"trainer.xla: works on one device, not on {replicas}. Set trainer.xla=false, or hide "
            "devices with CUDA_VISIBLE_DEVICES"
        )


def describe(strategy: tf.distribute.Strategy) -> str:
    """Number and kind of the devices, as in `2xGPU`."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return f"{strategy.num_replicas_in_sync}x{kind}"


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes checkpoints, logs and the model."""
    return strategy.extended.should_checkpoint


def synchronise_normalisation(network: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Normalises over the whole batch, as on one device, rather than over each replica's part."""
    if strategy.num_replicas_in_sync == 1:
        return
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when all workers have called it: a worker that exits earlier counts as lost."""
    same_everywhere(strategy, 0)


def same_everywhere(strategy: tf.distribute.Strategy, value: int) -> bool:
    """Whether all workers have the same integer. All must call it."""
    same = len(set(_of_all(strategy, value))) == 1
    if not same:
        # The caller will end this worker. Others that are still receiving would then fail instead
        # of finding the difference, so wait until all have asked again.
        with contextlib.suppress(tf.errors.OpError):
            _of_all(strategy, value)
    return same


def largest(strategy: tf.distribute.Strategy, value: int) -> int:
    """The largest of the workers' integers. All must call it."""
    return max(_of_all(strategy, value))


def _of_all(strategy: tf.distribute.Strategy, value: int) -> list[int]:
    if strategy.num_replicas_in_sync == 1:
        return [value]
    values = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant([value], tf.int64)
    )
    return strategy.gather(values, axis=0).numpy().tolist()
