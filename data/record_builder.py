"""Building the record of one picture."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from data.fields import COMMON
from data.jpeg import JpegHeader
from data.voc import Annotation, relative_boxes


def build_example(
    annotation: Annotation,
    jpeg: bytes,
    header: JpegHeader,
    *,
    filename: str,
    source_id: str,
    class_ids: Mapping[str, int],
) -> tf.train.Example:
    """Puts a checked annotation and its JPEG into a record with the common names.

    Args:
        annotation: without problems (`data.settled`).
        jpeg: the encoded picture.
        header: of the picture, which knows its width and height.
        filename: of the picture.
        source_id: identifies the picture in the data set, such as VOC2007/000012.
        class_ids: name to id, 1..N.
    """
    objects = annotation.objects
    boxes = relative_boxes([item.box_px for item in objects], header.width, header.height)
    ymin, xmin, ymax, xmax = np.clip(boxes, 0.0, 1.0).T
    features = {
        COMMON.encoded: _bytes([jpeg]),
        COMMON.format: _bytes([b"jpeg"]),
        COMMON.filename: _bytes([filename.encode()]),
        COMMON.source_id: _bytes([source_id.encode()]),
        COMMON.sha256: _bytes([hashlib.sha256(jpeg).hexdigest().encode()]),
        COMMON.height: _integers([header.height]),
        COMMON.width: _integers([header.width]),
        COMMON.ymin: _floats(ymin),
        COMMON.xmin: _floats(xmin),
        COMMON.ymax: _floats(ymax),
        COMMON.xmax: _floats(xmax),
        COMMON.text: _bytes([item.name.encode() for item in objects]),
        COMMON.label: _integers([class_ids[item.name] for item in objects]),
        COMMON.difficult: _integers([item.difficult for item in objects]),
        COMMON.truncated: _integers([item.truncated for item in objects]),
        COMMON.occluded: _integers([item.occluded for item in objects]),
    }
    if any(item.is_crowd is not None for item in objects):
        features[COMMON.is_crowd] = _integers([bool(item.is_crowd) for item in objects])
    return tf.train.Example(features=tf.train.Features(feature=features))


def _bytes(values: Iterable[bytes]) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _floats(values: Iterable[float]) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def _integers(values: Iterable[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(v) for v in values]))
