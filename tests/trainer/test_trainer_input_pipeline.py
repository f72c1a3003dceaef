import ctypes
import itertools
import resource
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from data.errors import DataError
from trainer import input_pipeline
from trainer.config import TrainerConfig

_RECORDS = 12
_SIZE = 32


@pytest.fixture(scope="module")
def serialised(make, sample_classes):
    """Twelve records, each in a different colour; number 4 has no object, number 7 has three."""
    records = []
    for number in range(_RECORDS):
        pixels = np.full((20, 30, 3), 20 * number, np.uint8)
        objects = {4: 0, 7: 3}.get(number, 1)
        boxes = [(0.1, 0.2, 0.7, 0.5 + 0.1 * n) for n in range(objects)]
        names = sample_classes[:objects]
        records.append(make.record(number, make.encode(pixels), boxes, names))
    return records


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make, serialised):
    return make.write_shards(tmp_path_factory.mktemp("shards"), serialised, shards=3)


def _config(**fields):
    return TrainerConfig(**{"batch_size": 5, "augmentation": "none", "shuffle_buffer": 3, **fields})


@pytest.fixture(scope="module")
def batches(shards, transformed_records):
    """The first batches of a run, as numpy arrays."""

    def batches(number, first_step=0, files=shards, **fields):
        dataset = input_pipeline.training_batches(
            files, transformed_records, _config(**fields), _SIZE, _RECORDS, first_step
        )
        return list(itertools.islice(dataset.as_numpy_iterator(), number))

    return batches


def _numbers(images):
    """The record number of each picture in a batch, from its colour."""
    return [round(float(image.mean()) / 20) for image in images]


@pytest.mark.slow
def test_batches_have_the_promised_shapes(batches):
    ((images, boxes, labels),) = batches(1)
    assert (images.shape, images.dtype) == ((5, _SIZE, _SIZE, 3), np.float32)
    assert (boxes.dtype, labels.dtype) == (np.float32, np.int32)
    assert boxes.shape[:2] == labels.shape == (5, boxes.shape[1])
    np.testing.assert_array_equal(boxes[labels == 0], np.zeros(((labels == 0).sum(), 4)))


def test_pictures_keep_their_boxes_and_labels(batches):
    for images, boxes, labels in batches(5):
        for number, box, label in zip(_numbers(images), boxes, labels, strict=True):
            objects = {4: 0, 7: 3}.get(number, 1)
            wanted = [n + 1 if n < objects else 0 for n in range(len(label))]
            assert label.tolist() == wanted
            sides = [[0.1, 0.2, 0.7, 0.5 + 0.1 * n] for n in range(objects)]
            np.testing.assert_allclose(box[:objects].reshape(-1, 4), np.reshape(sides, (-1, 4)))


def test_each_epoch_holds_every_record_once_in_another_order(batches):
    numbers = [n for images, *_ in batches(12) for n in _numbers(images)]
    epochs = [tuple(numbers[start : start + _RECORDS]) for start in range(0, 60, _RECORDS)]
    assert all(sorted(epoch) == list(range(_RECORDS)) for epoch in epochs)
    assert len(set(epochs)) == 5


@pytest.fixture(scope="module")
def uninterrupted(batches):
    """The batches of 9 steps: epochs end within steps 3, 5 and 8."""
    return batches(9, augmentation="paper", seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("first_step", [1, 7])
def test_a_run_that_starts_later_gets_the_same_batches(batches, uninterrupted, first_step):
    later = batches(9 - first_step, first_step, augmentation="paper", seed=3)
    for batch, same in zip(uninterrupted[first_step:], later, strict=True):
        for part, same_part in zip(batch, same, strict=True):
            np.testing.assert_array_equal(part, same_part)


_REPLICATED = {"augmentation": "paper", "batch_size": 6, "seed": 3}


@pytest.fixture(scope="module")
def whole(batches):
    return batches(4, first_step=1, **_REPLICATED)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "devices"), [(1, 2), (2, 1), (3, 2)])
