import colorsys
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from trainer import augmentation
from trainer.recipes import PAPER, RECIPES, Recipe

_WHOLE = np.array([0, 0, 1, 1], np.float32)
_BOXES = np.array([[0.2, 0.3, 0.8, 0.7], [0.1, 0.1, 0.3, 0.25]], np.float32)
_NO_BOXES = np.zeros((0, 4), np.float32)


def _seeds(n):
    return tf.stack([tf.range(n, dtype=tf.int64), tf.fill([n], tf.constant(5, tf.int64))], axis=1)


def _draws(recipe, boxes=_BOXES, n=300):
    """n draws for a picture with these boxes."""
    boxes = tf.RaggedTensor.from_uniform_row_length(np.tile(boxes, (n, 1)), len(boxes), n)
    drawn = tf.function(augmentation.draw)(boxes, _seeds(n), recipe)
    return augmentation.Draws(*(part.numpy() for part in drawn))


def _windows(*arguments, **named):
    return _draws(*arguments, **named).window


def _is_whole(windows):
    return (windows == _WHOLE).all(axis=-1)


def _kept_ious(window, boxes):
    """IoU with the window of the boxes whose centre is in it, by a plain loop."""
    ious = []
    for ymin, xmin, ymax, xmax in boxes.astype(float):
        cy, cx = (ymin + ymax) / 2, (xmin + xmax) / 2
        if window[0] < cy < window[2] and window[1] < cx < window[3]:
            height = min(ymax, window[2]) - max(ymin, window[0])
            width = min(xmax, window[3]) - max(xmin, window[1])
            area = (window[2] - window[0]) * (window[3] - window[1])
            union = area + (ymax - ymin) * (xmax - xmin) - height * width
            ious.append(height * width / union)
    return ious


@pytest.mark.parametrize("name", ["paper", "hikapok", "light"])
def test_expansion_happens_as_often_and_as_far_as_the_recipe_says(name):
    recipe = dataclasses.replace(RECIPES[name], patch_scale=None)
    windows = _windows(recipe, n=1200)
    height, width = (windows[:, 2:] - windows[:, :2]).T
    np.testing.assert_allclose(height, width, rtol=1e-5)
    expanded = ~_is_whole(windows)
    share = {"paper": 0.5, "hikapok": 0.5, "light": 0.25}[name]
    assert expanded.mean() == pytest.approx(share, abs=4 * (share * (1 - share) / 1200) ** 0.5)
    low, high = {"paper": (1, 4), "hikapok": (1.1, 4), "light": (1, 1.3)}[name]
    ratios = height[expanded]
    assert low <= ratios.min() < low + 0.1
    assert high - 0.1 < ratios.max() <= high + 1e-5
    assert ratios.mean() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    # The picture lies anywhere inside the canvas.
    room = (ratios - 1)[:, None]
    offsets = -windows[expanded, :2] / np.maximum(room, 1e-6)
    assert offsets.min() >= 0
    assert offsets.max() <= 1 + 1e-4
    np.testing.assert_allclose(offsets.mean(axis=0), 0.5, atol=0.06)


# For each recipe's changes: probability, lowest and highest value, and neutral value.
_COLOURS = {
    "paper": [
        (0.5, -32, 32, 0),
        (0.25, 0.5, 1.5, 1),
        (0.5, 0.5, 1.5, 1),
        (0.5, -18 / 360, 18 / 360, 0),
        (0.25, 0.5, 1.5, 1),
    ],
    "hikapok": [(1, -32, 32, 0), (0, 1, 1, 1), (1, 0.5, 1.5, 1), (0, 0, 0, 0), (0, 1, 1, 1)],
}


@pytest.mark.parametrize("name", _COLOURS)
def test_colours_change_as_often_and_as_far_as_published(name):
    drawn = _draws(RECIPES[name], n=3000)
    for values, (share, low, high, neutral) in zip(drawn.colours.T, _COLOURS[name], strict=True):
        changed = values[values != np.float32(neutral)]
        assert len(changed) / len(values) == pytest.approx(share, abs=0.04)
        if share:
            quantiles = np.quantile(changed, [0, 0.25, 0.5, 0.75, 1])
            np.testing.assert_allclose(
                quantiles, np.linspace(low, high, 5), atol=0.06 * (high - low)
            )
            assert low <= changed.min() < changed.max() <= high * (1 + 1e-6)
    contrast = drawn.colours[:, [1, 4]] != 1
    assert not contrast.all(axis=1).any()
    assert drawn.flip.mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_flips_happen_as_often_as_the_recipe_says(probability):
    flips = _draws(Recipe(patch_scale=None, flip_probability=probability), n=1000).flip
    assert flips.mean() == pytest.approx(probability, abs=0.06 if probability == 0.5 else 0)


