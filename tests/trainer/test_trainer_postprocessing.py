import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from trainer.anchors import SSD128, anchor_boxes
from trainer.config import TrainerConfig
from trainer.postprocessing import detect, output_specs

_ANCHORS = anchor_boxes(SSD128)
_NAMES = ("cat", "dog", "emu")
_PAPER = TrainerConfig()


def _detect(codes, logits, anchors=_ANCHORS, config=_PAPER):
    codes, logits = codes.astype(np.float32), logits.astype(np.float32)
    found = detect(codes, logits, tf.constant(anchors), _NAMES, config)
    return {name: value.numpy() for name, value in found.items()}


def _iou(a, b):
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(height, 0) * max(width, 0)
    areas = [(y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in (a, b)]
    return overlap / (sum(areas) - overlap)


def _plain_detect(codes, logits, anchors, threshold, candidates, nms_iou, most):
    """(class, score, box) of one picture's detections, best first, with plain loops."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = powers / powers.sum(axis=1, keepdims=True)
    centre = anchors[:, :2] + 0.1 * codes[:, :2] * anchors[:, 2:]
    size = anchors[:, 2:] * np.exp(0.2 * codes[:, 2:])
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    detections = []
    for label in range(1, logits.shape[1]):
        kept = []
        for index in np.argsort(-scores[:, label], kind="stable")[:candidates]:
            if scores[index, label] <= threshold:
                break
            if all(_iou(boxes[index], boxes[other]) <= nms_iou for other in kept):
                kept.append(index)
        detections += [(label, scores[i, label], np.clip(boxes[i], 0, 1)) for i in kept]
    detections.sort(key=lambda d: -d[1])
    return detections[:most]


_OTHER = TrainerConfig(score_threshold=0.2, candidates_per_class=40, nms_iou=0.2, max_detections=13)


@pytest.mark.parametrize(
    ("spread", "full", "config"),
    [
        (1.0, True, _PAPER),
        (4.0, True, _PAPER),
        (9.0, False, _PAPER),
        (4.0, True, _OTHER),
        *(
            (1.0, False, dataclasses.replace(_PAPER, max_detections=4000, **{field: value}))
            for field, value in (
                ("score_threshold", 0.6),
                ("candidates_per_class", 20),
                ("nms_iou", 0.1),
            )
        ),
    ],
)
def test_detections_equal_plain_loops(spread, full, config):
    rng = np.random.default_rng(0)
    codes = rng.normal(0, 1, (2, len(_ANCHORS), 4))
    logits = rng.normal(0, spread, (2, len(_ANCHORS), 4))
    if spread == 9:
        logits[..., 0] += 30
    found = _detect(codes, logits, config=config)
    limits = (
        config.score_threshold,
        config.candidates_per_class,
        config.nms_iou,
        config.max_detections,
    )
    for picture in range(2):
        wanted = _plain_detect(codes[picture], logits[picture], _ANCHORS, *limits)
        assert (len(wanted) == config.max_detections) is full
        count = found["num_detections"][picture]
        assert count == len(wanted) > 0
        classes, scores, boxes = (np.array(x) for x in zip(*wanted, strict=True))
        found_scores = found["detection_scores"][picture, :count]
        np.testing.assert_allclose(found_scores, scores, rtol=1e-4)
        found_classes = found["detection_classes"][picture, :count]
        found_boxes = found["detection_boxes"][picture, :count]
        # Scores that differ only by rounding come in either order, depending on the processor.
        same = np.lexsort([*boxes.T, classes])
        found_same = np.lexsort([*found_boxes.T, found_classes])
        np.testing.assert_array_equal(found_classes[found_same], classes[same])
        np.testing.assert_allclose(found_boxes[found_same], boxes[same], atol=1e-5)
        np.testing.assert_allclose(found_scores[found_same], scores[same], rtol=1e-4)


def test_types_and_shapes_match_the_specs():
    zeros = tf.zeros([3, len(_ANCHORS), 4])
    found = detect(zeros, zeros, _ANCHORS, _NAMES, _PAPER)
    specs = output_specs(max_detections=200)
    assert {n: (v.dtype, [*v.shape[1:]]) for n, v in found.items()} == specs
    assert {v.shape[0] for v in found.values()} == {3}


def _logits(**probabilities):
    """Logits [1, num_anchors, 4] for anchors by index; all others are background."""
    logits = np.full((1, len(_ANCHORS), 4), -30.0)
    logits[..., 0] = 0
    for anchor, values in probabilities.items():
        logits[0, int(anchor[1:])] = np.log(np.maximum([1 - sum(values), *values], 1e-12))
    return logits


_ZEROS = np.zeros((1, len(_ANCHORS), 4))


def test_padded_rows_are_zero_and_empty():
    found = _detect(_ZEROS, _logits(a500=(0.0, 0.7, 0.2)))
    assert found["num_detections"].tolist() == [2]
    assert found["detection_classes"][0, :3].tolist() == [2, 3, 0]
    assert found["detection_class_names"][0, :3].tolist() == [b"dog", b"emu", b""]
    np.testing.assert_allclose(found["detection_scores"][0, :3], [0.7, 0.2, 0], rtol=1e-5)
    for name, padding in (("boxes", 0), ("scores", 0), ("classes", 0), ("class_names", b"")):
        assert (found[f"detection_{name}"][0, 2:] == padding).all()


def test_nothing_found():
    found = _detect(_ZEROS, _logits())
    assert found["num_detections"].tolist() == [0]
    assert not found["detection_boxes"].any()
    assert set(found["detection_class_names"].ravel()) == {b""}


def test_the_score_must_be_above_the_threshold():
    found = _detect(_ZEROS, _logits(a0=(0.0101, 0, 0), a900=(0.0099, 0, 0)))
    np.testing.assert_allclose(found["detection_scores"][0, :2], [0.0101, 0], rtol=1e-3)


def test_suppression_is_by_class():
    # Anchor 1000's box for two classes, and a second anchor moved to the same place for one.
    codes = np.zeros((1, len(_ANCHORS), 4))
    codes[0, 1001] = _codes_of(1000, onto=1001)
    found = _detect(codes, _logits(a1000=(0.6, 0.3, 0), a1001=(0.5, 0, 0)))
    assert found["num_detections"].tolist() == [2]
    assert found["detection_class_names"][0, :2].tolist() == [b"cat", b"dog"]


def _codes_of(anchor, onto):
    """The code that moves anchor `onto` to `anchor`."""
    wanted, base = _ANCHORS[anchor], _ANCHORS[onto]
    centre = (wanted[:2] - base[:2]) / base[2:] / 0.1
    return np.concatenate([centre, np.log(wanted[2:] / base[2:]) / 0.2])


def test_only_the_best_400_of_a_class_are_considered():
    # 399 boxes in one place, of which one is kept, one elsewhere, and one too many.
    ranked = [*range(399), 1000, 1340]
    codes = _ZEROS.copy()
    codes[0, :399] = [_codes_of(0, onto=anchor) for anchor in range(399)]
    scores = {f"a{anchor}": (0.9 - 0.001 * rank, 0, 0) for rank, anchor in enumerate(ranked)}
    found = _detect(codes, _logits(**scores))
    assert found["num_detections"].tolist() == [2]
    np.testing.assert_allclose(found["detection_scores"][0, :2], [0.9, 0.501], rtol=1e-4)


def test_boxes_are_clipped_to_the_picture():
    found = _detect(_ZEROS, _logits(a0=(0.9, 0, 0)))
    ymin, xmin, ymax, xmax = found["detection_boxes"][0, 0]
    assert (ymin, xmin) == (0, 0)
    cy, _, height, _ = _ANCHORS[0]
    assert ymax == pytest.approx(cy + height / 2)
    assert xmax > 0


def test_fewer_anchors_than_the_limits():
    anchors = _ANCHORS[:3]
    found = _detect(np.zeros((1, 3, 4)), np.zeros((1, 3, 4)), anchors)
    assert found["detection_boxes"].shape == (1, 200, 4)
    assert 3 <= found["num_detections"][0] <= 9
