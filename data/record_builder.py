"""Builds the record of one picture."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

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
        header: of the picture, with its width and height.
        filename: of the picture.
        source_id: identifies the picture in the data set, such as VOC2007/000012.
        class_ids: name to id, 1..N.
    """
    objects = annotation.objects
    boxes = relative_boxes([item.box_px for item in objects], header.width, header.height)
    ymin, xmin, ymax, xmax = np.clip(boxes, 0.0, 1.0).T
    example = tf.train.Example()
    # Filled in place: building features first and copying them takes twice as long.
    feature = example.features.feature
    _put(feature[COMMON.encoded].bytes_list, [jpeg])
    _put(feature[COMMON.format].bytes_list, [b"jpeg"])
    _put(feature[COMMON.filename].bytes_list, [filename.encode()])
    _put(feature[COMMON.source_id].bytes_list, [source_id.encode()])
    _put(feature[COMMON.sha256].bytes_list, [hashlib.sha256(jpeg).hexdigest().encode()])
    _put(feature[COMMON.height].int64_list, [header.height])
    _put(feature[COMMON.width].int64_list, [header.width])
    _put(feature[COMMON.ymin].float_list, ymin)
    _put(feature[COMMON.xmin].float_list, xmin)
    _put(feature[COMMON.ymax].float_list, ymax)
    _put(feature[COMMON.xmax].float_list, xmax)
    _put(feature[COMMON.text].bytes_list, [item.name.encode() for item in objects])
    _put(feature[COMMON.label].int64_list, [class_ids[item.name] for item in objects])
    _put(feature[COMMON.difficult].int64_list, [int(item.difficult) for item in objects])
    _put(feature[COMMON.truncated].int64_list, [int(item.truncated) for item in objects])
    _put(feature[COMMON.occluded].int64_list, [int(item.occluded) for item in objects])
    if any(item.is_crowd is not None for item in objects):
        crowds = [int(bool(item.is_crowd)) for item in objects]
        _put(feature[COMMON.is_crowd].int64_list, crowds)
    return example


def _put(target: Any, values: Iterable[object]) -> None:
    """Fills a feature's list; an empty list is present, too."""
    target.SetInParent()
    target.value.extend(values)
