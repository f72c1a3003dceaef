"""Whole training examples: one-step sampling against the paper's chain, and repeatability."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from trainer import augmentation
from trainer.backbones import MEAN_RGB
from trainer.config import TrainerConfig
from trainer.input_pipeline import _record_seeds, make_image, plan_examples
from trainer.recipes import PAPER, RECIPES

_SIZE = 96
_HEIGHT, _WIDTH = 300, 400
_BOXES = [(0.2, 0.3, 0.8, 0.7), (0.1, 0.1, 0.3, 0.25), (0.55, 0.6, 0.95, 0.97)]
_LABELS = [3, 1, 2]


@pytest.fixture
def example(make):
    """Makes one record's output of `TransformedRecords`, plus the epoch."""

    def example(
        number=0, epoch=0, boxes=_BOXES, labels=_LABELS, difficult=(), crowds=(), **picture
    ):
        encoded = make.encode(make.smooth_picture(_HEIGHT, _WIDTH, seed=number), **picture)
        difficult = [n in difficult for n in range(len(boxes))]
        crowds = [n in crowds for n in range(len(boxes))]
        return {
            "encoded": tf.constant(encoded),
            "record_id": tf.constant(f"VOC2007/{number:06d}"),
            "boxes": tf.reshape(tf.constant(boxes, tf.float32), [-1, 4]),
            "labels": tf.constant(labels, tf.int32),
            "difficult": tf.constant(difficult, tf.bool),
            "is_crowd": tf.constant(crowds, tf.bool),
            "epoch": tf.constant(epoch, tf.int64),
        }

    return example


def _batch(records):
    """Batches records with equal numbers of objects; returns the batch and its epochs."""
    batch = {name: tf.stack([record[name] for record in records]) for name in records[0]}
    return batch, batch.pop("epoch")


def _augmented(record, **fields):
    config = TrainerConfig(**{"augmentation": "paper", **fields})
    planned = tf.nest.map_structure(
        lambda part: part[0], plan_examples(*_batch([record]), config, _SIZE)
    )
    example = (make_image(planned, _SIZE), planned.boxes, planned.labels)
    return [part.numpy() for part in example]


def _drawn(record, seed, recipe=PAPER):
    """The canvas, patch and flip drawn for a record."""
    seeds = _record_seeds(record["record_id"][None], record["epoch"][None], seed)
    canvas, flip, _, choice, tries = tf.split(
        augmentation._uniforms(seeds, 4 + 1 + 9 + 1 + 1200), [4, 1, 9, 1, 1200], axis=1
    )
    canvas = augmentation._expand(canvas, recipe)
    on_canvas = augmentation._relative_to(record["boxes"], canvas)[None]
    on_canvas = tf.RaggedTensor.from_tensor(on_canvas)
    patches = augmentation._place_tries(tries, recipe.patch_scale)
    patch = augmentation._choose_patch(on_canvas, choice, patches, recipe)
    return canvas[0].numpy(), patch[0].numpy(), bool(flip[0, 0] < recipe.flip_probability)


def _resize(image, size):
    """Bilinear with half-pixel centres."""
    for axis in (0, 1):
        length = image.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        high = np.minimum(low + 1, length - 1)
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


def _plain_chain(record, recipe, seed):
    """The paper's order in whole pixels: float picture, canvas, crop, resize, flip.

    Returns the result, how much of each pixel the picture covers, boxes and labels.
    """
    canvas, patch, flip = _drawn(record, seed, recipe)

    picture = tf.io.decode_jpeg(record["encoded"], channels=3).numpy().astype(float)
    extent_px = np.round((canvas[2:] - canvas[:2]) * [_HEIGHT, _WIDTH]).astype(int)
    offset_px = np.round(-canvas[:2] * [_HEIGHT, _WIDTH]).astype(int)
    expanded = np.tile(np.array(MEAN_RGB), (*extent_px, 1))
    rows, columns = (slice(o, o + n) for o, n in zip(offset_px, (_HEIGHT, _WIDTH), strict=True))
    expanded[rows, columns] = picture
    shown = np.zeros((*extent_px, 1))
    shown[rows, columns] = 1

    # The crop's edges are whole pixels of the picture, wherever it lies on the canvas.
    on_picture = (canvas[:2] + p * (canvas[2:] - canvas[:2]) for p in (patch[:2], patch[2:]))
    low, high = (np.round(p * [_HEIGHT, _WIDTH]).astype(int) + offset_px for p in on_picture)
    crop, shown = (x[low[0] : high[0], low[1] : high[1]] for x in (expanded, shown))
    crop, shown = _resize(crop, _SIZE), _resize(shown, _SIZE)[..., 0]

    boxes_px = record["boxes"].numpy() * np.tile([_HEIGHT, _WIDTH], 2) + np.tile(offset_px, 2)
    centres = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
    kept = ((centres > low) & (centres < high)).all(axis=1)
    boxes_px = np.clip(boxes_px[kept], np.tile(low, 2), np.tile(high, 2)) - np.tile(low, 2)
    boxes = boxes_px / np.tile(high - low, 2)
    if flip:
        crop, shown = crop[:, ::-1], shown[:, ::-1]
        boxes = np.stack([boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], axis=-1)
    return crop, shown, boxes, record["labels"].numpy()[kept]


def _away_from_borders(shown, margin=4):
    """Where no border between picture and filling is within `margin` pixels."""
    clear = np.ones_like(shown, bool)
    padded = np.pad(shown, margin, mode="edge")
    for dy in range(2 * margin + 1):
        for dx in range(2 * margin + 1):
            clear &= padded[dy : dy + _SIZE, dx : dx + _SIZE] == shown
    return clear


