"""What Transform does to a record: turns class names into ids and cleans up boxes.

The exported model contains the same graph, so it reads a `tf.Example` as training does.
Changes here re-run Transform: `pipeline` hashes this file.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import tensorflow as tf

from data import fields

Feature: TypeAlias = tf.Tensor | tf.SparseTensor | tf.RaggedTensor

# Names of the transform graph's outputs.
ENCODED = "encoded"
RECORD_ID = "record_id"
BOX_SIDES = ("ymin", "xmin", "ymax", "xmax")
LABEL = "label"
DIFFICULT = "difficult"
CROWD = "is_crowd"


def preprocessing_fn(
    inputs: Mapping[str, Feature], custom_config: dict
) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """TFX's entry point: the raw features of a batch of records -> the trainer's features.

    Args:
      inputs: raw features by name, the common names or SSD.TensorFlow's, dense or sparse.
      custom_config: `classes`, the names in the order of their ids 1..N.

    Returns:
      `encoded` and `record_id`, strings [batch]; the sides of the boxes, float32, clipped to the
      picture, and `label`, `difficult` and `is_crowd`, int64, all ragged [batch, objects]; without
      such fields in the records, nothing is difficult or a crowd. Drops boxes with no area and
      objects of other classes; the data gate has already stopped a run that has any.
    """
    # Small operations on strings and a few numbers: a GPU would only slow them down.
    with tf.device("/CPU:0"):
        return _transform(inputs, custom_config["classes"])


def _transform(
    inputs: Mapping[str, Feature], classes: Sequence[str]
) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    names = fields.detect(inputs)
    encoded = _scalar(inputs[names.encoded])
    text = _ragged(inputs[names.text])
    sides = {
        side: tf.clip_by_value(_ragged(inputs[getattr(names, side)]).flat_values, 0.0, 1.0)
        for side in BOX_SIDES
    }
    label = _class_ids(text.flat_values, classes)
    difficult, crowd = (
        _ragged(inputs[name]).flat_values if name and name in inputs else tf.zeros_like(label)
        for name in (names.difficult, names.is_crowd)
    )
    keep = (label > 0) & (sides["ymax"] > sides["ymin"]) & (sides["xmax"] > sides["xmin"])
    rows = tf.boolean_mask(text.value_rowids(), keep)

    def kept(values: tf.Tensor) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_value_rowids(
            tf.boolean_mask(values, keep), rows, nrows=tf.shape(encoded, out_type=tf.int64)[0]
        )

    outputs = {side: kept(values) for side, values in sides.items()}
    outputs[LABEL] = kept(label)
    outputs[DIFFICULT] = kept(difficult)
    outputs[CROWD] = kept(crowd)
    outputs[ENCODED] = encoded
    outputs[RECORD_ID] = _scalar(inputs[names.source_id or names.filename])
    return outputs


def _class_ids(text: tf.Tensor, classes: Sequence[str]) -> tf.Tensor:
    """int64 [n]: 1..N, or 0 for a name that is not in `classes`."""
    same = tf.equal(text[:, None], tf.constant(list(classes))[None])
    ids = tf.range(1, len(classes) + 1, dtype=tf.int64)
    return tf.reduce_max(tf.where(same, ids[None], tf.zeros_like(ids)[None]), axis=1)


def _ragged(feature: Feature) -> tf.RaggedTensor:
    """One value per object, however the schema makes TFT deliver it."""
    if isinstance(feature, tf.SparseTensor):
        return tf.RaggedTensor.from_sparse(feature)
    if isinstance(feature, tf.RaggedTensor):
        return feature
    return tf.RaggedTensor.from_tensor(feature)


def _scalar(feature: Feature) -> tf.Tensor:
    """One value per record: string [batch]."""
    return tf.reshape(_ragged(feature).flat_values, [-1])
