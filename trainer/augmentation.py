"""SSD's training augmentation, geometry first (paper, section 2.2, and its Caffe release).

`draw_geometry` decides expansion, patch and flip on numbers alone; the caller then samples the one
resulting window of the picture, and `distort_colours` works on that small result. Colour acts on
each pixel by itself, so the order does not change the outcome. All draws are stateless: the same
seed gives the same picture wherever and whenever it is made.
"""

from dataclasses import dataclass

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
    seeds = tf.random.experimental.stateless_split(seed, 3)
    canvas = _draw_canvas(seeds[0], recipe)
    window = canvas
    if recipe.patch_scale:
        on_canvas = _relative_to(boxes, canvas)
        patch = _draw_patch(on_canvas, real, seeds[1], recipe)
        origin, extent = canvas[:2], canvas[2:] - canvas[:2]
        window = tf.concat([origin + patch[:2] * extent, origin + patch[2:] * extent], axis=0)
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
    seeds = tf.random.experimental.stateless_split(seed, 2)
    samplers = len(PATCH_IOUS)
    draws = tf.random.stateless_uniform([4, samplers, PATCH_TRIES], seeds[0])
    low, high = recipe.patch_scale
    scale = low + draws[0] * (high - low)
    # The aspect is bounded so that the patch fits into the canvas.
    low = tf.maximum(PATCH_ASPECT[0], scale**2)
    high = tf.minimum(PATCH_ASPECT[1], 1.0 / scale**2)
    root_aspect = tf.sqrt(low + draws[1] * (high - low))
    extent = tf.stack([scale / root_aspect, scale * root_aspect], axis=-1)
    origin = tf.stack([draws[2], draws[3]], axis=-1) * (1.0 - extent)
    patches = tf.concat([origin, origin + extent], axis=-1)

    accepted = _accepts(patches, boxes, real, recipe)
    first = tf.argmax(tf.cast(accepted, tf.int32), axis=1)
    patches = tf.gather(patches, first, batch_dims=1)
    succeeded = tf.concat([tf.reduce_any(accepted, axis=1), [True]], axis=0)
    patches = tf.concat([patches, [[0.0, 0.0, 1.0, 1.0]]], axis=0)
    patches = tf.boolean_mask(patches, succeeded)
    chosen = tf.random.stateless_uniform(
        [], seeds[1], minval=0, maxval=tf.shape(patches)[0], dtype=tf.int32
    )
    return patches[chosen]


def _accepts(patches, boxes, real, recipe: Recipe):
    """bool [samplers, tries]: whether the kept boxes have the sampler's IoU with the patch.

    A box is kept when its centre lies in the patch. A picture without objects takes any patch,
    but only from the sampler that asks for no IoU.
    """
    spread = patches[:, :, None, :]
    overlap = tf.minimum(spread[..., 2:], boxes[:, 2:]) - tf.maximum(spread[..., :2], boxes[:, :2])
    overlap = tf.reduce_prod(tf.maximum(overlap, 0.0), axis=-1)
    union = _areas(spread) + _areas(boxes) - overlap
    ious = overlap / tf.maximum(union, 1e-12)
    kept = centres_inside(boxes, spread) & real
    least = tf.constant(PATCH_IOUS)[:, None]
    if recipe.every_kept_box:
        worst = tf.reduce_min(tf.where(kept, ious, 1.0), axis=-1)
        good = tf.reduce_any(kept, axis=-1) & (worst >= least)
    else:
        good = tf.reduce_max(tf.where(kept, ious, -1.0), axis=-1) >= least
    empty = ~tf.reduce_any(real)
    return good | (empty & (least == 0.0))


def centres_inside(boxes, windows):
    """Whether the centres of boxes [..., 4] lie in windows [..., 4] (broadcast against boxes)."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2.0
    return tf.reduce_all((centre > windows[..., :2]) & (centre < windows[..., 2:]), axis=-1)


def _areas(boxes):
    return tf.reduce_prod(tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1)


def _relative_to(boxes, window):
    extent = tf.tile(window[2:] - window[:2], [2])
    return (boxes - tf.tile(window[:2], [2])) / extent


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
    seeds = tf.random.experimental.stateless_split(seed, 2)
    happens = tf.random.stateless_uniform([4], seeds[0]) < recipe.colour_probability
    draws = tf.random.stateless_uniform([5], seeds[1])

    def between(bounds, draw):
        return bounds[0] + draw * (bounds[1] - bounds[0])

    def sometimes(condition, change, pixels):
        # Not computed where it does not happen, which is as often as not.
        return tf.cond(condition, lambda: _clip(change(pixels)), lambda: pixels)

    def stretch(pixels):
        return pixels * between(recipe.contrast, draws[1])

    def saturate(pixels):
        scale = between(recipe.saturation, draws[2])
        return tf.raw_ops.AdjustSaturation(images=pixels, scale=scale)

    def turn(pixels):
        degrees = between((-recipe.hue_degrees, recipe.hue_degrees), draws[3])
        return tf.raw_ops.AdjustHue(images=pixels, delta=degrees / 360.0)

    shift = between((-recipe.brightness, recipe.brightness), draws[0])
    contrast_first = draws[4] < 0.5
    pixels = sometimes(happens[0], lambda pixels: pixels + shift, pixels)
    if recipe.contrast:
        pixels = sometimes(happens[1] & contrast_first, stretch, pixels)
    pixels = sometimes(happens[2], saturate, pixels)
    pixels = sometimes(happens[3], turn, pixels)
    if recipe.contrast:
        pixels = sometimes(happens[1] & ~contrast_first, stretch, pixels)
    return pixels


def _clip(pixels):
    return tf.clip_by_value(pixels, 0.0, 255.0)
