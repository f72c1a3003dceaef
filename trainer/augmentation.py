"""SSD's training augmentation, geometry first (paper, section 2.2, and its Caffe release).

`draw` decides expansion, patch and flip on numbers alone; the caller then samples the one resulting
window of the picture, and `distort_colours` works on that small result. Colour changes act on each
pixel separately, so this order gives the same result. All draws are stateless: the same seed
gives the same picture, wherever and whenever it is made.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.recipes import Recipe

# One sampler per minimum IoU; 0 is the paper's "any patch". The whole picture always competes.
PATCH_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
PATCH_TRIES = 50
PATCH_ASPECT = (0.5, 2.0)

_Sides = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]


class Draws(NamedTuple):
    """The random draws for each picture of a batch.

    `window` is float32 [batch, 4], relative to the picture and possibly larger than it; `flip` bool
    [batch]; `colours` float32 [batch, 5], what `distort_colours` takes.
    """

    window: tf.Tensor
    flip: tf.Tensor
    colours: tf.Tensor


def draw(boxes: tf.RaggedTensor, seeds: tf.Tensor, recipe: Recipe) -> Draws:
    """Draws each picture's window, whether to mirror it, and its colour changes.

    Works on whole batches: there are many small steps, and each costs the same for one picture as
    for many.

    Args:
      boxes: ragged float32 [batch, (objects), 4], corner boxes relative to the picture.
      seeds: int64 [batch, 2]; a picture's draws depend on its own seed alone.
    """
    patch_sizes = [1, 4 * len(PATCH_IOUS) * PATCH_TRIES] if recipe.patch_scale else []
    sizes = [4, 1, 9, *patch_sizes]
    canvas, flip, colours, *patch = tf.split(_uniforms(seeds, sum(sizes)), sizes, axis=1)
    window = canvas = _expand(canvas, recipe)
    if recipe.patch_scale:
        on_canvas = boxes.with_flat_values(
            _relative_to(boxes.flat_values, tf.gather(canvas, boxes.value_rowids()))
        )
        origin, extent = _origin_and_extent(canvas)
        choice, tries = patch
        patches = _place_tries(tries, recipe.patch_scale)
        window = origin + _choose_patch(on_canvas, choice, patches, recipe) * extent
    return Draws(window, flip[:, 0] < recipe.flip_probability, _colours(colours, recipe))


def _uniforms(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """float32 [batch, count] in [0, 1), one row per seed."""
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform([count], seed),
        seeds,
        fn_output_signature=tf.TensorSpec([count]),
    )


def _expand(draws: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """The canvas around each picture, relative to the picture, from draws [batch, 4]."""
    chance, ratio, offset = tf.split(draws, [1, 1, 2], axis=1)
    low, high = recipe.expand_ratio
    ratio = tf.where(chance < recipe.expand_probability, low + ratio * (high - low), 1.0)
    origin = -offset * (ratio - 1.0)
    return tf.concat([origin, origin + ratio], axis=1)


def _choose_patch(
    boxes: tf.RaggedTensor, choice: tf.Tensor, patches: _Sides, recipe: Recipe
) -> tf.Tensor:
    """Picks patches [batch, 4] at random from each sampler's first success and the whole canvas.

    Args:
      boxes: ragged float32 [batch, (objects), 4], relative to the canvas.
      choice: draws [batch, 1].
      patches: four sides [batch, samplers, tries].
    """
    accepted = _accepts(patches, boxes, recipe)
    succeeded = tf.pad(tf.reduce_any(accepted, axis=2), [[0, 0], [0, 1]], constant_values=True)
    order = tf.cumsum(tf.cast(succeeded, tf.int32), axis=1)
    chosen = tf.cast(choice * tf.cast(order[:, -1:], tf.float32), tf.int32)
    sampler = tf.argmax(order > chosen, axis=1)
    is_patch = sampler < len(PATCH_IOUS)
    sampler = tf.where(is_patch, sampler, 0)
    first = tf.argmax(tf.gather(accepted, sampler, batch_dims=1), axis=1)
    index = tf.stack([sampler, first], axis=1)
    patch = tf.stack([tf.gather_nd(side, index, batch_dims=1) for side in patches], axis=1)
    return tf.where(is_patch[:, None], patch, [0.0, 0.0, 1.0, 1.0])


def _place_tries(draws: tf.Tensor, scales: tuple[float, float]) -> _Sides:
    """Patches from draws [batch, 4 * samplers * tries]: four sides [batch, samplers, tries]."""
    draws = tf.unstack(tf.reshape(draws, [-1, 4, len(PATCH_IOUS), PATCH_TRIES]), axis=1)
    low, high = scales
    scale = low + draws[0] * (high - low)
    # The aspect is bounded so that the patch fits into the canvas.
    area = scale * scale
    low = tf.maximum(PATCH_ASPECT[0], area)
    high = tf.minimum(PATCH_ASPECT[1], 1.0 / area)
    root_aspect = tf.sqrt(low + draws[1] * (high - low))
    height, width = scale / root_aspect, scale * root_aspect
    ymin, xmin = draws[2] * (1.0 - height), draws[3] * (1.0 - width)
    return ymin, xmin, ymin + height, xmin + width


def _accepts(
    patches: _Sides,
    boxes: tf.RaggedTensor,
    recipe: Recipe,
) -> tf.Tensor:
    """bool [batch, samplers, tries]: whether the kept boxes have the sampler's IoU with the patch.

    A box is kept when its centre lies in the patch. A picture without objects takes any patch, but
    only from the sampler without a minimum IoU.
    """
    pictures = boxes.value_rowids()
    # Sides apart and tries last: few operations, each on contiguous rows.
    top, left, bottom, right = (tf.gather(side, pictures) for side in patches)
    ymin, xmin, ymax, xmax = tf.unstack(boxes.flat_values[:, None, None, :], axis=-1)
    height = tf.nn.relu(tf.minimum(bottom, ymax) - tf.maximum(top, ymin))
    width = tf.nn.relu(tf.minimum(right, xmax) - tf.maximum(left, xmin))
    overlap = height * width
    union = (bottom - top) * (right - left) + (ymax - ymin) * (xmax - xmin) - overlap
    y, x = (ymin + ymax) / 2.0, (xmin + xmax) / 2.0
    kept = (y > top) & (y < bottom) & (x > left) & (x < right)
    least = np.array(PATCH_IOUS, np.float32)[:, None]
    fits = overlap >= least * union

    def of_any_box(holds: tf.Tensor) -> tf.Tensor:
        holds = tf.cast(holds, tf.int32)
        return tf.math.unsorted_segment_max(holds, pictures, boxes.nrows()) > 0

    good = of_any_box(kept & fits)
    if recipe.every_kept_box:
        good &= ~of_any_box(kept & ~fits)
    empty = tf.equal(boxes.row_lengths(), 0)
    return good | (empty[:, None, None] & (least == 0.0))


def centres_inside(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Whether the centres of boxes [..., 4] lie in windows [..., 4]: bool [...]."""
    low, high = tf.split(boxes, 2, axis=-1)
    centre = (low + high) / 2.0
    low, high = tf.split(window, 2, axis=-1)
    return tf.reduce_all((centre > low) & (centre < high), axis=-1)


