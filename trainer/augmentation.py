"""SSD's training augmentation, geometry first (paper, section 2.2, and its Caffe release).

`draw_geometry` decides expansion, patch and flip on numbers alone; the caller then samples the one
resulting window of the picture, and `distort_colours` works on that small result. Colour acts on
each pixel by itself, so the order does not change the outcome. All draws are stateless: the same
seed gives the same picture wherever and whenever it is made.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Recipe:
    """How often and how strongly each augmentation acts; probabilities and factors."""

    patch_scale: tuple[float, float] | None = (0.3, 1.0)
    every_kept_box: bool = False
    expand_probability: float = 0.5
    expand_ratio: tuple[float, float] = (1.0, 4.0)
    flip_probability: float = 0.5
    colour_probability: float = 0.5
    brightness: float = 32.0
    contrast: tuple[float, float] | None = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue_degrees: float = 18.0


PAPER = Recipe()
RECIPES = {
    "none": None,
    "paper": PAPER,
    # HiKapok/SSD.TensorFlow: every kept box must reach the IoU, colour always, no hue or contrast.
    "seed": Recipe(
        every_kept_box=True,
        expand_ratio=(1.1, 4.0),
        colour_probability=1.0,
        contrast=None,
        hue_degrees=0.0,
    ),
    # For small networks and short runs: objects never shrink far below their real size.
    "light": Recipe(patch_scale=(0.6, 1.0), expand_probability=0.25, expand_ratio=(1.0, 1.3)),
}

# One sampler for each least IoU; 0 is the paper's "any patch". The whole picture always competes.
PATCH_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
PATCH_TRIES = 50
PATCH_ASPECT = (0.5, 2.0)


def draw_geometry(boxes, real, seed, recipe: Recipe):
    """Draws the window of the picture to show and whether to mirror it.

    Args:
      boxes: float32 [n, 4], corner boxes relative to the picture.
      real: bool [n], False for padded rows.
      seed: int32 [2].

    Returns:
      (window, flip): float32 [4], relative to the picture and possibly larger than it, and a bool
      scalar.
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
    window = canvas = _draw_canvas(seeds[0], recipe)
    if recipe.patch_scale:
        patch = _draw_patch(_relative_to(boxes, canvas), real, seeds[1], recipe)
        origin, extent = _origin_and_extent(canvas)
        window = origin + patch * extent
    flip = tf.random.stateless_uniform([], seeds[2]) < recipe.flip_probability
    return window, flip


def _draw_canvas(seed, recipe: Recipe):
    """The expanded canvas around the picture, relative to the picture."""
    chance, ratio, offset_y, offset_x = tf.unstack(tf.random.stateless_uniform([4], seed))
    low, high = recipe.expand_ratio
    ratio = tf.where(chance < recipe.expand_probability, low + ratio * (high - low), 1.0)
    origin = -tf.stack([offset_y, offset_x]) * (ratio - 1.0)
    return tf.concat([origin, origin + ratio], axis=0)


def _draw_patch(boxes, real, seed, recipe: Recipe):
    """One patch of a canvas, relative to it: each sampler's first success and the whole compete."""
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    patches = _draw_tries(seeds[0], recipe)
    accepted = _accepts(patches, boxes, real, recipe)
    succeeded = tf.concat([tf.reduce_any(accepted, axis=1), [True]], axis=0)
    order = tf.cumsum(tf.cast(succeeded, tf.int32))
    chosen = tf.random.stateless_uniform([], seeds[1], 0, tf.reduce_max(order), tf.int32)
    sampler = tf.argmax(order > chosen, output_type=tf.int32)

    def first_success():
        first = tf.argmax(accepted[sampler], output_type=tf.int32)
        return tf.stack(patches)[:, sampler, first]

    whole = tf.constant([0.0, 0.0, 1.0, 1.0])
    return tf.cond(sampler < len(PATCH_IOUS), first_success, lambda: whole)


def _draw_tries(seed, recipe: Recipe):
    """Patches of all samplers: `ymin, xmin, ymax, xmax`, each float32 [samplers, tries]."""
    draws = tf.unstack(tf.random.stateless_uniform([4, len(PATCH_IOUS), PATCH_TRIES], seed))
    low, high = recipe.patch_scale
    scale = low + draws[0] * (high - low)
    # The aspect is bounded so that the patch fits into the canvas.
    area = scale * scale
    low = tf.maximum(PATCH_ASPECT[0], area)
    high = tf.minimum(PATCH_ASPECT[1], 1.0 / area)
    root_aspect = tf.sqrt(low + draws[1] * (high - low))
    height, width = scale / root_aspect, scale * root_aspect
    ymin, xmin = draws[2] * (1.0 - height), draws[3] * (1.0 - width)
    return ymin, xmin, ymin + height, xmin + width


