"""From TFRecord shards to batches of network inputs, in an order fixed by a seed.

Each picture's augmentation is drawn from (seed, epoch, record), so neither parallelism nor resuming
changes what the network sees.
"""

import ctypes
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from data import fields
from data.errors import DataError
from data.record_folder import read_records
from trainer import augmentation, crop_and_resize
from trainer.config import TrainerConfig
from trainer.preprocessing import BOX_SIDES, CROWD, DIFFICULT, ENCODED, LABEL, RECORD_ID
from trainer.recipes import RECIPES

if TYPE_CHECKING:
    import tensorflow_transform as tft

# Records parsed at a time: the transform graph costs as much for 64 as for one.
_PLAN_BATCH = 64
# Shards read in turn.
_OPEN_SHARDS = 8
_FeatureSpec: TypeAlias = tf.io.FixedLenFeature | tf.io.VarLenFeature | tf.io.RaggedFeature
# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def list_shards(patterns: Sequence[str]) -> list[str]:
    """Sorted shard paths of a split.

    Raises:
        DataError: there are none.
    """
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    if not files:
        raise DataError(
            f"no TFRecord shards match {', '.join(patterns)}. Convert the data again with "
            "`ssd convert` and check that each split has pictures"
        )
    return files


def count_records(files: Sequence[str]) -> tuple[int, str]:
    """Number of records in the shards and their fingerprint, independent of their order.

    Raises:
        DataError: there are none, or a shard is not a whole TFRecord file.
    """

    def add(state: tuple[tf.Tensor, tf.Tensor], batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        prints = tf.bitcast(tf.fingerprint(batch[:, None]), tf.uint64)
        return state[0] + tf.size(batch), state[1] + tf.reduce_sum(prints)

    start = (tf.constant(0), tf.constant(0, tf.uint64))
    try:
        count, fingerprint = read_records(files).batch(_PLAN_BATCH).reduce(start, add)
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

    def __init__(self, tf_transform_output: "tft.TFTransformOutput") -> None:
        feature_spec = tf_transform_output.raw_feature_spec()
        names = fields.detect(feature_spec)
        self.feature_spec = {
            name: spec if name == names.encoded else _optional(spec)
            for name, spec in feature_spec.items()
        }
        self.graph = tf.saved_model.load(tf_transform_output.transform_savedmodel_dir)

    def __call__(self, serialised: tf.Tensor) -> dict[str, tf.Tensor]:
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


def _optional(spec: _FeatureSpec) -> _FeatureSpec:
    """Lets records to predict on leave out what only training reads."""
    if isinstance(spec, tf.io.FixedLenFeature):
        default = np.full(spec.shape, "" if spec.dtype == tf.string else 0)
        return tf.io.FixedLenFeature(spec.shape, spec.dtype, default_value=default)
    return spec


def keep_freed_memory() -> None:
    """Makes glibc, if it is the C library, keep up to 1 GiB of the memory this process frees.

    glibc would return blocks of 32 MiB and more, such as a batch of 32 pictures, to the kernel at
    once. Clearing new pages for the next batch takes a sixth of the pipeline's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 2**28)
        mallopt(_M_TRIM_THRESHOLD, 2**30)


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
    [batch, n], padded with zeros. Epochs follow each other without a gap, each in its own order; a
    run started at a later step continues the same sequence.

    `context` says which replicas the batches are for. Each replica gets its part of every whole
    batch, and a worker's dataset yields the parts of its replicas in turn. Records for other
    workers are read, but neither decoded nor augmented.
    """
    keep_freed_memory()
    context = context or tf.distribute.InputContext()
    part = context.get_per_replica_batch_size(config.batch_size)
    first_epoch, skip = divmod(first_step * config.batch_size, num_records)

    def epoch_records(epoch: tf.Tensor) -> tf.data.Dataset:
        seed = tf.stack([tf.constant(config.seed, tf.int64), epoch])
        shards = tf.random.experimental.stateless_shuffle(tf.constant(list(files)), seed)
        in_turn = tf.data.Dataset.from_tensor_slices(shards).interleave(
            read_records, cycle_length=min(_OPEN_SHARDS, len(files))
        )
        # With a global seed of 0, TensorFlow needs the value of an operation's seed, which is
        # unknown until the epoch comes. Set here, it applies only to this function.
        tf.compat.v1.set_random_seed(1)
        shuffled = in_turn.shuffle(
            config.shuffle_buffer,
            tf.random.stateless_uniform([], seed, maxval=2**31 - 1, dtype=tf.int64),
            reshuffle_each_iteration=False,
        )
        return tf.data.Dataset.zip((shuffled, tf.data.Dataset.from_tensors(epoch).repeat()))

    def plan(serialised: tf.Tensor, epoch: tf.Tensor) -> ExamplePlan:
        planned = plan_examples(records(serialised), epoch, config, size)
        # One extra row: TensorFlow crashes when `unbatch` meets a tensor without elements.
        return planned._replace(
            boxes=tf.pad(planned.boxes, [[0, 0], [0, 1], [0, 0]]),
            labels=tf.pad(planned.labels, [[0, 0], [0, 1]]),
        )

    def make(planned: ExamplePlan) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return make_image(planned, size), planned.boxes, planned.labels

    batches = (
        tf.data.Dataset.range(first_epoch, 2**31)
        .flat_map(epoch_records)
        .skip(skip)
        .apply(partial(_of_this_worker, batch_size=config.batch_size, context=context))
        # Whole batches are planned together, so that their boxes have the same padding.
        .batch(-(-_PLAN_BATCH // part) * part)
        .map(plan, num_parallel_calls=tf.data.AUTOTUNE)
        .unbatch()
        .map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(part, drop_remainder=True)
        .map(_without_empty_rows)
    )
    return (batches.map(_few_shapes) if config.xla else batches).prefetch(2)


def _without_empty_rows(
    images: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cuts boxes and labels to as many rows as the picture with most objects needs."""
    rows = tf.reduce_max(tf.math.count_nonzero(labels, axis=1))
    return images, boxes[:, :rows], labels[:, :rows]


def _few_shapes(
    images: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Pads boxes to a multiple of 8, because XLA recompiles the step for every new shape."""
    missing = -tf.shape(labels)[1] % 8
    boxes = tf.pad(boxes, [[0, 0], [0, missing], [0, 0]])
    return images, boxes, tf.pad(labels, [[0, 0], [0, missing]])


def _of_this_worker(
    records: tf.data.Dataset, batch_size: int, context: tf.distribute.InputContext
) -> tf.data.Dataset:
    """The records of every whole batch that belong to one worker's replicas."""
    workers = context.num_input_pipelines
    if workers == 1:
        return records
    share = batch_size // workers

    def ours(index: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        return index % batch_size // share == context.input_pipeline_id

    return records.enumerate().filter(ours).map(lambda _, record: record)


class ExamplePlan(NamedTuple):
    """How each picture of a batch becomes a training example.

    `encoded`: JPEG, string [batch]. `placement`: which of its pixels are shown, and where.
    `colours`: float32 [batch, 5], for `augmentation.distort_colours`. `boxes` and `labels`: the
    example's, float32 [batch, n, 4] and int32 [batch, n], padded with zeros.
    """

    encoded: tf.Tensor
    placement: crop_and_resize.Placement
    colours: tf.Tensor
    boxes: tf.Tensor
    labels: tf.Tensor


def plan_examples(
    records: dict[str, tf.Tensor], epoch: tf.Tensor, config: TrainerConfig, size: int
) -> ExamplePlan:
    """Draws the augmentation of a batch of transformed records and transforms their objects.

    Does everything but the pixels for many pictures at once: it takes some 200 small operations.

    A crowd is never learned as an object, even where difficult ones are: its box says where many
    objects are, not where one is. Anchors there are background.

    Args:
      records: what TransformedRecords returns.
      epoch: int64 [batch].
    """
    recipe = RECIPES[config.augmentation]
    real = (records["labels"] > 0) & ~records[CROWD]
    if not config.use_difficult:
        real &= ~records[DIFFICULT]
    boxes, labels = (tf.ragged.boolean_mask(records[name], real) for name in ("boxes", "labels"))
    encoded = records[ENCODED]
    # By index: over the pictures themselves, `tf.map_fn` would first copy them all.
    extent = tf.map_fn(
        lambda number: tf.image.extract_jpeg_shape(encoded[number])[:2],
        tf.range(tf.size(encoded)),
        fn_output_signature=tf.TensorSpec([2], tf.int32),
    )
    drawn = augmentation.draw(boxes, _record_seeds(records[RECORD_ID], epoch, config.seed), recipe)
    placement = crop_and_resize.place(drawn.window, drawn.flip, extent, size)
    pictures = boxes.value_rowids()
    window, flip = (tf.gather(values, pictures) for values in (placement.window, drawn.flip))
    kept = boxes.with_flat_values(augmentation.centres_inside(boxes.flat_values, window))
    boxes = boxes.with_flat_values(augmentation.boxes_in_window(boxes.flat_values, window, flip))
    boxes, labels = (tf.ragged.boolean_mask(values, kept).to_tensor() for values in (boxes, labels))
    return ExamplePlan(encoded, placement, drawn.colours, boxes, labels)


def make_image(plan: ExamplePlan, size: int) -> tf.Tensor:
    """The planned picture of one record, float32 [size, size, 3] in 0-255."""
    part = crop_and_resize.decode_part(plan.encoded, plan.placement)
    change = partial(augmentation.distort_colours, colours=plan.colours)
    return crop_and_resize.fill(part, plan.placement, size, change)


def _record_seeds(record_id: tf.Tensor, epoch: tf.Tensor, seed: int) -> tf.Tensor:
    """int64 [batch, 2] from (seed, epoch, record)."""
    record = tf.strings.to_hash_bucket_fast(record_id, 2**31 - 1)
    return tf.stack(
        [tf.fill(tf.shape(epoch), tf.constant(seed, tf.int64)), epoch * 2**31 + record], axis=1
    )