def test_replicas_get_parts_of_the_same_batches(
    shards, transformed_records, whole, workers, devices
):
    part = 6 // workers // devices
    parts = []
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, workers * devices)
        dataset = input_pipeline.training_batches(
            shards, transformed_records, _config(**_REPLICATED), _SIZE, _RECORDS, 1, context=context
        )
        parts.append(list(itertools.islice(dataset.as_numpy_iterator(), 4 * devices)))
    for step, (images, boxes, labels) in enumerate(whole):
        of_step = [p for own in parts for p in own[step * devices : (step + 1) * devices]]
        assert [len(p[0]) for p in of_step] == [part] * workers * devices
        np.testing.assert_array_equal(np.concatenate([p[0] for p in of_step]), images)
        for index, (_, own_boxes, own_labels) in enumerate(of_step):
            rows, objects = slice(index * part, (index + 1) * part), own_labels.shape[1]
            np.testing.assert_array_equal(own_boxes, boxes[rows, :objects])
            np.testing.assert_array_equal(own_labels, labels[rows, :objects])
            assert not labels[rows, objects:].any()


@pytest.mark.slow
def test_pictures_without_any_object(tmp_path, make, transformed_records):
    encoded = make.encode(np.full((20, 30, 3), 120, np.uint8))
    files = make.write_shards(tmp_path, [make.record(number, encoded) for number in range(4)])
    dataset = input_pipeline.training_batches(
        files, transformed_records, _config(augmentation="paper"), _SIZE, 4
    )
    for images, boxes, labels in dataset.take(20).as_numpy_iterator():
        assert images.shape == (5, _SIZE, _SIZE, 3)
        assert boxes.shape == (5, 0, 4)
        assert labels.shape == (5, 0)


@pytest.mark.slow
def test_xla_sees_few_shapes(batches):
    for plain, padded in zip(batches(4), batches(4, xla=True), strict=True):
        objects = plain[2].shape[1]
        assert padded[1].shape[1] == padded[2].shape[1] == 8
        np.testing.assert_array_equal(padded[0], plain[0])
        for part, same in zip(plain[1:], padded[1:], strict=True):
            np.testing.assert_array_equal(part, same[:, :objects])
            assert not same[:, objects:].any()


def test_xla_gets_boxes_padded_to_a_multiple_of_8(shards, transformed_records, monkeypatch):
    images, boxes, labels = input_pipeline._few_shapes(0, tf.ones([1, 3, 4]), tf.ones([1, 3]))
    assert images == 0
    assert boxes.numpy().sum(axis=(0, 2)).tolist() == [4] * 3 + [0] * 5
    assert labels.numpy().tolist() == [[1] * 3 + [0] * 5]
    monkeypatch.setattr(input_pipeline, "_few_shapes", mock.Mock(side_effect=KeyError))
    with pytest.raises(KeyError):
        input_pipeline.training_batches(
            shards, transformed_records, _config(xla=True), _SIZE, _RECORDS
        )


