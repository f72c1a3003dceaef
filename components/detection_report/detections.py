"""What a model finds in the pictures of a split, beside what is there."""

import itertools
from collections.abc import Collection, Iterator

import tensorflow as tf

from data import fields
from data.record_folder import read_records
from data.saved_model import EXAMPLES_SIGNATURE
from metrics.accumulator import DetectionAccumulator
from metrics.picture_reader import as_columns, read_detections, read_ground_truth

_BATCH = 64


def detect_split(model: str, shards: list[str], class_names: list[str]) -> DetectionAccumulator:
    """Runs a SavedModel over the records of a split, as the Evaluator does.

    Pictures are in the order of the records; boxes are in pixels.

    Raises:
        DataError: a record or an answer is not what the metric can read.
    """
    loaded = tf.saved_model.load(model)
    detect = loaded.signatures[EXAMPLES_SIGNATURE]
    accumulator = DetectionAccumulator(class_names)
    for batch in read_records(shards).batch(_BATCH).prefetch(1):
        answers = {name: values.numpy() for name, values in detect(examples=batch).items()}
        for row, serialised in enumerate(batch.numpy()):
            features = read_features(serialised)
            truth = read_ground_truth(features, fields.detect(features))
            answer = {name: values[row] for name, values in answers.items()}
            found = read_detections(answer, truth)
            accumulator.add_columns(as_columns(accumulator, truth, found))
    return accumulator


def encoded_pictures(shards: list[str], wanted: Collection[int]) -> dict[int, bytes]:
    """The encoded pictures with these numbers in the order of the records."""
    last = max(wanted, default=-1)
    records: Iterator[bytes] = read_records(shards).as_numpy_iterator()
    found = {}
    for number, serialised in enumerate(itertools.islice(records, last + 1)):
        if number in wanted:
            features = read_features(serialised)
            (found[number],) = features[fields.detect(features).encoded]
    return found


def read_features(serialised: bytes) -> dict[str, list]:
    """The values of a `tf.Example` by feature name."""
    found = {}
    for name, feature in tf.train.Example.FromString(serialised).features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found
