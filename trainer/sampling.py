"""Turning a picture or a window of it into the network's input: the project's one resampling.

Training, evaluation and serving all call `resize`, so a model sees the same pixels in each.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.backbones import MEAN_RGB


def resize(image, extent):
    """Warps a picture bilinearly, pixel centres at half integers, as `tf.image.resize` does.

    Args:
      image: uint8 [height, width, 3], RGB.
      extent: height and width of the result.

    Returns:
      float32 [*extent, 3] in 0-255.
    """
    # From float32 the operator runs twice as fast as from bytes, the cast included.
    pixels = tf.cast(image, tf.float32)[None]
    return tf.raw_ops.ResizeBilinear(images=pixels, size=extent, half_pixel_centers=True)[0]


class Placement(NamedTuple):
    """Which whole pixels of pictures appear at which whole pixels of the square results.

    `source` and `target` are int32 [batch, 4], `ymin, xmin, ymax, xmax` in pixels; `window` is the
    float32 [batch, 4] window, relative to the picture, that the two together show.
    """

    source: tf.Tensor
    target: tf.Tensor
    window: tf.Tensor


def place(window, extent, size: int) -> Placement:
    """Moves windows so that whole pixels of the picture fill whole pixels of the result.

    Only so is what is visible a plain resize of a part of the picture, by far the fastest sampling
    there is. As in the paper's chain, which crops whole pixels, edges move by at most half a pixel
    of the picture, further only to show a whole one. Pixels of the result that the picture covers
    in part count as outside it.

    Args:
      window: float32 [batch, 4], `ymin, xmin, ymax, xmax` relative to the picture; may exceed it.
      extent: int32 [batch, 2], height and width of the picture.
      size: side of the result in pixels.
    """
    extent_px = tf.cast(extent, tf.float32)
    low, high = (edge * extent_px for edge in tf.split(window, 2, axis=1))
    step = (high - low) / size
    # Rounding errors must not cost a window at the picture's edge a pixel.
    first = tf.clip_by_value(tf.math.ceil(-low / step - 1e-3), 0.0, float(size))
    last = tf.clip_by_value(tf.floor((extent_px - low) / step + 1e-3), first, float(size))
    source_low = tf.clip_by_value(tf.round(low + first * step), 0.0, extent_px - 1.0)
    source_high = tf.clip_by_value(tf.round(low + last * step), source_low + 1.0, extent_px)
    moved_step = (source_high - source_low) / (last - first)
    moved_low = source_low - first * moved_step
    moved = [moved_low / extent_px, (moved_low + size * moved_step) / extent_px]
    visible = tf.reduce_all(last > first, axis=1, keepdims=True)
    edges = tf.cast(tf.concat([source_low, source_high, first, last], axis=1), tf.int32)
    return Placement(
        *tf.split(edges, 2, axis=1), tf.where(visible, tf.concat(moved, axis=1), window)
    )


def decode_part(encoded, part, extent):
    """Decodes only a part of a JPEG.

    Args:
      encoded: string scalar.
      part: int32 [4], `ymin, xmin, ymax, xmax` in pixels.
      extent: int32 [2], height and width of the whole.

    Returns:
      uint8 [height, width, 3], the pixels that decoding all gives.
    """
    # One pixel more on each side: the colours of a border pixel are interpolated from both sides.
    first, last = tf.split(part, 2)
    low, high = tf.maximum(first - 1, 0), tf.minimum(last + 1, extent)
    pixels = tf.io.decode_and_crop_jpeg(encoded, tf.concat([low, high - low], axis=0), channels=3)
    top, left = tf.unstack(first - low)
    height, width = tf.unstack(last - first)
    return tf.slice(pixels, [top, left, 0], [height, width, 3])


def fill(part, target, size: int, flip, change: Callable | None = None):
    """Resizes a part of a picture into its place in a square; around it comes the mean colour.

    Args:
      part: uint8 [height, width, 3], RGB.
      target: int32 [4], where it comes to lie, in pixels.
      flip: whether to mirror the square left and right, scalar bool tensor.
      change: what to do to the part's pixels once they are resized.

    Returns:
      float32 [size, size, 3] in 0-255.
    """
    top, left, bottom, right = tf.unstack(target)
    height, width = bottom - top, right - left
    # Where no pixel of the result is covered, one is made and not used.
    pixels = resize(part, [tf.maximum(height, 1), tf.maximum(width, 1)])
    # Mirrored along axis 1 or along none.
    pixels = tf.reverse(pixels, tf.range(1, 1 + tf.cast(flip, tf.int32)))
    if change:
        pixels = change(pixels)

    def framed():
        # Joining copies whole rows; `tf.pad` and `tf.where` go from number to number.
        mean = tf.constant(np.broadcast_to(np.float32(MEAN_RGB), (size, size, 3)))
        before = tf.where(flip, size - right, left)
        rows = [mean[:height, :before], pixels[:height, :width], mean[:height, before + width :]]
        return tf.concat([mean[:top], tf.concat(rows, axis=1), mean[bottom:]], axis=0)

    covered = tf.equal(height * width, size * size)
    return tf.ensure_shape(tf.cond(covered, lambda: pixels, framed), [size, size, 3])