def test_seed_epoch_and_record_decide_what_is_drawn(shards, transformed_records, monkeypatch):
    drawn = [
        tuple(
            input_pipeline._record_seeds(tf.constant([name]), tf.constant([n], tf.int64), seed)[0]
        )
        for name, n, seed in (("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1))
    ]
    assert len({tuple(map(int, pair)) for pair in drawn}) == 4
    shuffle = mock.Mock(side_effect=KeyError)
    monkeypatch.setattr(tf.random.experimental, "stateless_shuffle", shuffle)
    with pytest.raises(KeyError):
        input_pipeline.training_batches(
            shards, transformed_records, _config(seed=3), _SIZE, _RECORDS
        )
    seed, epoch = tf.get_static_value(shuffle.call_args.args[1], partial=True)
    assert (seed, epoch) == (3, None)


def test_a_picture_looks_different_in_the_next_epoch(uninterrupted):
    shown = np.concatenate([images for images, *_ in uninterrupted])
    first, second = shown[:_RECORDS], shown[_RECORDS : 2 * _RECORDS]
    same = [np.abs(image - other).max() < 0.5 for image in first for other in second]
    assert sum(same) <= 2


@pytest.mark.slow
def test_the_seed_fixes_the_order(batches):
    orders = [
        [n for images, *_ in batches(2, seed=seed) for n in _numbers(images)] for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.slow
def test_the_global_seed_does_not_matter(batches):
    drawn = []
    for global_seed in (0, 7):
        tf.random.set_seed(global_seed)
        drawn.append([_numbers(images) for images, _, _ in batches(6)])
    assert drawn[0] == drawn[1]


def test_large_blocks_are_not_returned_to_the_kernel():
    input_pipeline.keep_freed_memory()
    libc, size = ctypes.CDLL(None), 40 * 2**20
    libc.malloc.restype = ctypes.c_void_p

    def new_pages():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
        ctypes.memset(block, 1, size)
        libc.free(block)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    new_pages()
    assert new_pages() < 100


def test_a_batch_may_be_larger_than_the_data(batches):
    ((images, *_),) = batches(1, batch_size=30)
    counts = np.bincount(_numbers(images), minlength=_RECORDS)
    assert set(counts) == {2, 3}


def test_pictures_are_shuffled_within_the_buffer(batches, shards):
    ((images, *_),) = batches(1, files=shards[:1], batch_size=4, shuffle_buffer=1)
    assert _numbers(images) == [0, 3, 6, 9]


def test_training_keeps_freed_memory(shards, transformed_records, monkeypatch):
    monkeypatch.setattr(input_pipeline, "keep_freed_memory", mock.Mock(side_effect=KeyError))
    with pytest.raises(KeyError):
        input_pipeline.training_batches(shards, transformed_records, _config(), _SIZE, _RECORDS)


def test_records_are_counted(shards):
    assert input_pipeline.count_records(shards)[0] == _RECORDS


def test_fingerprint_depends_on_the_records_and_not_on_their_order(tmp_path, make, serialised):
    def fingerprint(name, records, shards):
        return input_pipeline.count_records(make.write_shards(tmp_path / name, records, shards))[1]

    plain = fingerprint("plain", serialised, 1)
    assert len(plain) == 16
    assert plain == fingerprint("reversed", serialised[::-1], 3)
    changed = [*serialised[:-1], make.record(11, b"another picture")]
    assert plain != fingerprint("changed", changed, 1)
    assert plain != fingerprint("fewer", serialised[:-1], 1)
    assert plain != fingerprint("twice", [*serialised, serialised[0]], 1)


def test_shards_are_listed_in_order(shards):
    assert input_pipeline.list_shards(shards[::-1]) == sorted(shards)
    patterns = [f"{shards[0].rpartition('/')[0]}/*"]
    assert input_pipeline.list_shards(patterns) == sorted(shards)


def test_missing_shards_are_named(tmp_path):
    with pytest.raises(DataError, match=rf"no TFRecord shards match {tmp_path}/train/\*.*convert"):
        input_pipeline.list_shards([f"{tmp_path}/train/*"])


def test_a_split_without_records_is_refused(tmp_path, make):
    with pytest.raises(DataError, match=f"{tmp_path}: the split has no records"):
        input_pipeline.count_records(make.write_shards(tmp_path, [], 2))


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "missing"])
def test_damaged_shards_are_refused(tmp_path, make, serialised, damage):
    files = make.write_shards(tmp_path, serialised, 2)
    with open(files[1], "r+b") as file:  # noqa: PTH123
        if damage == "truncated":
            file.truncate(150)
        elif damage == "not gzip":
            file.write(b"not a record at all")
    if damage == "missing":
        tf.io.gfile.remove(files[1])
    with pytest.raises(DataError, match=f"{tmp_path}: a shard cannot be read .*Convert the data"):
        input_pipeline.count_records(files)


def test_a_record_to_predict_on_needs_only_its_picture(transformed_records):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"jpeg"]))
    bare = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    found = transformed_records(tf.constant([bare.SerializeToString()]))
    assert found["encoded"].numpy().tolist() == [b"jpeg"]
    assert found["labels"].shape == (1, 0)
    empty = tf.train.Example().SerializeToString()
    with pytest.raises(tf.errors.InvalidArgumentError, match="image/encoded"):
        transformed_records(tf.constant([empty]))
