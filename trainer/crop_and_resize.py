"""Crops and resizes a picture, or a window of it, to the network's input size.

All resampling is here: training, evaluation and serving all call `resize`, so that a model sees the
same pixels in each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.backbones import MEAN_RGB


def resize(image: tf.Tensor, extent: tf.Tensor | Sequence[int]) -> tf.Tensor:
    """Resizes a picture bilinearly with half-pixel centres, like `tf.image.resize`.

    Args:
      image: uint8 or float32 [height, width, 3], RGB in 0-255.
      extent: height and width of the result.

    Returns:
      float32 [*extent, 3] in 0-255.
    """
    # From uint8, the operator gives the same numbers without a float copy of the whole picture.
    resized = tf.raw_ops.ResizeBilinear(images=image[None], size=extent, half_pixel_centers=True)
    # Unlike `resized[0]`, no copy.
    return tf.squeeze(resized, axis=0)


class Placement(NamedTuple):
    """Which pixels of each picture to decode, and where they go in the square result.

    Computed for a whole batch, because small operations cost the same for many pictures as for one.
    `decode_part` and `fill` take the placement of one picture.

    Attributes:
      decoded: int32 [batch, 4], the part of the JPEG to decode: top, left, height, width.
      first, shown: int32 [batch, 3], where the shown pixels begin in the decoded part, and how many
        there are, as arguments of `tf.slice`.
      resized: int32 [batch, 2], height and width they are resized to.
      grows: bool [batch], whether that enlarges them.
      filled: int32 [batch, 3], how many resized pixels the result takes, as an argument of
        `tf.slice`: all, or none where no pixel of the result is covered.
      margins: int32 [batch, 4, 3], shapes of the margins above, left, right and below them.
      covers: bool [batch], whether all margins are empty.
      flip: bool [batch], whether they are mirrored left to right.
      window: float32 [batch, 4], what the result shows before mirroring, relative to the picture.
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
    """Snaps windows so that whole pixels of the picture fill whole pixels of the result.

    The visible part is then a plain resize of a part of the picture, by far the fastest way to
    sample it. Like the paper's chain, which crops whole pixels, this moves edges by at most half a
    pixel of the picture, or further to show at least one whole pixel. Pixels of the result that the
    picture covers only in part count as outside.

    Args:
      window: float32 [batch, 4], `ymin, xmin, ymax, xmax` relative to the picture; may exceed it.
      flip: bool [batch], whether to mirror the result left to right.
      extent: int32 [batch, 2], height and width of the picture.
      size: side of the result in pixels.
    """
    extent_px = tf.cast(extent, tf.float32)
    low, high = (edge * extent_px for edge in tf.split(window, 2, axis=1))
    step = (high - low) / size
    # Keeps rounding errors from costing a window at the picture's edge a pixel.
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
    # One more pixel on each side, because border pixels are interpolated from both sides. Starting
    # at a JPEG block's left edge saves the decoder a copy.
    decoded_low = tf.maximum(source_low - 1, 0) // [1, 16] * [1, 16]
    decoded_high = tf.minimum(source_high + 1, extent)
    shown, covered = source_high - source_low, last - first
    # Where no pixel of the result is covered, one is computed and not used.
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
      uint8 [height, width, 3], the same pixels as from decoding the whole picture.
    """
    pixels = tf.io.decode_and_crop_jpeg(encoded, placement.decoded, channels=3)
    return tf.ensure_shape(tf.slice(pixels, placement.first, placement.shown), [None, None, 3])


def fill(part: tf.Tensor, placement: Placement, size: int, change: Callable) -> tf.Tensor:
    """Resizes a part of a picture into its place in a square filled with the mean colour.

    Args:
      part: uint8 [height, width, 3], RGB.
      change: applied to each pixel of the part, float32 [..., 3] in 0-255, before or after
        resizing, whichever leaves fewer pixels.

    Returns:
      float32 [size, size, 3] in 0-255.
    """
    grows, resized = placement.grows, partial(resize, extent=placement.resized)
    # The part is small, and on floats the operator is twice as fast, including the cast.
    part = tf.cast(part, tf.float32)
    pixels = tf.cond(grows, lambda: part, lambda: resized(part))
    pixels = change(pixels)
    pixels = tf.cond(grows, lambda: resized(pixels), lambda: pixels)
    pixels = tf.cond(placement.flip, lambda: tf.reverse(pixels, [1]), lambda: pixels)

    # One flat row, whose start is copied as one block.
    around = tf.constant(np.tile(np.array(MEAN_RGB, np.float32), size * size))

    def framed() -> tf.Tensor:
        # `tf.concat` copies whole rows; `tf.pad` and `tf.where` go number by number.
        counts = tf.unstack(tf.reduce_prod(placement.margins, axis=1, keepdims=True))
        above, left, right, below = (
            tf.reshape(tf.slice(around, [0], count), shape)
            for count, shape in zip(counts, tf.unstack(placement.margins), strict=True)
        )
        rows = tf.concat([left, tf.slice(pixels, [0, 0, 0], placement.filled), right], axis=1)
        return tf.concat([above, rows, below], axis=0)

    filled = tf.cond(placement.covers, lambda: pixels, framed)
    return tf.ensure_shape(filled, [size, size, 3])
