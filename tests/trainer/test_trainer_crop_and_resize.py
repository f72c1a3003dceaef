import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.backbones import MEAN_RGB
from trainer.crop_and_resize import Placement, decode_part, fill, place, resize

# 0.2 % of a byte's range, for a different order of operations.
_TOLERANCE = 2e-3 * 255
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_WINDOWS = [
    (0.1, 0.2, 0.6, 0.9),
    (0, 0.5, 0.3, 1),
    (-0.4, -0.1, 1.7, 1.2),
    (0.31, 0.31, 0.33, 0.35),
    (0.7, 0.7, 1.0, 1.0),
    (-0.5, -1.5, 1.2, 2.0),
    (-0.9, 0.5, 0.3, 1.4),
]


def _picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _jpeg(height, width, mode="RGB"):
    noise = Image.fromarray(_picture(height // 8 + 1, width // 8 + 1))
    file = io.BytesIO()
    noise.resize((width, height), Image.BICUBIC).convert(mode).save(file, "JPEG", quality=92)
    return file.getvalue()


def _place(window, extent, size, flip=False):
    """The placement of one picture."""
    window, extent = tf.constant([window], tf.float32), tf.constant([extent], tf.int32)
    return Placement(*(part[0] for part in place(window, tf.constant([flip]), extent, size)))


def _source(placement):
    """`ymin, xmin, ymax, xmax` of the picture's pixels that are shown."""
    low = (placement.decoded + tf.pad(placement.first[:2], [[0, 2]])).numpy()[:2]
    return np.concatenate([low, low + placement.shown.numpy()[:2]])


def _target(placement, size):
    """`ymin, xmin, ymax, xmax` where they are in the result."""
    above, left, right, below = placement.margins.numpy()[:, :2]
    return np.array([above[0], left[1], size - below[0], size - right[1]])


def _shown(image, placement, size):
    """Each output pixel in float64, from the placement's window alone.

    The picture ends where the shown part does: its border pixels repeat.
    """
    height, width, _ = image.shape
    top, left, bottom, right = _source(placement)
    first_row, first_column, end_row, end_column = _target(placement, size)
    ymin, xmin, ymax, xmax = placement.window.numpy().astype(float)
    pixels = np.empty((size, size, 3))
    for row in range(size):
        for target in range(size):
            if not (first_row <= row < end_row and first_column <= target < end_column):
                pixels[row, target] = MEAN_RGB
                continue
            column = size - 1 - target if placement.flip else target
            y = (ymin + (row + 0.5) / size * (ymax - ymin)) * height - 0.5
            x = (xmin + (column + 0.5) / size * (xmax - xmin)) * width - 0.5
            low_y, low_x = int(np.floor(y)), int(np.floor(x))
            value = np.zeros(3)
            for yy, wy in ((low_y, low_y + 1 - y), (low_y + 1, y - low_y)):
                for xx, wx in ((low_x, low_x + 1 - x), (low_x + 1, x - low_x)):
                    pixel = image[np.clip(yy, top, bottom - 1), np.clip(xx, left, right - 1)]
                    value += wy * wx * pixel
            pixels[row, target] = value
    return pixels


def _sample(image, window, size, flip=False, change=tf.identity):
    """Places the window and fills it from a decoded picture."""
    placement = _place(window, image.shape[:2], size, flip)
    top, left, bottom, right = _source(placement)
    return fill(image[top:bottom, left:right], placement, size, change), placement


@pytest.mark.parametrize(
    ("height", "width"), [(30, 40), (128, 128), (300, 211), (64, 64), (7, 500), (1, 1), (1, 9)]
)
def test_resizing_equals_tf_image_resize(height, width):
    image = _picture(height, width)
    wanted = tf.image.resize(tf.cast(image, tf.float32), (64, 64), method="bilinear")
    np.testing.assert_allclose(resize(image, [64, 64]), wanted, atol=_TOLERANCE)
    # As in training.
    found, placement = _sample(image, _WHOLE, 64)
    np.testing.assert_allclose(found, wanted, atol=_TOLERANCE)
    np.testing.assert_allclose(placement.window, _WHOLE, atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("window", _WINDOWS)
def test_any_window_equals_a_plain_loop(window, flip):
    image = _picture(33, 21, seed=1)
    found, placement = _sample(image, window, 24, flip)
    np.testing.assert_allclose(found, _shown(image, placement, 24), atol=_TOLERANCE)


@settings(max_examples=200)
@given(
    extent=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    origin=st.tuples(st.floats(-3, 0.9), st.floats(-3, 0.9)),
    sides=st.tuples(st.floats(0.1, 4), st.floats(0.1, 4)),
    size=st.sampled_from([24, 300]),
)
def test_edges_snap_to_the_nearest_whole_pixels(extent, origin, sides, size):
    extent, low = np.array(extent), np.array(origin)
    window = np.concatenate([low, low + sides]).astype(np.float32)
    placement = _place(window, extent, size)
    top, bottom = np.split(_source(placement), 2)
    first, last = np.split(_target(placement, size), 2)
    assert (top >= 0).all()
    assert (bottom <= extent).all()
    assert (bottom > top).all()
    assert (first >= 0).all()
    assert (last <= size).all()
    low_px, high_px = (edge * extent for edge in np.split(window.astype(float), 2))
    step = (high_px - low_px) / size
    # The result's pixels that lie wholly within the picture, and all of them.
    slack = 2e-3
    assert (low_px + first * step >= -slack * step - 1e-3).all() or (last <= first).any()
    assert (low_px + last * step <= extent + slack * step + 1e-3).all() or (last <= first).any()
    covered = np.minimum(extent, high_px) - np.maximum(0, low_px)
    assert (last - first >= covered / step - 2 - slack).all()
    if (last <= first).any():
        np.testing.assert_array_equal(placement.window, window)
        return
    moved_low, moved_high = np.split(placement.window.numpy() * np.tile(extent, 2), 2)
    moved_step = (moved_high - moved_low) / size
    np.testing.assert_allclose(moved_low + first * moved_step, top, atol=0.02)
    np.testing.assert_allclose(moved_low + last * moved_step, bottom, atol=0.02)
    # Only a window thinner than a pixel moves by more than half a pixel.
    wide = high_px - low_px > 1
    moves = np.abs(np.stack([moved_low + first * moved_step - low_px - first * step,
                             moved_low + last * moved_step - low_px - last * step]))  # fmt: skip
    assert (moves[:, wide & ((last - first) * step > 1)] <= 0.5 + 0.02).all()


@pytest.mark.parametrize("flip", [True, False])
def test_flipping_mirrors_left_and_right(flip):
    image, window = _picture(20, 30), [-0.2, 0.1, 0.9, 1.3]
    plain, _ = _sample(image, window, 16, False)
    mirrored, _ = _sample(image, window, 16, flip)
    wanted = plain[:, ::-1] if flip else plain
    np.testing.assert_allclose(mirrored, wanted, atol=_TOLERANCE)


def test_outside_is_the_mean_colour():
    image = np.full((10, 10, 3), 255, np.uint8)
    found, _ = _sample(image, [-1.0, -1.0, 2.0, 2.0], 30)
    # The picture fills the middle third.
    np.testing.assert_allclose(found[10:20, 10:20], np.full((10, 10, 3), 255.0), atol=1e-3)
    frame = np.ones((30, 30), bool)
    frame[10:20, 10:20] = False
    np.testing.assert_allclose(found.numpy()[frame], np.tile(MEAN_RGB, (frame.sum(), 1)), rtol=1e-6)


@pytest.mark.parametrize(
    "window",
    [[1.5, 1.5, 2.0, 2.0], [-0.8, 0.2, -0.3, 0.9], [0.2, 1.0, 0.7, 1.5], [0.2, -3.0, 0.7, 0.05]],
)
def test_without_coverage_everything_is_mean_colour(window):
    found, placement = _sample(_picture(9, 9), window, 8)
    np.testing.assert_allclose(found, np.tile(MEAN_RGB, (8, 8, 1)), rtol=1e-6)
    np.testing.assert_allclose(placement.window, window)


def test_black_pixels_are_inside():
    found, _ = _sample(np.zeros((5, 5, 3), np.uint8), _WHOLE, 7)
    np.testing.assert_array_equal(found, np.zeros((7, 7, 3)))


def test_a_change_does_not_affect_the_outside():
    image, window = _picture(20, 30), [-0.5, 0.1, 0.9, 1.3]
    plain = _sample(image, window, 16)[0].numpy()
    changed, _ = _sample(image, window, 16, change=lambda pixels: pixels + 5.0)
    mean = np.isclose(plain, np.float32(MEAN_RGB)).all(axis=-1, keepdims=True)
    assert 0.2 < mean.mean() < 0.8
    np.testing.assert_allclose(changed, np.where(mean, plain, plain + 5.0), atol=_TOLERANCE)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "part",
    [(0, 0, 117, 203), (11, 40, 70, 183), (82, 142, 117, 203), (0, 9, 1, 10), (116, 202, 117, 203)],
)
def test_decoding_a_part_equals_decoding_all(part, mode):
    encoded = _jpeg(117, 203, mode)
    top, left, bottom, right = part
    wanted = tf.io.decode_jpeg(encoded, channels=3)[top:bottom, left:right]
    placement = _place(np.array(part) / (117, 203, 117, 203), [117, 203], 8)
    np.testing.assert_array_equal(_source(placement), part)
    np.testing.assert_array_equal(decode_part(encoded, placement), wanted)


def test_a_picture_of_one_pixel():
    encoded = tf.io.encode_jpeg(np.full((1, 1, 3), 200, np.uint8))
    placement = _place([-1.0, -1.0, 2.0, 2.0], [1, 1], 12)
    part = decode_part(encoded, placement)
    assert part.shape == (1, 1, 3)
    found = fill(part, placement, 12, tf.identity).numpy()
    mean = np.isclose(found, np.float32(MEAN_RGB)).all(axis=-1)
    inside = np.zeros((12, 12), bool)
    inside[4:8, 4:8] = True
    np.testing.assert_array_equal(mean, ~inside)
    np.testing.assert_allclose(found[6, 6], [200.0] * 3, atol=2)