def _plain_patches(boxes, n, rng):
    """The Caffe release's sampler, for n pictures with the same boxes."""
    shape = (n, 6, 50)
    scale = rng.uniform(0.3, 1.0, shape)
    aspect = rng.uniform(np.maximum(0.5, scale**2), np.minimum(2.0, 1 / scale**2))
    width, height = scale * aspect**0.5, scale / aspect**0.5
    y, x = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
    best = np.full(shape, -1.0)
    for ymin, xmin, ymax, xmax in boxes.astype(float):
        cy, cx = (ymin + ymax) / 2, (xmin + xmax) / 2
        kept = (y < cy) & (cy < y + height) & (x < cx) & (cx < x + width)
        overlap = np.minimum(y + height, ymax) - np.maximum(y, ymin)
        overlap *= np.minimum(x + width, xmax) - np.maximum(x, xmin)
        iou = overlap / (width * height + (ymax - ymin) * (xmax - xmin) - overlap)
        best = np.where(kept, np.maximum(best, iou), best)
    accepted = best >= np.reshape([0.1, 0.3, 0.5, 0.7, 0.9, 0.0], (6, 1))
    windows = np.stack([y, x, y + height, x + width], axis=-1)
    patches = []
    for tries, good in zip(windows, accepted, strict=True):
        candidates = [tries[k, g.argmax()] for k, g in enumerate(good) if g.any()]
        candidates.append(_WHOLE)
        patches.append(candidates[rng.integers(len(candidates))])
    return np.array(patches)


def test_patches_are_distributed_as_in_a_plain_sampler():
    windows = _windows(Recipe(expand_probability=0.0), n=1500)
    wanted = _plain_patches(_BOXES, 1500, np.random.default_rng(0))
    whole = [_is_whole(x).mean() for x in (windows, wanted)]
    assert whole[0] == pytest.approx(whole[1], abs=0.04)
    quantiles = []
    for patches in (windows[~_is_whole(windows)], wanted[~_is_whole(wanted)]):
        areas = np.prod(patches[:, 2:] - patches[:, :2], axis=-1, keepdims=True)
        values = np.concatenate([patches, areas], axis=-1)
        quantiles.append(np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9], axis=0))
    np.testing.assert_allclose(*quantiles, atol=0.045)


def test_scale_and_aspect_of_patches_are_bounded():
    windows = _windows(Recipe(expand_probability=0.0), n=1000)
    patches = windows[~_is_whole(windows)]
    assert patches.min() >= -1e-6
    assert patches.max() <= 1 + 1e-6
    height, width = (patches[:, 2:] - patches[:, :2]).T
    scale, aspect = np.sqrt(height * width), width / height
    assert 0.3 - 1e-5 <= scale.min() < 0.36
    assert 0.9 < scale.max() <= 1 + 1e-5
    assert 0.5 - 1e-5 <= aspect.min() < 0.6
    assert 1.7 < aspect.max() <= 2 + 1e-5


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("least", augmentation.PATCH_IOUS)
def test_an_accepted_patch_has_the_iou_of_its_sampler(monkeypatch, least, every):
    monkeypatch.setattr(augmentation, "PATCH_IOUS", (least,))
    # Only a box that fills most of the picture fills nine tenths of a random patch.
    boxes = _BOXES if least < 0.9 else np.array([[0.02, 0.02, 0.98, 0.98]], np.float32)
    windows = _windows(Recipe(expand_probability=0.0, every_kept_box=every), boxes, n=120)
    patches = windows[~_is_whole(windows)]
    # One sampler against the whole picture: chosen about half the time when it succeeds.
    assert 10 < len(patches) < 90
    for patch in patches:
        ious = _kept_ious(patch, boxes)
        assert ious
        assert (min(ious) if every else max(ious)) >= least - 1e-5


def test_the_two_patch_rules_differ(monkeypatch):
    monkeypatch.setattr(augmentation, "PATCH_IOUS", (0.1,))
    windows = _windows(Recipe(expand_probability=0.0), n=200)
    worst = [min(_kept_ious(w, _BOXES)) for w in windows[~_is_whole(windows)]]
    # The small box is often kept below 0.1, which only HiKapok's rule rejects.
    assert min(worst) < 0.1


