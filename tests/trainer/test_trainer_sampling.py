import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer.backbones import MEAN_RGB
from trainer.sampling import WHOLE_PICTURE, decode_window, sample_window

# Bilinear weights in another order of operations: 0.2 % of a byte's range.
_TOLERANCE = 2e-3 * 255


def _picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _jpeg(height, width, mode="RGB"):
    noise = Image.fromarray(_picture(height // 8 + 1, width // 8 + 1))
    file = io.BytesIO()
    noise.resize((width, height), Image.BICUBIC).convert(mode).save(file, "JPEG", quality=92)
    return file.getvalue()


def _plain_sample(image, window, size, flip=False):
    """One output pixel after the other, in float64."""
    height, width, _ = image.shape
    ymin, xmin, ymax, xmax = window
    pixels = np.empty((size, size, 3))
    for row in range(size):
        for column in range(size):
            y = (ymin + (row + 0.5) / size * (ymax - ymin)) * height - 0.5
            x = (xmin + (column + 0.5) / size * (xmax - xmin)) * width - 0.5
            target = size - 1 - column if flip else column
            if not (-1 <= y <= height and -1 <= x <= width):
                pixels[row, target] = MEAN_RGB
                continue
            top, left = int(np.floor(y)), int(np.floor(x))
            value = np.zeros(3)
            for yy, wy in ((top, top + 1 - y), (top + 1, y - top)):
                for xx, wx in ((left, left + 1 - x), (left + 1, x - left)):
                    pixel = image[np.clip(yy, 0, height - 1), np.clip(xx, 0, width - 1)]
                    value += wy * wx * pixel
            pixels[row, target] = value
    return pixels


@pytest.mark.parametrize(
    ("height", "width"), [(30, 40), (128, 128), (300, 211), (64, 64), (7, 500), (1, 1), (1, 9)]
)
def test_whole_picture_equals_tf_image_resize(height, width):
    image = _picture(height, width)
    found = sample_window(image, tf.constant(WHOLE_PICTURE), 64)
    wanted = tf.image.resize(tf.cast(image, tf.float32), (64, 64), method="bilinear")
    np.testing.assert_allclose(found, wanted, atol=_TOLERANCE)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "window",
    [(0.1, 0.2, 0.6, 0.9), (0, 0.5, 0.3, 1), (-0.4, -0.1, 1.7, 1.2), (0.31, 0.31, 0.33, 0.35)],
)
def test_any_window_equals_a_plain_loop(window, flip):
    image = _picture(33, 21, seed=1)
    found = sample_window(image, tf.constant(window), 24, flip)
    np.testing.assert_allclose(found, _plain_sample(image, window, 24, flip), atol=_TOLERANCE)


@pytest.mark.parametrize("flip", [True, tf.constant(True)])
def test_flipping_mirrors_left_and_right(flip):
    image, window = _picture(20, 30), tf.constant([-0.2, 0.1, 0.9, 1.3])
    plain = sample_window(image, window, 16, False)
    mirrored = sample_window(image, window, 16, flip)
    np.testing.assert_allclose(mirrored, plain[:, ::-1], atol=_TOLERANCE)


def test_outside_is_the_mean_colour():
    image = np.full((10, 10, 3), 255, np.uint8)
    found = sample_window(image, tf.constant([-1.0, -1.0, 2.0, 2.0]), 30)
    # The picture fills the middle third.
    np.testing.assert_allclose(found[11:19, 11:19], np.full((8, 8, 3), 255.0), atol=1e-3)
    frame = np.ones((30, 30), bool)
    frame[9:21, 9:21] = False
    np.testing.assert_allclose(found.numpy()[frame], np.tile(MEAN_RGB, (frame.sum(), 1)), rtol=1e-6)


def test_a_window_beside_the_picture_is_all_mean_colour():
    found = sample_window(_picture(9, 9), tf.constant([1.5, 1.5, 2.0, 2.0]), 8)
    np.testing.assert_allclose(found, np.tile(MEAN_RGB, (8, 8, 1)), rtol=1e-6)


def test_black_pixels_are_inside():
    found = sample_window(np.zeros((5, 5, 3), np.uint8), tf.constant(WHOLE_PICTURE), 7)
    np.testing.assert_array_equal(found, np.zeros((7, 7, 3)))


def test_a_change_leaves_what_is_outside_as_it_is():
    image, window = _picture(20, 30), tf.constant([-0.5, 0.1, 0.9, 1.3])
    plain = sample_window(image, window, 16).numpy()
    changed = sample_window(image, window, 16, change=lambda pixels: pixels + 5.0)
    mean = np.isclose(plain, np.float32(MEAN_RGB)).all(axis=-1, keepdims=True)
    assert 0.2 < mean.mean() < 0.8
    np.testing.assert_allclose(changed, np.where(mean, plain, plain + 5.0), atol=_TOLERANCE)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "window",
    [
        WHOLE_PICTURE,
        (0.1, 0.2, 0.6, 0.9),
        (0.7, 0.7, 1.0, 1.0),
        (-0.5, -1.5, 1.2, 2.0),
        (-0.9, 0.5, 0.3, 1.4),
        (0.5, 0.5, 0.5001, 0.5001),
        (1.2, 1.2, 1.6, 1.6),
        (-0.8, -0.8, -0.3, -0.3),
    ],
)
def test_decoding_the_window_equals_decoding_all(window, mode):
    encoded, window = _jpeg(117, 203, mode), tf.constant(window)
    whole = tf.io.decode_jpeg(encoded, channels=3)
    part, window_in_part = decode_window(encoded, window)
    found = sample_window(part, window_in_part, 40)
    wanted = sample_window(whole, window, 40)
    np.testing.assert_allclose(found, wanted, atol=_TOLERANCE)


def test_only_the_needed_part_is_decoded():
    part, _ = decode_window(_jpeg(200, 400), tf.constant([0.25, 0.5, 0.5, 0.75]))
    # 50 x 100 pixels and one more on each side.
    assert part.shape == (52, 102, 3)


def test_a_picture_of_one_pixel():
    encoded = tf.io.encode_jpeg(np.full((1, 1, 3), 200, np.uint8))
    part, window = decode_window(encoded, tf.constant([-1.0, -1.0, 2.0, 2.0]))
    assert part.shape == (1, 1, 3)
    found = sample_window(part, window, 12).numpy()
    mean = np.isclose(found, np.float32(MEAN_RGB)).all(axis=-1)
    assert not mean[4:8, 4:8].any()
    # Half a source pixel around the picture repeats its border; here that is two samples.
    assert mean[:2].all()
    assert mean[10:].all()
    np.testing.assert_allclose(found[6, 6], [200.0] * 3, atol=2)
