"""The colours of classes; their use is tested where they are used."""

import numpy as np
from PIL import ImageColor

from data.palette import PALETTE, class_colour, text_colour


def _lab(colours):
    """CIE Lab (D65) of `#rrggbb`, by the formulas in CIE 15."""
    share = np.array([ImageColor.getrgb(colour) for colour in colours]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    ratio = linear @ np.transpose(to_xyz) / (0.9505, 1.0, 1.0888)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def _nearest(colours):
    lab = _lab(colours)
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return distance[~np.eye(len(lab), dtype=bool)].min()


def test_colours_differ_clearly():
    assert _nearest(PALETTE[:20]) > 30
    assert len(PALETTE) == len(set(PALETTE)) == 80
    assert _nearest(PALETTE) > 15
    lightness = _lab(PALETTE)[:, 0]
    assert 35 < lightness.min() < lightness.max() < 95, "visible on dark and on light pictures"


def test_ids_count_from_1_and_colours_repeat_after_the_last():
    assert [class_colour(1), class_colour(np.int64(80))] == [PALETTE[0], PALETTE[79]]
    assert class_colour(81) == PALETTE[0]
    assert [text_colour("#ffee00"), text_colour("#0000aa")] == ["black", "white"]