@pytest.mark.parametrize("least", [0.3, 0.9])
def test_patches_that_no_box_can_fill_are_rejected(monkeypatch, least):
    monkeypatch.setattr(augmentation, "PATCH_IOUS", (least,))
    # The smallest patch has an area of 0.09, this box 0.01.
    small = np.array([[0.45, 0.45, 0.55, 0.55]], np.float32)
    windows = _windows(Recipe(expand_probability=0.0), small, n=60)
    assert _is_whole(windows).all()


def test_a_picture_draws_the_same_in_any_batch():
    boxes = tf.ragged.constant(
        [_BOXES, [], _BOXES[:1], _BOXES[::-1]], ragged_rank=1, inner_shape=(4,), dtype=tf.float32
    )
    seeds = _seeds(4)
    together = augmentation.draw(boxes, seeds, PAPER)
    for number in range(4):
        alone = augmentation.draw(boxes[number : number + 1], seeds[number : number + 1], PAPER)
        for part, same in zip(together, alone, strict=True):
            np.testing.assert_array_equal(part[number : number + 1], same)


def test_pictures_without_objects_take_the_whole_or_any_patch(monkeypatch):
    windows = _windows(Recipe(expand_probability=0.0), _NO_BOXES, n=600)
    assert _is_whole(windows).mean() == pytest.approx(0.5, abs=0.08)
    monkeypatch.setattr(augmentation, "PATCH_IOUS", (0.1, 0.9))
    windows = _windows(Recipe(expand_probability=0.0), _NO_BOXES, n=30)
    assert _is_whole(windows).all()


def test_patches_are_drawn_within_the_expanded_canvas():
    hikapok_recipe = Recipe(expand_probability=1.0, expand_ratio=(4.0, 4.0))
    windows = _windows(hikapok_recipe, n=400)
    sides = windows[:, 2:] - windows[:, :2]
    assert sides.max() <= 4 + 1e-4
    assert (sides > 1.2).any(axis=1).mean() > 0.5
    assert windows[:, :2].min() >= -3 - 1e-4
    assert windows[:, 2:].max() <= 4 + 1e-4
    assert all(_kept_ious(w, _BOXES) for w in windows)


def test_the_same_seed_draws_the_same_and_others_differ():
    first, second = _draws(PAPER, n=50), _draws(PAPER, n=50)
    for part, same in zip(first, second, strict=True):
        np.testing.assert_array_equal(part, same)
    assert len(np.unique(first.window, axis=0)) > 35
    assert len(np.unique(first.colours, axis=0)) > 35


def test_a_box_is_kept_exactly_when_its_centre_is_inside():
    rng = np.random.default_rng(3)
    low = rng.uniform(-0.5, 1, (500, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 1, (500, 2))], axis=-1).astype(np.float32)
    window = np.array([0.2, -0.3, 0.7, 0.9], np.float32)
    wanted = [
        0.2 < (ymin + ymax) / 2 < 0.7 and -0.3 < (xmin + xmax) / 2 < 0.9
        for ymin, xmin, ymax, xmax in boxes.astype(float)
    ]
    np.testing.assert_array_equal(augmentation.centres_inside(boxes, window), wanted)
    assert 50 < sum(wanted) < 450


def test_a_centre_on_the_border_is_outside():
    window = np.array([0.5, 0.0, 1.0, 1.0], np.float32)
    boxes = np.array([[0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.7500001, 0.75]], np.float32)
    assert augmentation.centres_inside(boxes, window).numpy().tolist() == [False, True]


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_in_a_window(flip):
    rng = np.random.default_rng(4)
    low = rng.uniform(0, 0.8, (50, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.01, 0.2, (50, 2))], axis=-1)
    window = (0.1, -0.4, 0.9, 1.2)
    found = augmentation.boxes_in_window(
        boxes.astype(np.float32), tf.constant(window), tf.constant(flip)
    )
    for box, (ymin, xmin, ymax, xmax) in zip(found.numpy(), boxes, strict=True):
        y = [min(max((v - 0.1) / 0.8, 0), 1) for v in (ymin, ymax)]
        x = [min(max((v + 0.4) / 1.6, 0), 1) for v in (xmin, xmax)]
        if flip:
            x = [1 - x[1], 1 - x[0]]
        np.testing.assert_allclose(box, [y[0], x[0], y[1], x[1]], atol=1e-6)


