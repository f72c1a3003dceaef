"""Turning any window of a picture into the network's input: the one resampling of the project.

Training, evaluation and serving all call `sample_window`, so a model sees the same pixels in each.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.backbones import MEAN_RGB

WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)
# Colour values are never negative, so this marks what lies outside the picture.
_OUTSIDE = -1.0


def sample_window(image, window, size: int, flip=False, change: Callable | None = None):
    """Warps a window of a picture to a square, bilinearly; what is outside gets the mean colour.

    Pixel centres lie at half integers, as in `tf.image.resize`, whose result for the whole
    picture this equals.

    Args:
      image: uint8 [height, width, 3], RGB.
      window: float32 [4], `ymin, xmin, ymax, xmax` relative to the picture; may exceed it.
      size: side of the result in pixels.
      flip: whether to mirror left and right, bool or scalar bool tensor.
      change: what to do to the sampled pixels before the mean colour is filled in.

    Returns:
      float32 [size, size, 3] in 0-255.
    """
    # One replicated pixel around the picture: samples in its outer half pixel find a value.
    # (`tf.pad` does this too, at ten times the cost.)
    padded = tf.concat([image[:1], image, image[-1:]], axis=0)
    padded = tf.concat([padded[:, :1], padded, padded[:, -1:]], axis=1)
    extent = tf.cast(tf.shape(image)[:2], tf.float32)
    low, high = window[:2] * extent, window[2:] * extent
    half_sample = (high - low) / (2.0 * size)
    # Index of the first and the last sample in the padded picture (pixel 0 has its centre at 0.5).
    first, last = low + half_sample + 0.5, high - half_sample + 0.5
    box = tf.concat([first, last], axis=0) / tf.tile(extent + 1.0, [2])
    mirrored = tf.gather(box, [0, 3, 2, 1])
    box = tf.where(flip, mirrored, box)
    pixels = tf.image.crop_and_resize(
        padded[None], box[None], [0], [size, size], extrapolation_value=_OUTSIDE
    )[0]
    changed = change(pixels) if change else pixels

    def filled():
        mean = tf.constant(np.broadcast_to(np.float32(MEAN_RGB), (size, size, 3)))
        return tf.where(pixels >= 0.0, changed, mean)

    beyond = tf.reduce_any(window[:2] < 0.0) | tf.reduce_any(window[2:] > 1.0)
    return tf.cond(beyond, filled, lambda: changed)


def decode_window(encoded, window):
    """Decodes only the part of a JPEG that a window needs.

    Args:
      encoded: string scalar, a JPEG.
      window: float32 [4], relative; may exceed the picture.

    Returns:
      (part, window in part): uint8 [h, w, 3] and the same window relative to the part.
    """
    extent = tf.image.extract_jpeg_shape(encoded)[:2]
    extent_px = tf.cast(extent, tf.float32)
    # One pixel more on each side: the bilinear neighbours of the window's border.
    low = tf.cast(tf.floor(window[:2] * extent_px), tf.int32) - 1
    high = tf.cast(tf.math.ceil(window[2:] * extent_px), tf.int32) + 1
    low = tf.clip_by_value(low, 0, extent - 1)
    high = tf.clip_by_value(high, low + 1, extent)
    part = tf.io.decode_and_crop_jpeg(encoded, tf.concat([low, high - low], axis=0), channels=3)
    offset = tf.tile(tf.cast(low, tf.float32), [2])
    part_px = tf.tile(tf.cast(high - low, tf.float32), [2])
    return part, (window * tf.tile(extent_px, [2]) - offset) / part_px
