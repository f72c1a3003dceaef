"""From TFRecord shards to batches of network inputs, in an order that a seed fixes.

Every picture's augmentation is drawn from (seed, epoch, record), so neither the number of parallel
calls nor a resumed run changes what the network sees.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from data import fields
from data.errors import DataError
from trainer import augmentation, sampling
from trainer.config import TrainerConfig
from trainer.preprocessing import BOX_SIDES, CROWD, DIFFICULT, ENCODED, LABEL, RECORD_ID

# Records parsed at a time: the transform graph costs as much for 64 as for one.
_PARSE_BATCH = 64
# Shards read in turn.
_OPEN_SHARDS = 8


def list_shards(patterns: Sequence[str]) -> list[str]:
    """Sorted shard paths of a split.

    Raises:
        DataError: there are none.
    """
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    if not files:
        raise DataError(
            f"no TFRecord shards match {', '.join(patterns)}. Convert the data again with "
            "`python -m data.convert` and see that each split has pictures"
        )
    return files


def read_shards(files) -> tf.data.Dataset:
    """Serialised records of GZIP shards."""
    return tf.data.TFRecordDataset(files, compression_type="GZIP")


def count_records(files: Sequence[str]) -> tuple[int, str]:
    """Number of records in the shards and a fingerprint of them, whatever their order.

    Raises:
        DataError: there are none, or a shard is not a whole TFRecord file.
    """

    def add(state, batch):
        prints = tf.bitcast(tf.fingerprint(batch[:, None]), tf.uint64)
        return state[0] + tf.size(batch), state[1] + tf.reduce_sum(prints)

    start = (tf.constant(0), tf.constant(0, tf.uint64))
    try:
        count, fingerprint = read_shards(files).batch(_PARSE_BATCH).reduce(start, add)
    except tf.errors.OpError as error:
        folder = Path(files[0]).parent
        raise DataError(
            f"{folder}: a shard cannot be read ({error.message}). Convert the data again"
        ) from error
    if not count:
        raise DataError(f"{Path(files[0]).parent}: the split has no records")
    return int(count), f"{int(fingerprint):016x}"


class TransformedRecords:
    """Reads serialised records through the transform graph of a Transform component."""

    def __init__(self, tf_transform_output):
        feature_spec = tf_transform_output.raw_feature_spec()
        names = fields.detect(feature_spec)
        self.feature_spec = {
            name: spec if name == names.encoded else _optional(spec)
            for name, spec in feature_spec.items()
        }
        self.graph = tf.saved_model.load(tf_transform_output.transform_savedmodel_dir)

    def __call__(self, serialised):
        """Strings [batch] -> the outputs of `preprocessing.preprocessing_fn`, boxes padded.

        Returns:
          dict of `encoded` and `record_id`, strings [batch]; `boxes` float32 [batch, n, 4];
          `labels` int32 [batch, n], 0 in padded rows; `difficult` and `is_crowd` bool [batch, n].
        """
        raw = tf.io.parse_example(serialised, self.feature_spec)
        values = self.graph.transform_fn(raw)
        sides = [values[side].to_tensor() for side in BOX_SIDES]
        return {
            ENCODED: values[ENCODED],
            RECORD_ID: values[RECORD_ID],
            "boxes": tf.stack(sides, axis=-1),
            "labels": tf.cast(values[LABEL].to_tensor(), tf.int32),
            DIFFICULT: values[DIFFICULT].to_tensor() > 0,
            CROWD: values[CROWD].to_tensor() > 0,
        }


def _optional(spec):
    """A record to predict on need not carry what only training reads."""
    if isinstance(spec, tf.io.FixedLenFeature):
        default = np.full(spec.shape, "" if spec.dtype == tf.string else 0)
        return tf.io.FixedLenFeature(spec.shape, spec.dtype, default_value=default)
    return spec


def training_batches(
    files: Sequence[str],
    records: TransformedRecords,
    config: TrainerConfig,
    size: int,
    num_records: int,
    first_step: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Endless batches of (images, boxes, labels) from step `first_step` on.

    images float32 [batch, size, size, 3], RGB 0-255; boxes float32 [batch, n, 4] and labels int32
    [batch, n], padded with zeros. Epochs follow each other without a gap, each in an order of its
    own; a run started at a later step continues the same sequence.

    `context` says for which replicas of how many the batches are. Each replica then has its part of
    every whole batch, and a worker's dataset gives the parts of its replicas in turn; what belongs
    to other workers is read, but neither decoded nor augmented.
    """
    context = context or tf.distribute.InputContext()
    part = context.get_per_replica_batch_size(config.batch_size)
    first_epoch, skip = divmod(first_step * config.batch_size, num_records)

    def epoch_records(epoch):
        seed = tf.stack([tf.constant(config.seed, tf.int64), epoch])
        shards = tf.random.experimental.stateless_shuffle(tf.constant(list(files)), seed)
        in_turn = tf.data.Dataset.from_tensor_slices(shards).interleave(
            read_shards, cycle_length=min(_OPEN_SHARDS, len(files))
        )
        blocks = in_turn.batch(config.shuffle_buffer).prefetch(1)

        # Whole blocks instead of Dataset.shuffle, which cannot take a seed that depends on the
        # epoch and so could not start at any epoch but the first.
        def shuffled(index, block):
            block_seed = tf.random.experimental.stateless_fold_in(seed, index + 1)
            block = tf.random.experimental.stateless_shuffle(block, block_seed)
            return tf.data.Dataset.from_tensor_slices(block)

        return blocks.enumerate().flat_map(shuffled).map(lambda record: (record, epoch))

    def parse(serialised, epoch):
        return {**records(serialised), "epoch": epoch}

    def augment(record):
        return augmented_example(record, config, size)

    batches = (
        tf.data.Dataset.range(first_epoch, 2**31)
        .flat_map(epoch_records)
        .skip(skip)
        .apply(partial(_of_this_worker, batch_size=config.batch_size, context=context))
        .batch(_PARSE_BATCH)
        .map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        .unbatch()
        .map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .ragged_batch(part, drop_remainder=True)
        .map(_padded)
    )
    return (batches.map(_few_shapes) if config.xla else batches).prefetch(2)


