import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.loss import multibox_loss, multibox_sums

_SHAPE = (3, 40)


@pytest.fixture
def batch():
    """Predictions and targets of three pictures, with few, many and no positives."""
    rng = np.random.default_rng(0)
    labels = np.zeros(_SHAPE, np.int32)
    labels[0, [3, 17]] = [1, 4]
    labels[1, 10:30] = rng.integers(1, 5, 20)
    codes = rng.normal(0, 2, (*_SHAPE, 4)).astype(np.float32)
    box_codes = rng.normal(0, 2, (*_SHAPE, 4)).astype(np.float32)
    logits = rng.normal(0, 3, (*_SHAPE, 5)).astype(np.float32)
    return box_codes, logits, labels, codes


def _plain_sums(box_codes, logits, labels, codes, negatives=3):
    """The paper's loss, picture by picture, in float64."""
    class_sum = box_sum = 0.0
    for predicted, raw, label, wanted in zip(box_codes, logits, labels, codes, strict=True):
        raw = raw.astype(np.float64)
        losses = np.log(np.exp(raw).sum(axis=1)) - raw[np.arange(len(raw)), label]
        positive = np.flatnonzero(label)
        background = np.flatnonzero(label == 0)
        hardest = background[np.argsort(-losses[background], kind="stable")]
        hardest = hardest[: negatives * max(len(positive), 1)]
        class_sum += losses[positive].sum() + losses[hardest].sum()
        for error in np.abs(predicted[positive] - wanted[positive]).ravel():
            box_sum += error**2 / 2 if error < 1 else error - 0.5
    return class_sum, box_sum, (labels > 0).sum()


@pytest.mark.parametrize("negatives", [1, 3, 5])
def test_sums_equal_plain_numpy(batch, negatives):
    found = [float(total) for total in multibox_sums(*batch, negatives)]
    np.testing.assert_allclose(found, _plain_sums(*batch, negatives), 1e-5)


@pytest.mark.parametrize("picture", [0, 1, 2])
def test_each_picture_mines_its_own_negatives(batch, picture):
    alone = [part[picture : picture + 1] for part in batch]
    found = [float(total) for total in multibox_sums(*alone, 3)]
    np.testing.assert_allclose(found, _plain_sums(*alone), 1e-5)


def test_three_negatives_per_positive_and_three_without_positives(batch):
    box_codes, logits, labels, codes = batch
    # A background logit this low costs 100 per background anchor that counts.
    logits = np.full_like(logits, 100.0)
    logits[..., 0] = 0.0
    class_sum, _, _ = multibox_sums(box_codes, logits, labels, codes, 3)
    # log(4) per positive, whose class is one of four equally likely ones.
    negatives = (float(class_sum) - 22 * np.log(4)) / (100 + np.log(4))
    # 6 in the first picture, the remaining 20 in the second, 3 in the third.
    assert negatives == pytest.approx(6 + 20 + 3, rel=1e-4)


def test_ties_go_to_the_first_anchors(batch):
    box_codes, _, labels, codes = batch
    # Only three distinct background losses, so every threshold falls among ties.
    logits = np.zeros((*_SHAPE, 5), np.float32)
    logits[..., 0] = np.random.default_rng(1).integers(0, 3, _SHAPE)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        class_sum, _, _ = multibox_sums(box_codes, variable, labels, codes, 3)
    counted = np.abs(tape.gradient(class_sum, variable)).max(axis=2) > 0
    for found, label, logit in zip(counted, labels, logits[..., 0], strict=True):
        background = np.flatnonzero(label == 0)
        hardest = background[np.argsort(logit[background], kind="stable")]
        wanted = hardest[: 3 * max((label > 0).sum(), 1)]
        assert np.flatnonzero(found & (label == 0)).tolist() == sorted(wanted)


def test_loss_is_divided_by_the_positives_of_the_batch():
    assert [float(x) for x in multibox_loss(30.0, 12.0, 4.0)] == [10.5, 7.5, 3.0]


def test_a_batch_without_positives_is_finite_and_teaches_background(batch):
    box_codes, logits, labels, codes = batch
    class_sum, box_sum, positives = multibox_sums(
        box_codes, logits, np.zeros_like(labels), codes, 3
    )
    assert (float(box_sum), float(positives)) == (0.0, 0.0)
    total, class_loss, box_loss = (float(x) for x in multibox_loss(class_sum, box_sum, positives))
    assert total == class_loss == float(class_sum) > 0
    assert box_loss == 0.0


@pytest.mark.parametrize("empty", [False, True])
def test_gradients_are_finite_and_reach_only_anchors_that_count(batch, empty):
    box_codes, logits, labels, codes = batch
    if empty:
        labels = np.zeros_like(labels)
    # Background anchors may carry any code.
    codes = np.where(labels[..., None] > 0, codes, np.inf).astype(np.float32)
    box_codes, logits = tf.constant(box_codes), tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch([box_codes, logits])
        sums = multibox_sums(box_codes, logits, labels, codes, 3)
        total = multibox_loss(*sums)[0]
    box_gradient, class_gradient = (g.numpy() for g in tape.gradient(total, [box_codes, logits]))
    assert np.isfinite(total)
    assert np.isfinite(box_gradient).all()
    assert np.isfinite(class_gradient).all()
    np.testing.assert_array_equal(np.abs(box_gradient).sum(axis=-1) > 0, labels > 0)
    counted = (np.abs(class_gradient).sum(axis=-1) > 1e-8).sum(axis=1)
    wanted = [3, 3, 3] if empty else [2 + 6, 20 + 20, 3]
    np.testing.assert_array_equal(counted, wanted)


def test_gradient_of_the_box_term_is_clipped_at_one():
    labels = np.ones((1, 2), np.int32)
    box_codes = tf.constant([[[0.5, -0.25, 0.0, 0.0], [7.0, -9.0, 1.0, 0.0]]])
    with tf.GradientTape() as tape:
        tape.watch(box_codes)
        _, box_sum, _ = multibox_sums(
            box_codes, np.zeros((1, 2, 3)), labels, np.zeros((1, 2, 4)), 3
        )
    gradient = tape.gradient(box_sum, box_codes)
    np.testing.assert_allclose(gradient[0], [[0.5, -0.25, 0, 0], [1, -1, 1, 0]], atol=1e-6)


def test_half_precision_predictions_give_a_float32_loss(batch):
    box_codes, logits, labels, codes = batch
    halves = [keras.ops.cast(x, "bfloat16") for x in (box_codes, logits)]
    sums = multibox_sums(*halves, labels, codes, 3)
    assert {keras.backend.standardize_dtype(s.dtype) for s in sums} == {"float32"}
    np.testing.assert_allclose([float(s) for s in sums], _plain_sums(*batch), rtol=0.05)
