"""Short trainings on squares: bright ones of class 1, dark ones of class 2."""

import keras
import numpy as np
import tensorflow as tf

from tests.trainer.tiny import TINY
from trainer.anchors import SSD128, anchor_boxes
from trainer.backbones import small
from trainer.config import TrainerConfig
from trainer.detector import DetectorSpec, build_network
from trainer.training import train

CLASSES = 2
SMALL = DetectorSpec(small.feature_maps, SSD128)


def make_config(**fields):
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


def make_network(spec=TINY, seed=0, precision="float32"):
    keras.utils.set_random_seed(seed)
    return build_network(spec, CLASSES, precision)


def squares(n, size):
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


def batches_from(first_step, context=None, batch=4, size=32, objects=True):
    images, boxes, labels = squares(16, size)
    if not objects:
        boxes, labels = boxes[:, :0], labels[:, :0]
    dataset = tf.data.Dataset.from_tensor_slices((images, boxes, labels))
    return dataset.batch(batch).repeat().skip(first_step)


def train_tiny(folder, config, make_batches=batches_from, network=None, spec=TINY):
    network = network or make_network(spec)
    anchors = anchor_boxes(spec.anchors)
    losses = train(network, anchors, make_batches, config, folder / "ckpt", folder / "logs")
    return network, losses


def read_scalars(folder, tag):
    """A tag's values by step, from TensorBoard's event files."""
    values = {}
    for path in sorted(folder.glob("logs/events*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == tag:
                    values[event.step] = float(tf.make_ndarray(value.tensor))
    return values