def _padded(images, boxes, labels):
    """Ragged boxes and labels with zeros; `padded_batch` would first fill the images with them."""
    return images, boxes.to_tensor(shape=[None, None, 4]), labels.to_tensor()


def _few_shapes(images, boxes, labels):
    """A batch with boxes padded to a multiple of 8: XLA compiles the step for each shape anew."""
    missing = -tf.shape(labels)[1] % 8
    boxes = tf.pad(boxes, [[0, 0], [0, missing], [0, 0]])
    return images, boxes, tf.pad(labels, [[0, 0], [0, missing]])


def _of_this_worker(records, batch_size: int, context) -> tf.data.Dataset:
    """Of every whole batch the records for the replicas of one worker."""
    workers = context.num_input_pipelines
    if workers == 1:
        return records
    share = batch_size // workers

    def ours(index, _):
        return index % batch_size // share == context.input_pipeline_id

    return records.enumerate().filter(ours).map(lambda _, record: record)


def augmented_example(record, config: TrainerConfig, size: int):
    """One training example (image, boxes, labels) of one transformed record with its epoch.

    A crowd is not learned as an object, however difficult ones are used: its box says where many
    are, not where one is. Anchors there are background.
    """
    recipe = augmentation.RECIPES[config.augmentation]
    real = (record["labels"] > 0) & ~record[CROWD]
    if not config.use_difficult:
        real &= ~record[DIFFICULT]
    boxes, labels = _rows(real, record["boxes"], record["labels"])
    if recipe is None:
        window, flip, change = tf.constant([0.0, 0.0, 1.0, 1.0]), tf.constant(False), None
    else:
        geometry_seed, colour_seed = tf.unstack(_record_seeds(record, config.seed))
        every = tf.ones_like(labels, tf.bool)
        window, flip = augmentation.draw_geometry(boxes, every, geometry_seed, recipe)
        change = partial(augmentation.distort_colours, seed=colour_seed, recipe=recipe)
    extent = tf.image.extract_jpeg_shape(record[ENCODED])[:2]
    placement = sampling.place(window, extent, size)
    part = sampling.decode_part(record[ENCODED], placement.source, extent)
    image = sampling.fill(part, placement.target, size, flip, change)
    window = placement.window
    boxes, labels = _rows(augmentation.centres_inside(boxes, window), boxes, labels)
    return image, augmentation.boxes_in_window(boxes, window, flip), labels


def _rows(which, *tensors):
    """Rows of tensors where `which`, bool [rows], holds; a fifth of `tf.boolean_mask`'s steps."""
    numbers = tf.reshape(tf.where(which), [-1])
    return [tf.gather(tensor, numbers) for tensor in tensors]


def _record_seeds(record, seed: int):
    """Two seeds [2, 2] from (seed, epoch, record)."""
    record_hash = tf.strings.to_hash_bucket_fast(record[RECORD_ID], 2**31 - 1)
    base = tf.stack([tf.constant(seed, tf.int64), record["epoch"]])
    folded = tf.random.experimental.stateless_fold_in(base, record_hash)
    return tf.random.experimental.stateless_split(folded, 2)