def _accepts(patches, boxes, real, recipe: Recipe):
    """bool [samplers, tries]: whether the kept boxes have the sampler's IoU with the patch.

    A box is kept when its centre lies in the patch. A picture without objects takes any patch,
    but only from the sampler that asks for no IoU.
    """
    # Sides apart and the tries last: few operations, each on one row after the other.
    top, left, bottom, right = patches
    ymin, xmin, ymax, xmax = tf.unstack(boxes[:, None, None, :], axis=-1)
    height = tf.nn.relu(tf.minimum(bottom, ymax) - tf.maximum(top, ymin))
    width = tf.nn.relu(tf.minimum(right, xmax) - tf.maximum(left, xmin))
    overlap = height * width
    union = (bottom - top) * (right - left) + (ymax - ymin) * (xmax - xmin) - overlap
    y, x = (ymin + ymax) / 2.0, (xmin + xmax) / 2.0
    kept = (y > top) & (y < bottom) & (x > left) & (x < right) & real[:, None, None]
    least = np.float32(PATCH_IOUS)[:, None]
    fits = overlap >= least * union
    good = tf.reduce_any(kept & fits, axis=0)
    if recipe.every_kept_box:
        good &= ~tf.reduce_any(kept & ~fits, axis=0)
    return good | (~tf.reduce_any(real) & (least == 0.0))


def centres_inside(boxes, window):
    """Whether the centres of boxes [..., 4] lie in a window [4]."""
    low, high = tf.split(boxes, 2, axis=-1)
    centre = (low + high) / 2.0
    low, high = tf.split(window, 2)
    return tf.reduce_all((centre > low) & (centre < high), axis=-1)


def _origin_and_extent(window):
    """A window's ymin, xmin and its height, width, each twice: two float32 [4]."""
    low, high = tf.split(window, 2)
    return tf.tile(low, [2]), tf.tile(high - low, [2])


def _relative_to(boxes, window):
    origin, extent = _origin_and_extent(window)
    return (boxes - origin) / extent


def boxes_in_window(boxes, window, flip):
    """Boxes [n, 4] of the picture as boxes of the shown window, clipped to it and mirrored."""
    boxes = tf.clip_by_value(_relative_to(boxes, window), 0.0, 1.0)
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
    mirrored = tf.stack([ymin, 1.0 - xmax, ymax, 1.0 - xmin], axis=-1)
    return tf.where(flip, mirrored, boxes)


def distort_colours(pixels, seed, recipe: Recipe):
    """Random brightness, contrast, saturation and hue of float32 [h, w, 3] in 0-255.

    Each happens with `colour_probability`; contrast comes before or after saturation and hue.
    Values are clipped after each, as 8-bit pictures would be.
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    happens = tf.random.stateless_uniform([4], seeds[0]) < recipe.colour_probability
    happens, draws = tf.unstack(happens), tf.unstack(tf.random.stateless_uniform([5], seeds[1]))

    def between(bounds, draw):
        return bounds[0] + draw * (bounds[1] - bounds[0])

    def sometimes(condition, change, pixels):
        # Not computed where it does not happen, which is as often as not.
        return tf.cond(condition, lambda: change(pixels), lambda: pixels)

    def brighten(pixels):
        shift = between((-recipe.brightness, recipe.brightness), draws[0])
        return tf.clip_by_value(pixels + shift, 0.0, 255.0)

    def stretch(pixels):
        return tf.minimum(pixels * between(recipe.contrast, draws[1]), 255.0)

    def saturate(pixels):
        return _saturate(pixels, between(recipe.saturation, draws[2]))

    def turn(pixels):
        degrees = between((-recipe.hue_degrees, recipe.hue_degrees), draws[3])
        turned = tf.raw_ops.AdjustHue(images=pixels, delta=degrees / 360.0)
        # Only rounding takes it there.
        return tf.minimum(turned, 255.0)

    contrast_first = draws[4] < 0.5
    pixels = sometimes(happens[0], brighten, pixels)
    if recipe.contrast:
        pixels = sometimes(happens[1] & contrast_first, stretch, pixels)
    pixels = sometimes(happens[2], saturate, pixels)
    pixels = sometimes(happens[3], turn, pixels)
    if recipe.contrast:
        pixels = sometimes(happens[1] & ~contrast_first, stretch, pixels)
    return pixels


def _saturate(pixels, scale):
    """HSV's saturation times a factor, at most 1; hue and value stay.

    Equals `tf.image.adjust_saturation`, which goes pixel by pixel: whole channels take half the
    time.
    """
    channels = tf.unstack(pixels, axis=-1)
    value = tf.maximum(tf.maximum(channels[0], channels[1]), channels[2])
    lowest = tf.minimum(tf.minimum(channels[0], channels[1]), channels[2])
    # How far channels lie below the value is in proportion to the saturation.
    scale = tf.minimum(scale, value / tf.maximum(value - lowest, 1e-6))
    channels = [value - (value - channel) * scale for channel in channels]
    # Only rounding makes them negative. `tf.stack` along the last axis takes ten times as long.
    return tf.transpose(tf.nn.relu(tf.stack(channels)), [1, 2, 0])
