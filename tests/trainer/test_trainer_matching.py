import keras
import numpy as np
import pytest

from trainer.anchors import SSD128, anchor_boxes
from trainer.boxes import encode, to_corners
from trainer.matching import match

_ANCHORS = anchor_boxes(SSD128)


def _match(boxes, labels, anchors=_ANCHORS, matching_iou=0.5):
    boxes, labels = np.asarray(boxes, np.float32), np.asarray(labels, np.int32)
    found, codes = match(boxes, labels, anchors, matching_iou)
    return keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(codes)


def _plain_overlaps(boxes, anchors):
    centre, half = anchors[:, None, :2], anchors[:, None, 2:] / 2
    low = np.maximum(centre - half, boxes[None, :, :2])
    high = np.minimum(centre + half, boxes[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = np.prod(anchors[:, 2:], axis=-1)[:, None] + np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    return overlap / (areas - overlap)


def _plain_match(boxes, labels, anchors, matching_iou):
    """The index of each anchor's object in one picture, -1 for background."""
    overlaps = _plain_overlaps(boxes, anchors)
    overlaps[:, labels == 0] = -1
    owner = np.full(len(anchors), -1)
    for anchor, row in enumerate(overlaps):
        if row.size and row.max() >= matching_iou:
            owner[anchor] = row.argmax()
    remaining = overlaps.copy()
    for _ in range((labels > 0).sum()):
        anchor, box = np.unravel_index(remaining.argmax(), remaining.shape)
        owner[anchor] = box
        remaining[anchor] = remaining[:, box] = -1
    return owner


def _random_boxes(rng, n):
    centre, size = rng.uniform(0.1, 0.9, (n, 2)), rng.uniform(0.05, 0.7, (n, 2))
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
    return np.clip(corners, 0, 1).astype(np.float32)


@pytest.mark.parametrize(("seed", "matching_iou"), [(0, 0.5), (1, 0.5), (2, 0.3), (3, 0.7)])
def test_random_pictures_equal_plain_loops(seed, matching_iou):
    rng = np.random.default_rng(seed)
    boxes = np.stack([_random_boxes(rng, 9) for _ in range(6)])
    # Near copies of one box compete for anchors.
    boxes[1, 1:5] = boxes[1, 0] + rng.normal(0, 0.004, (4, 4))
    labels = rng.integers(1, 7, (6, 9)).astype(np.int32)
    for picture, real in enumerate(rng.integers(0, 10, 6)):
        labels[picture, real:] = 0
        boxes[picture, real:] = 0
    found, codes = _match(boxes, labels, matching_iou=matching_iou)
    for picture in range(6):
        owner = _plain_match(boxes[picture], labels[picture], _ANCHORS, matching_iou)
        wanted = np.where(owner >= 0, labels[picture][owner], 0)
        np.testing.assert_array_equal(found[picture], wanted)
        positive = owner >= 0
        targets = encode(boxes[picture][owner[positive]], _ANCHORS[positive])
        np.testing.assert_allclose(codes[picture][positive], targets, atol=1e-4)


def test_every_object_gets_its_own_anchor():
    # Smaller than any anchor, so no IoU reaches 0.5 and all want the same anchor.
    tiny = np.array([0.531, 0.531, 0.561, 0.561], np.float32)
    boxes = np.stack([tiny] * 3)[None]
    found, codes = _match(boxes, [[1, 2, 3]])
    assert sorted(found[found > 0]) == [1, 2, 3]
    assert np.isfinite(codes).all()


def test_two_identical_boxes_both_get_an_anchor():
    box = np.array([0.3, 0.3, 0.6, 0.6], np.float32)
    found, _ = _match([[box, box]], [[4, 5]])
    assert (found == 4).sum() >= 1
    assert (found == 5).sum() == 1


def test_an_objects_only_anchor_is_not_lost_to_a_larger_overlap():
    anchors = np.array([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.36]], np.float32)
    corners = keras.ops.convert_to_numpy(to_corners(anchors))
    # The first anchor overlaps object 1 best, but object 2 has no other left.
    boxes = np.stack([corners[1], corners[1]])[None]
    found, _ = _match(boxes, [[1, 2]], anchors)
    assert found.tolist() == [[2, 1]]


def test_the_threshold_is_one_half_and_included():
    anchors = np.array([[0.5, 0.25, 1, 0.5], [0.5, 0.5, 1, 1], [0.5, 0.25, 0.96, 0.5]], np.float32)
    half = [0.0, 0.0, 1.0, 0.5]
    found, _ = _match([[half]], [[3]], anchors)
    assert found.tolist() == [[3, 3, 3]]
    below = [0.0, 0.0, 1.0, 0.499]
    found, _ = _match([[below]], [[3]], anchors)
    assert found.tolist() == [[3, 0, 3]]


def test_padding_changes_nothing():
    boxes = _random_boxes(np.random.default_rng(7), 3)[None]
    labels = np.array([[1, 2, 3]], np.int32)
    padded = np.pad(boxes, [[0, 0], [0, 5], [0, 0]])
    found, codes = _match(boxes, labels)
    found_padded, codes_padded = _match(padded, np.pad(labels, [[0, 0], [0, 5]]))
    np.testing.assert_array_equal(found, found_padded)
    np.testing.assert_array_equal(codes, codes_padded)


@pytest.mark.parametrize("columns", [0, 1, 4])
def test_pictures_without_objects_are_background(columns):
    found, codes = _match(np.zeros((2, columns, 4)), np.zeros((2, columns)))
    assert found.shape == (2, len(_ANCHORS))
    assert (found == 0).all()
    assert np.isfinite(codes).all()


def test_more_objects_than_anchors():
    anchors = np.array([[0.5, 0.5, 0.5, 0.5]], np.float32)
    found, _ = _match([[[0.2, 0.2, 0.8, 0.8], [0.25, 0.25, 0.75, 0.75]]], [[1, 2]], anchors)
    assert found.tolist() == [[2]]


def test_an_object_without_area_takes_no_anchor():
    found, _ = _match([[[0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.8, 0.8]]], [[1, 2]])
    assert set(found.ravel()) == {0, 2}