_STILL = {"brightness": 0.0, "contrast": None, "saturation": (1.0, 1.0), "hue_degrees": 0.0}


def _distort(pixels, n=60, probability=1.0, **acts):
    """n distortions of the pixels by a recipe with only the changes in `acts`."""
    recipe = Recipe(colour_probability=probability, **{**_STILL, **acts})
    pixels = tf.constant(pixels, tf.float32)
    distort = tf.function(lambda colours: augmentation.distort_colours(pixels, colours))
    return tf.map_fn(distort, _draws(recipe, n=n).colours).numpy()


@pytest.fixture(scope="module")
def mild():
    """Colours that no distortion clips."""
    return np.random.default_rng(0).uniform(50, 160, (6, 5, 3))


@pytest.fixture(scope="module")
def wild():
    """Any colours, including black, white and grey."""
    pixels = np.random.default_rng(0).uniform(0, 255, (6, 5, 3))
    pixels[0, :3] = [[0, 0, 0], [255, 255, 255], [128, 128, 128]]
    return pixels


@pytest.mark.parametrize("name", ["paper", "hikapok"])
def test_colours_stay_in_range(wild, name):
    recipe = RECIPES[name]
    acts = {key: getattr(recipe, key) for key in _STILL}
    found = _distort(wild, n=200, probability=recipe.colour_probability, **acts)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 255
    assert found.std(axis=0).max() > 5


def test_nothing_happens_with_probability_zero(wild):
    acts = {key: getattr(PAPER, key) for key in _STILL}
    found = _distort(wild, n=5, probability=0.0, **acts)
    np.testing.assert_allclose(found, np.broadcast_to(wild, found.shape), atol=0.01)


def test_each_distortion_happens_half_the_time(mild):
    changed = np.abs(_distort(mild, n=400, probability=0.5, brightness=32.0) - mild) > 0.02
    assert changed.any(axis=(1, 2, 3)).mean() == pytest.approx(0.5, abs=0.09)


def test_brightness_shifts_all_pixels_alike(mild):
    shifts = _distort(mild, n=200, brightness=32.0) - mild
    assert shifts.std(axis=(1, 2, 3)).max() < 0.01
    shifts = shifts.mean(axis=(1, 2, 3))
    assert -32 <= shifts.min() < -28
    assert 28 < shifts.max() <= 32


def test_contrast_scales_all_pixels_alike(mild):
    factors = _distort(mild, n=200, contrast=(0.5, 1.5)) / mild
    assert factors.std(axis=(1, 2, 3)).max() < 1e-3
    factors = factors.mean(axis=(1, 2, 3))
    assert 0.5 - 1e-3 <= factors.min() < 0.55
    assert 1.45 < factors.max() <= 1.5 + 1e-3


def _hsv(pixels):
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels.reshape(-1, 3) / 255])


def test_saturation_changes_nothing_else(mild):
    before, factors = _hsv(mild), []
    for pixels in _distort(mild, n=60, saturation=(0.5, 1.5)):
        after = _hsv(pixels)
        np.testing.assert_allclose(after[:, [0, 2]], before[:, [0, 2]], atol=1e-3)
        free = after[:, 1] < 0.999
        factor = after[free, 1] / before[free, 1]
        assert factor.std() < 1e-3
        factors.append(factor.mean())
    assert 0.5 - 1e-3 <= min(factors) < 0.6
    assert 1.4 < max(factors) <= 1.5 + 1e-3


def test_hue_changes_nothing_else(mild):
    before, turns = _hsv(mild), []
    for pixels in _distort(mild, n=60, hue_degrees=18.0):
        after = _hsv(pixels)
        np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=1e-3)
        turn = (after[:, 0] - before[:, 0] + 0.5) % 1 - 0.5
        assert turn.std() < 1e-3
        turns.append(360 * turn.mean())
    assert -18.1 <= min(turns) < -14
    assert 14 < max(turns) <= 18.1


def test_contrast_comes_before_or_after_saturation():
    # 1.5 x red is clipped; desaturating before or after that gives two different greens.
    pixels = np.tile([240.0, 40.0, 40.0], (1, 1, 1))
    found = _distort(pixels, n=40, contrast=(1.5, 1.5), saturation=(0.5, 0.5))[:, 0, 0]
    assert sorted({tuple(np.round(x)) for x in found}) == [(255, 158, 158), (255, 210, 210)]
