import dataclasses

import numpy as np
import pytest

from trainer import anchors
from trainer.anchors import (
    SSD128,
    SSD300,
    SSD300_FINE,
    SSD300_HIKAPOK,
    SSD512,
    anchor_boxes,
    anchors_hash,
)
from trainer.boxes import iou, to_corners
from trainer.model_zoo import anchor_spec


@pytest.mark.parametrize(
    ("spec", "per_map"),
    [
        (SSD300, [5776, 2166, 600, 150, 36, 4]),
        (SSD300_HIKAPOK, [5776, 2166, 600, 150, 36, 4]),
        (SSD300_FINE, [5776, 2166, 600, 150, 36, 4]),
        (SSD512, [16384, 6144, 1536, 384, 96, 16, 4]),
        (SSD128, [1024, 256, 64, 16]),
    ],
)
def test_number_of_anchors(spec, per_map):
    assert [n * n * spec.per_cell(k) for k, n in enumerate(spec.feature_sizes)] == per_map
    boxes = anchor_boxes(spec)
    assert boxes.shape == (sum(per_map), 4)
    assert boxes.dtype == np.float32


def test_published_totals():
    assert len(anchor_boxes(SSD300)) == 8732
    assert len(anchor_boxes(SSD512)) == 24564


def _px(spec, index):
    return anchor_boxes(spec)[index] * spec.image_size


def test_first_cell_in_the_paper_order():
    # Map of 38 cells, step 8: centre 4; min 30, extra sqrt(30 * 60), then aspect ratios 2 and 1/2.
    np.testing.assert_allclose(
        _px(SSD300, slice(0, 4)),
        [
            [4, 4, 30, 30],
            [4, 4, 42.426407, 42.426407],
            [4, 4, 21.213203, 42.426407],
            [4, 4, 42.426407, 21.213203],
        ],
        rtol=1e-6,
    )


def test_a_cell_with_all_ratios_in_the_paper_order():
    # Map of 19 cells, step 16, row 2, column 5: ratios 2, 1/2, 3, 1/3 of the 60 px square.
    first = 5776 + (2 * 19 + 5) * 6
    square, third = 60.0, 60 / 3**0.5
    np.testing.assert_allclose(
        _px(SSD300, slice(first, first + 6)),
        [
            [40, 88, square, square],
            [40, 88, 81.608823, 81.608823],
            [40, 88, 42.426407, 84.852814],
            [40, 88, 84.852814, 42.426407],
            [40, 88, third, 3 * third],
            [40, 88, 3 * third, third],
        ],
        rtol=1e-6,
    )


def test_a_cell_with_all_ratios_in_hikapok_order():
    # Extra square, min square, 2, 3, 1/2, 1/3.
    first = 5776 + (2 * 19 + 5) * 6
    third = 60 / 3**0.5
    np.testing.assert_allclose(
        _px(SSD300_HIKAPOK, slice(first, first + 6)),
        [
            [40, 88, 82.158384, 82.158384],
            [40, 88, 60, 60],
            [40, 88, 42.426407, 84.852814],
            [40, 88, third, 3 * third],
            [40, 88, 84.852814, 42.426407],
            [40, 88, 3 * third, third],
        ],
        rtol=1e-6,
    )


def test_the_last_anchor_is_the_upright_box_of_the_only_cell():
    np.testing.assert_allclose(_px(SSD300, -1), [150, 150, 264 * 2**0.5, 264 / 2**0.5], rtol=1e-6)


def test_extra_squares_of_hikapok():
    published = [42.43, 82.17, 136.23, 189.45, 242.34, 295.08]
    extras = [SSD300_HIKAPOK.shapes(level)[0] for level in range(6)]
    np.testing.assert_allclose(extras, np.repeat(published, 2).reshape(6, 2), atol=0.015)


def test_sizes_of_ssd512_are_the_papers_shares_of_the_side():
    # 7 % for the first map, then 15 % to 90 % in even steps, and 105 % for the last extra square.
    shares = [0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05]
    np.testing.assert_allclose(SSD512.min_sizes, np.multiply(shares[:-1], 512))
    np.testing.assert_allclose(SSD512.max_sizes, np.multiply(shares[1:], 512))


@pytest.mark.parametrize("spec", [SSD300, SSD300_HIKAPOK, SSD512, SSD128])
def test_anchors_equal_plain_loops(spec):
    wanted = []
    for level, cells in enumerate(spec.feature_sizes):
        for row in range(cells):
            for column in range(cells):
                for height, width in spec.shapes(level):
                    cy = (row + 0.5) * spec.steps[level]
                    cx = (column + 0.5) * spec.steps[level]
                    wanted.append([cy, cx, height, width])
    np.testing.assert_allclose(anchor_boxes(spec), np.divide(wanted, spec.image_size), rtol=1e-6)


def test_ratio_boxes_keep_the_area_of_the_square():
    for height, width in SSD512.shapes(3)[2:]:
        assert height * width == pytest.approx(230.4**2)


def _least_best_iou(spec, height, width):
    """The best anchor's IoU with an object of this size in px, at the worst place."""
    places = np.random.default_rng(0).uniform(60, 240, (50, 2))
    objects = np.concatenate([places, np.full((50, 2), (height, width))], axis=1) / 300
    overlaps = iou(to_corners(objects.astype(np.float32)), to_corners(anchor_boxes(spec)))
    return np.asarray(overlaps).max(axis=1).min()


def test_lite0_matches_small_objects():
    # A BCCD platelet at 300 px.
    assert _least_best_iou(anchor_spec("ssd300-lite0", "paper"), 24, 18) > 0.5
    assert _least_best_iou(SSD300, 24, 18) < 0.5


def test_clipped_anchors_are_limited_to_the_picture():
    clipped = dataclasses.replace(SSD300, clipped=True)
    np.testing.assert_array_equal(anchor_boxes(clipped), np.clip(anchor_boxes(SSD300), 0, 1))
    assert anchor_boxes(SSD300).max() > 1
    assert anchors_hash(clipped) != anchors_hash(SSD300)


def test_hash_identifies_the_anchors():
    specs = (SSD300, SSD300_FINE, SSD300_HIKAPOK, SSD512, SSD128)
    assert len({anchors_hash(spec) for spec in specs}) == len(specs)
    assert anchors_hash(SSD300) == anchors_hash(dataclasses.replace(SSD300))
    # Stored in pushed models: a change here makes their weights unusable.
    assert anchors_hash(SSD300) == "6a128f4a4edb3524"


def test_hash_sees_order_and_size():
    reordered = dataclasses.replace(SSD300, extra_square_first=True)
    larger = dataclasses.replace(SSD300, min_sizes=(30.1, *SSD300.min_sizes[1:]))
    assert len({anchors_hash(spec) for spec in (SSD300, reordered, larger)}) == 3


def test_hash_ignores_rounding(monkeypatch):
    exact = anchor_boxes(SSD128)
    monkeypatch.setattr(anchors, "anchor_boxes", lambda spec: np.nextafter(exact, np.float32(2)))
    nudged = anchors_hash(SSD128)
    monkeypatch.undo()
    assert nudged == anchors_hash(SSD128)