@pytest.mark.parametrize("number", range(10))
def test_sampling_once_equals_the_papers_chain(monkeypatch, example, number):
    recipe = dataclasses.replace(PAPER, colour_probability=0.0)
    monkeypatch.setitem(RECIPES, "paper", recipe)
    record = example(number)
    image, boxes, labels = _augmented(record, seed=7)
    wanted, shown, wanted_boxes, wanted_labels = _plain_chain(record, recipe, 7)
    np.testing.assert_array_equal(labels, wanted_labels)
    # Where the canvas shows, the two round to different whole pixels.
    np.testing.assert_allclose(boxes, wanted_boxes, atol=0.015)
    # Pixels that the picture covers only in part count as outside here.
    sampled = (np.abs(image - MEAN_RGB) > 1e-3).any(axis=-1)
    assert np.mean(sampled != (shown > 0.5)) < 0.03
    clear = _away_from_borders(shown) & _away_from_borders(sampled)
    assert clear.mean() > 0.5
    error = np.abs(image - wanted)[clear]
    assert error.mean() < 1.0
    assert error.max() < 3.5


def test_the_records_above_cover_every_kind_of_draw(example):
    kinds = set()
    for number in range(10):
        canvas, _, flip = _drawn(example(number), 7)
        kinds.add((bool(canvas[0] < 0), flip))
    assert len(kinds) == 4


def test_the_number_of_parallel_calls_changes_nothing(example):
    config = TrainerConfig(augmentation="paper", seed=1)
    records = [example(number, epoch) for number in range(5) for epoch in range(2)]
    planned = plan_examples(*_batch(records), config, _SIZE)

    def images(calls):
        dataset = tf.data.Dataset.from_tensor_slices(planned).map(
            lambda plan: make_image(plan, _SIZE), num_parallel_calls=calls
        )
        return np.stack(list(dataset.as_numpy_iterator()))

    one = images(1)
    np.testing.assert_array_equal(one, images(8))
    assert len({image.tobytes() for image in one}) == 10


def test_seed_epoch_and_record_each_change_the_draw(example):
    base = _augmented(example(), seed=1)
    again = _augmented(example(), seed=1)
    for part, same in zip(base, again, strict=True):
        np.testing.assert_array_equal(part, same)
    renamed = {**example(), "record_id": tf.constant("VOC2007/000099")}
    for record, seed in ((example(), 2), (example(epoch=1), 1), (renamed, 1)):
        assert np.abs(_augmented(record, seed=seed)[0] - base[0]).max() > 1


def test_the_filling_keeps_its_colour(monkeypatch, example):
    recipe = dataclasses.replace(
        PAPER, patch_scale=None, expand_probability=1.0, colour_probability=1.0
    )
    monkeypatch.setitem(RECIPES, "paper", recipe)
    image, *_ = _augmented(example(2), seed=3)
    filled = np.isclose(image, MEAN_RGB, atol=1e-3).all(axis=-1)
    assert 0.1 < filled.mean() < 1


def test_without_augmentation_the_picture_is_resized(example):
    record = example()
    image, boxes, labels = _augmented(record, augmentation="none")
    picture = tf.io.decode_jpeg(record["encoded"], channels=3)
    np.testing.assert_allclose(image, tf.image.resize(picture, (_SIZE, _SIZE)), atol=0.5)
    np.testing.assert_allclose(boxes, _BOXES)
    assert labels.tolist() == _LABELS


@pytest.mark.parametrize("name", RECIPES)
def test_pictures_without_objects(example, name):
    for number in range(4):
        image, boxes, labels = _augmented(example(number, boxes=[], labels=[]), augmentation=name)
        assert image.shape == (_SIZE, _SIZE, 3)
        assert np.isfinite(image).all()
        assert boxes.shape == (0, 4)
        assert labels.shape == (0,)


def test_padded_rows_disappear(example):
    boxes, labels = [*_BOXES, (0, 0, 0, 0)], [*_LABELS, 0]
    padded = example(boxes=boxes, labels=labels)
    for part, same in zip(_augmented(padded), _augmented(example()), strict=True):
        np.testing.assert_array_equal(part, same)


@pytest.mark.parametrize(("use", "labels"), [(True, [3, 1, 2]), (False, [3, 2])])
def test_difficult_objects_can_be_left_out(example, use, labels):
    record = example(difficult=[1])
    found = _augmented(record, augmentation="none", use_difficult=use)
    assert found[2].tolist() == labels
    assert len(found[1]) == len(labels)


@pytest.mark.parametrize("use_difficult", [True, False])
def test_crowds_are_not_learned(example, use_difficult):
    record = example(crowds=[1], difficult=[1])
    found = _augmented(record, augmentation="none", use_difficult=use_difficult)
    assert found[2].tolist() == [3, 2]
    assert len(found[1]) == 2


def test_grey_pictures_become_three_equal_channels(monkeypatch, example):
    still = dataclasses.replace(
        PAPER, expand_probability=0.0, hue_degrees=0.0, saturation=(1.0, 1.0)
    )
    monkeypatch.setitem(RECIPES, "paper", still)
    image, *_ = _augmented(example(mode="L"))
    np.testing.assert_allclose(image[..., 0], image[..., 1], atol=1e-2)
    np.testing.assert_allclose(image[..., 0], image[..., 2], atol=1e-2)
    assert image.std() > 1
