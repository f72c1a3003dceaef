"""Crops and resizes a picture or a window of it to the network's input: the only resampling here.

Training, evaluation and serving all call `resize`, so a model sees the same pixels in each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.backbones import MEAN_RGB


def resize(image: tf.Tensor, extent: tf.Tensor | Sequence[int]) -> tf.Tensor:
    """Warps a picture bilinearly, pixel centres at half integers, as `tf.image.resize` does.

    Args:
      image: uint8 or float32 [height, width, 3], RGB in 0-255.
      extent: height and width of the result.

    Returns:
      float32 [*extent, 3] in 0-255.
    """
    # From bytes, the operator gives the same numbers without a float copy of the whole picture.
    resized = tf.raw_ops.ResizeBilinear(images=image[None], size=extent, half_pixel_centers=True)
    # Unlike `resized[0]`, no copy.
    return tf.squeeze(resized, axis=0)


class Placement(NamedTuple):
    """Which pixels of pictures to decode, and where they come to lie in the square results.

    Worked out for a batch of pictures at a time, because small operations cost the same for many.
    `decode_part` and `fill` take the placement of one picture.

    Attributes:
      decoded: int32 [batch, 4], the part of a JPEG to decode: its top, left, height and width.
      first, shown: int32 [batch, 3], where in that the shown pixels begin and how many they are,
        as `tf.slice` takes them.
      resized: int32 [batch, 2], height and width that they are resized to.
      grows: bool [batch], whether that makes them more.
      filled: int32 [batch, 3], as `tf.slice` takes it, how many of those the result has: all, or
        none where no pixel of it is covered.
      margins: int32 [batch, 4, 3], shapes of what is above them in the result, left, right, below.
      covers: bool [batch], whether all of these are empty.
      flip: bool [batch], whether they are mirrored left and right.
      window: float32 [batch, 4], relative to the picture, what the result shows before mirroring.
    """

    decoded: tf.Tensor
    first: tf.Tensor
    shown: tf.Tensor
    resized: tf.Tensor
    grows: tf.Tensor
    filled: tf.Tensor
    margins: tf.Tensor
    covers: tf.Tensor
    flip: tf.Tensor
    window: tf.Tensor


def place(window: tf.Tensor, flip: tf.Tensor, extent: tf.Tensor, size: int) -> Placement:
    """Moves windows so that whole pixels of the picture fill whole pixels of the result.

    Only so is what is visible a plain resize of a part of the picture, by far the fastest sampling
    there is. As in the paper's chain, which crops whole pixels, edges move by at most half a pixel
    of the picture, further only to show a whole one. Pixels of the result that the picture covers
    in part count as outside it.

    Args:
      window: float32 [batch, 4], `ymin, xmin, ymax, xmax` relative to the picture; may exceed it.
      flip: bool [batch], whether to mirror the result left and right.
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
    window = tf.where(visible, tf.concat(moved, axis=1), window)

    edges = tf.cast(tf.concat([source_low, source_high, first, last], axis=1), tf.int32)
    source_low, source_high, first, last = tf.split(edges, 4, axis=1)
    # One pixel more on each side: the colours of a border pixel are interpolated from both sides.
    # From where a block of a JPEG begins on the left, the decoder needs no further copy.
    decoded_low = tf.maximum(source_low - 1, 0) // [1, 16] * [1, 16]
    decoded_high = tf.minimum(source_high + 1, extent)
    shown, covered = source_high - source_low, last - first
    # Where no pixel of the result is covered, one is made and not used.
    resized = tf.maximum(covered, 1)
    top, left = tf.unstack(first, axis=1)
    bottom, right = tf.unstack(size - last, axis=1)
    left, right = tf.where(flip, right, left), tf.where(flip, left, right)
    height, width = covered[:, 0], tf.fill(tf.shape(top), size)
    heights, widths = [top, height, height, bottom], [width, left, right, width]
    margins = tf.stack([tf.stack(heights, axis=1), tf.stack(widths, axis=1)], axis=2)
    return Placement(
        decoded=tf.concat([decoded_low, decoded_high - decoded_low], axis=1),
        first=tf.pad(source_low - decoded_low, [[0, 0], [0, 1]]),
        shown=tf.pad(shown, [[0, 0], [0, 1]], constant_values=3),
        resized=resized,
        grows=tf.reduce_prod(shown, axis=1) < tf.reduce_prod(resized, axis=1),
        filled=tf.pad(covered, [[0, 0], [0, 1]], constant_values=3),
        margins=tf.pad(margins, [[0, 0], [0, 0], [0, 1]], constant_values=3),
        covers=tf.reduce_all(tf.equal(covered, size), axis=1),
        flip=flip,
        window=window,
    )


def decode_part(encoded: tf.Tensor, placement: Placement) -> tf.Tensor:
    """Decodes only the part of a JPEG that is shown.

    Args:
      encoded: string scalar.

    Returns:
      uint8 [height, width, 3], the pixels that decoding all gives.
    """
    pixels = tf.io.decode_and_crop_jpeg(encoded, placement.decoded, channels=3)
    return tf.ensure_shape(tf.slice(pixels, placement.first, placement.shown), [None, None, 3])


def fill(part: tf.Tensor, placement: Placement, size: int, change: Callable) -> tf.Tensor:
    """Resizes a part of a picture into its place in a square; around it comes the mean colour.

    Args:
      part: uint8 [height, width, 3], RGB.
      change: what to do to each pixel of the part, float32 [..., 3] in 0-255, before or after the
        part is resized: whenever they are fewer.

    Returns:
      float32 [size, size, 3] in 0-255.
    """
    grows, resized = placement.grows, partial(resize, extent=placement.resized)
    # A part is small, and from floats the operator runs twice as fast, the cast included.
    part = tf.cast(part, tf.float32)
    pixels = tf.cond(grows, lambda: part, lambda: resized(part))
    pixels = change(pixels)
    pixels = tf.cond(grows, lambda: resized(pixels), lambda: pixels)
    pixels = tf.cond(placement.flip, lambda: tf.reverse(pixels, [1]), lambda: pixels)

    # As a row of numbers, the first of which are copied as one block.
    around = tf.constant(np.tile(np.array(MEAN_RGB, np.float32), size * size))

    def framed() -> tf.Tensor:
        # Joining copies whole rows; `tf.pad` and `tf.where` go from number to number.
        counts = tf.unstack(tf.reduce_prod(placement.margins, axis=1, keepdims=True))
        above, left, right, below = (
            tf.reshape(tf.slice(around, [0], count), shape)
            for count, shape in zip(counts, tf.unstack(placement.margins), strict=True)
        )
        rows = tf.concat([left, tf.slice(pixels, [0, 0, 0], placement.filled), right], axis=1)
        return tf.concat([above, rows, below], axis=0)

    filled = tf.cond(placement.covers, lambda: pixels, framed)
    return tf.ensure_shape(filled, [size, size, 3])
