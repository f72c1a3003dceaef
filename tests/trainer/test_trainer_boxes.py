import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainer import boxes


def _numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _centre_boxes(n):
    """Boxes centred anywhere in the picture, with sides of 1 % to 100 %."""
    centre = arrays(np.float32, (n, 2), elements=st.floats(0, 1, width=32))
    size = arrays(np.float32, (n, 2), elements=st.floats(np.float32(0.01), 1, width=32))
    return st.builds(lambda c, s: np.concatenate([c, s], axis=-1), centre, size)


def _plain_iou(a, b):
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    areas = [(y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in (a, b)]
    return height * width / (sum(areas) - height * width)


@given(_centre_boxes(3))
def test_corners_and_centres_are_inverse(centre_boxes):
    back = _numpy(boxes.to_centres(boxes.to_corners(centre_boxes)))
    np.testing.assert_allclose(back, centre_boxes, atol=1e-6)


def test_corners_of_a_centre_box():
    corners = boxes.to_corners(np.array([[0.5, 0.4, 0.2, 0.6]], np.float32))
    np.testing.assert_allclose(_numpy(corners), [[0.4, 0.1, 0.6, 0.7]], atol=1e-6)


@given(_centre_boxes(4), _centre_boxes(4))
def test_decoding_the_code_gives_the_box(objects, anchors):
    corners = _numpy(boxes.to_corners(objects))
    codes = boxes.encode(corners, anchors)
    np.testing.assert_allclose(_numpy(boxes.decode(codes, anchors)), corners, atol=1e-5)


def test_code_by_hand():
    anchor = np.array([[0.5, 0.5, 0.2, 0.4]], np.float32)
    # The centre is 0.02 lower and 0.04 to the left; twice the height, half the width.
    code = boxes.encode(_numpy(boxes.to_corners(np.array([[0.52, 0.46, 0.4, 0.2]]))), anchor)
    log2 = np.log(2)
    np.testing.assert_allclose(_numpy(code), [[1.0, -1.0, log2 / 0.2, -log2 / 0.2]], rtol=1e-4)


def test_a_code_of_zeros_is_the_anchor():
    anchors = np.array([[0.5, 0.5, 0.2, 0.4], [0.0, 1.0, 0.5, 0.5]], np.float32)
    corners = _numpy(boxes.decode(np.zeros((2, 2, 4), np.float32), anchors))
    wanted = [[0.4, 0.3, 0.6, 0.7], [-0.25, 0.75, 0.25, 1.25]]
    np.testing.assert_allclose(corners, [wanted, wanted], atol=1e-6)


def test_padded_boxes_have_finite_codes():
    anchors = np.array([[0.5, 0.5, 0.01, 1.0]], np.float32)
    assert np.isfinite(_numpy(boxes.encode(np.zeros((1, 4), np.float32), anchors))).all()


@given(_centre_boxes(3), _centre_boxes(5))
def test_iou_equals_a_plain_loop(centre_a, centre_b):
    a, b = _numpy(boxes.to_corners(centre_a)), _numpy(boxes.to_corners(centre_b))
    wanted = [[_plain_iou(x, y) for y in b.astype(float)] for x in a.astype(float)]
    np.testing.assert_allclose(_numpy(boxes.iou(a, b)), wanted, atol=1e-4)


def test_iou_by_hand():
    a = np.array([[0.0, 0.0, 0.5, 1.0]], np.float32)
    b = np.array([[0, 0, 0.5, 1], [0, 0.5, 1, 1], [0.5, 0, 1, 1], [0.6, 0, 1, 1]], np.float32)
    np.testing.assert_allclose(_numpy(boxes.iou(a, b)), [[1, 1 / 3, 0, 0]], atol=1e-6)


def test_iou_of_batches():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (2, 7, 2))
    a = np.concatenate([low, low + rng.uniform(0.1, 0.5, (2, 7, 2))], axis=-1)
    b = a[:, 2:5]
    found = _numpy(boxes.iou(a, b))
    assert found.shape == (2, 7, 3)
    for picture in range(2):
        np.testing.assert_allclose(found[picture], _numpy(boxes.iou(a[picture], b[picture])))
    shared = _numpy(boxes.iou(a[0][None], b))
    np.testing.assert_allclose(shared[1], _numpy(boxes.iou(a[0], b[1])))


@pytest.mark.parametrize(
    "empty", [(0, 0, 0, 0), (0.5, 0.5, 0.5, 0.5), (0.2, 0.3, 0.8, 0.3), (0.8, 0.8, 0.2, 0.2)]
)
def test_boxes_without_area_overlap_nothing(empty):
    others = np.array([empty, (0, 0, 1, 1), (0, 0, 0, 0), (0.5, 0.5, 0.6, 0.6)], np.float32)
    assert (_numpy(boxes.iou(np.array([empty], np.float32), others)) == 0).all()