def _origin_and_extent(window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Windows' ymin, xmin and their height, width, each twice: two float32 [..., 4]."""
    low, high = tf.split(window, 2, axis=-1)
    extent = high - low
    return tf.concat([low, low], axis=-1), tf.concat([extent, extent], axis=-1)


def _relative_to(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    origin, extent = _origin_and_extent(window)
    return (boxes - origin) / extent


def boxes_in_window(boxes: tf.Tensor, window: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
    """Boxes of the picture as boxes of the shown window, clipped to it and mirrored.

    Args:
      boxes: float32 [n, 4].
      window: float32 [n, 4] or [4].
      flip: bool [n] or scalar.
    """
    boxes = tf.clip_by_value(_relative_to(boxes, window), 0.0, 1.0)
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
    return tf.stack(
        [ymin, tf.where(flip, 1.0 - xmax, xmin), ymax, tf.where(flip, 1.0 - xmin, xmax)], axis=-1
    )


# No change: brightness, contrast before the rest, saturation, hue, contrast after the rest.
_NEUTRAL = (0.0, 1.0, 1.0, 0.0, 1.0)


def _colours(draws: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """How much to change each picture's colours, from draws [batch, 9]; see `distort_colours`."""
    happens, amounts = tf.split(draws, [4, 5], axis=1)
    bright, contrast, saturate, turn = tf.unstack(happens < recipe.colour_probability, axis=1)
    amounts = tf.unstack(amounts, axis=1)
    first = amounts[4] < 0.5
    turn_share = recipe.hue_degrees / 360.0
    contrast_bounds = recipe.contrast or (1.0, 1.0)
    changes = (
        (bright, (-recipe.brightness, recipe.brightness), amounts[0]),
        (contrast & first, contrast_bounds, amounts[1]),
        (saturate, recipe.saturation, amounts[2]),
        (turn, (-turn_share, turn_share), amounts[3]),
        (contrast & ~first, contrast_bounds, amounts[1]),
    )
    return tf.stack(
        [
            tf.where(happens, low + amount * (high - low), neutral)
            for (happens, (low, high), amount), neutral in zip(changes, _NEUTRAL, strict=True)
        ],
        axis=1,
    )


def distort_colours(pixels: tf.Tensor, colours: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue of float32 [h, w, 3] in 0-255.

    Values are clipped after each change, as in 8-bit pictures, but not rounded.

    Args:
      colours: float32 [5]: a value added to the pixels; their contrast factor; a saturation factor;
        a hue shift, where 1 is a full turn; and a second contrast factor, because contrast comes
        either before or after saturation and hue.
    """
    changes = (
        _brighten,
        _contrast,
        _saturate,
        lambda pixels, turn: tf.raw_ops.AdjustHue(images=pixels, delta=turn),
        _contrast,
    )
    acts = tf.unstack(tf.not_equal(colours, _NEUTRAL))
    for change, happens, amount in zip(changes, acts, tf.unstack(colours), strict=True):
        # Skipped where it does not happen, which is about half the time.
        pixels = tf.cond(happens, partial(change, pixels, amount), partial(tf.identity, pixels))
    return pixels


def _brighten(pixels: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(pixels + shift, 0.0, 255.0)


def _contrast(pixels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return tf.minimum(pixels * factor, 255.0)


def _saturate(pixels: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Multiplies HSV's saturation, capped at 1; hue and value stay."""

    def fade() -> tf.Tensor:
        # A channel lies below the value in proportion to the saturation. Lowering the saturation
        # needs no cap, so this is faster than TensorFlow's operator.
        red, green, blue = tf.unstack(pixels, axis=-1)
        value = tf.maximum(tf.maximum(red, green), blue)
        return pixels * scale + tf.expand_dims(value * (1.0 - scale), -1)

    def strengthen() -> tf.Tensor:
        return tf.raw_ops.AdjustSaturation(images=pixels, scale=scale)

    return tf.cond(scale < 1.0, fade, strengthen)
