"""Building the record of one picture, and the checks it has to pass first."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from data.errors import did_you_mean
from data.fields import COMMON
from data.jpeg import JpegHeader, read_header
from data.voc import Annotation, relative_boxes


def find_problems(annotation: Annotation, header: JpegHeader, classes: Sequence[str]) -> list[str]:
    """Says what keeps an annotation from becoming a record; empty if nothing does.

    The boxes are for the data set's own rule, such as `find_voc_box_problems`.
    """
    problems = []
    width, height = header.width, header.height
    if (annotation.width, annotation.height) != (width, height):
        hint = (
            " The sides are swapped: the picture may carry an EXIF rotation that the annotation "
            "tool applied."
            if (annotation.height, annotation.width) == (width, height)
            else ""
        )
        problems.append(
            f"{annotation.source}: the size is {annotation.width} x {annotation.height}, but the "
            f"JPEG has {width} x {height} pixels.{hint} Correct the size, after a look at the boxes"
        )
    for number, item in enumerate(annotation.objects, start=1):
        if item.name not in classes:
            problems.append(
                f"{annotation.source}: object {number} ({item.name}): not one of the "
                f"{len(classes)} classes ({did_you_mean(item.name, classes)}). Correct it, or say "
                "which classes there are: --classes NAME... or --schema FILE"
            )
    return problems


def find_voc_box_problems(annotation: Annotation, header: JpegHeader) -> list[str]:
    """Says what is wrong with the boxes of a VOC file; empty if nothing is.

    A box may reach over the border by less than a pixel: the fractions in VOC2011 and later are
    the annotators' rounding.
    """
    return [
        problem
        for number, item in enumerate(annotation.objects, start=1)
        for problem in _box_problems(
            f"{annotation.source}: object {number} ({item.name})",
            item.box_px,
            header.width,
            header.height,
        )
    ]


def build_example(
    annotation: Annotation,
    jpeg: bytes,
    *,
    filename: str,
    source_id: str,
    class_ids: Mapping[str, int],
) -> tf.train.Example:
    """Puts a checked annotation and its untouched JPEG into a record with the common names.

    Args:
        annotation: without problems according to `find_problems`.
        jpeg: the file's bytes; width and height come from its header.
        filename: of the picture.
        source_id: identifies the picture in the data set, such as VOC2007/000012.
        class_ids: name to id, 1..N.

    Raises:
        DataError: the JPEG is unusable.
    """
    header = read_header(jpeg)
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


def _box_problems(
    where: str, box_px: tuple[float, float, float, float], width: int, height: int
) -> list[str]:
    xmin, ymin, xmax, ymax = box_px
    problems = [
        f"{where}: the box has no area: {low} {start:g} >= {high} {end:g}. Correct or remove it"
        for low, start, high, end in (("xmin", xmin, "xmax", xmax), ("ymin", ymin, "ymax", ymax))
        if start >= end
    ]
    if min(xmin, ymin) <= 0 or xmax >= width + 1 or ymax >= height + 1:
        problems.append(
            f"{where}: the box reaches out of the picture: xmin {xmin:g}, ymin {ymin:g}, "
            f"xmax {xmax:g}, ymax {ymax:g} in {width} x {height} pixels, which VOC counts from 1. "
            "Correct it"
        )
    return problems


def _bytes(values) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _floats(values) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def _integers(values) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(v) for v in values]))
