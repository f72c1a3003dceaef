"""Choosing the weights to export by mAP on the eval split."""

import logging
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from data.errors import DataError
from trainer import checkpoints, selection
from trainer.files import BEST_FILE

_BOX = [0.1, 0.2, 0.5, 0.6]


def _answers(found: dict):
    """A detector that returns `found`: (box, score, class from 1) by record id."""

    def detect(serialised):
        rows = []
        for record in serialised.numpy():
            feature = tf.train.Example.FromString(record).features.feature
            rows.append(found[feature["image/source_id"].bytes_list.value[0].decode()])
        most = max(len(row) for row in rows) + 2
        boxes, scores = np.zeros((len(rows), most, 4), np.float32), np.zeros((len(rows), most))
        classes = np.zeros((len(rows), most), np.int64)
        for index, row in enumerate(rows):
            for place, (box, score, label) in enumerate(row):
                boxes[index, place], scores[index, place], classes[index, place] = box, score, label
        answer = {
            "detection_boxes": boxes,
            "detection_scores": scores,
            "detection_classes": classes,
            "num_detections": [len(row) for row in rows],
        }
        return {name: tf.constant(value) for name, value in answer.items()}

    return detect


@pytest.fixture(scope="module")
def split(make, transformed_records, sample_classes, tmp_path_factory):
    """Three pictures: an object of class 1; one of class 2 and a difficult one; no object."""
    picture = make.encode(make.smooth_picture(16, 16))
    first, second = sample_classes[:2]
    records = [
        make.record(0, picture, [_BOX], [first]),
        make.record(1, picture, [_BOX, [0.6, 0.6, 0.9, 0.9]], [second, first], [0, 1]),
        make.record(2, picture),
    ]
    shards = make.write_shards(tmp_path_factory.mktemp("eval"), records, 2)
    return selection.EvalSplit(shards, transformed_records, sample_classes)


@pytest.mark.parametrize(
    ("first", "second", "none", "wanted"),
    [
        ([(_BOX, 0.9, 1)], [(_BOX, 0.8, 2)], [], 1.0),
        ([(_BOX, 0.9, 1)], [], [], 0.5),
        # The class's highest score is in the picture without objects.
        ([(_BOX, 0.5, 1)], [(_BOX, 0.8, 2)], [(_BOX, 0.9, 1)], 0.75),
        # Detections of difficult objects are ignored.
        ([(_BOX, 0.5, 1)], [([0.6, 0.6, 0.9, 0.9], 0.9, 1), (_BOX, 0.8, 2)], [], 1.0),
        ([(_BOX, 0.9, 2)], [(_BOX, 0.8, 1)], [], 0.0),
        ([], [], [], 0.0),
    ],
)
def test_map_of_the_detections(split, first, second, none, wanted):
    found = {"VOC2007/000000": first, "VOC2007/000001": second, "VOC2007/000002": none}
    assert split.mean_average_precision(_answers(found)) == pytest.approx(wanted)


def test_the_map_is_11_point_like_the_evaluators(
    make, transformed_records, sample_classes, tmp_path
):
    picture = make.encode(make.smooth_picture(16, 16))
    records = [make.record(n, picture, [_BOX], sample_classes[:1]) for n in (0, 1)]
    records.append(make.record(2, picture))
    split = selection.EvalSplit(
        make.write_shards(tmp_path, records), transformed_records, sample_classes
    )
    scores = {0: 0.9, 2: 0.8, 1: 0.7}  # right, wrong, right
    found = {f"VOC2007/{n:06d}": [(_BOX, score, 1)] for n, score in scores.items()}
    # Precision is 1 up to recall 0.5 and 2/3 beyond; the area AP would be 0.8333.
    wanted = (6 * 1 + 5 * 2 / 3) / 11
    assert split.mean_average_precision(_answers(found)) == pytest.approx(wanted)


def test_a_split_without_an_object_that_counts_is_an_error_at_once(
    make, transformed_records, sample_classes, tmp_path
):
    picture = make.encode(make.smooth_picture(16, 16))
    records = [make.record(0, picture, [_BOX], sample_classes[:1], [1]), make.record(1, picture)]
    shards = make.write_shards(tmp_path, records)
    with pytest.raises(DataError, match=f"{tmp_path}.*no object that counts.*eval_every=0"):
        selection.EvalSplit(shards, transformed_records, sample_classes)


@pytest.fixture
def variables():
    """Two variables of a layer."""
    layer = keras.layers.Dense(2, name="dense")
    layer.build((3,))
    return layer.variables


def _fill(variables, value):
    for variable in variables:
        variable.assign(np.full(variable.shape, value))


def test_the_best_is_kept_and_ties_go_to_the_later_step(tmp_path, variables):
    assert selection.restore_best(tmp_path, variables) is None
    kept = []
    for step, score in ((10, 0.0), (20, 0.5), (30, 0.4), (40, 0.5), (50, 0.1)):
        _fill(variables, step)
        kept.append(selection.keep_if_best(tmp_path, step, score, variables))
    assert kept == [True, True, False, True, False]
    assert selection.restore_best(tmp_path, variables) == (40, 0.5)
    assert all((keras.ops.convert_to_numpy(v) == 40).all() for v in variables)
    assert [path.name for path in tmp_path.iterdir()] == ["best.npz"]


def test_the_best_file_is_not_a_checkpoint_to_resume_from(tmp_path, variables):
    selection.keep_if_best(tmp_path, 10, 0.5, variables)
    assert checkpoints.restore_latest(tmp_path, variables) == 0


def test_a_damaged_best_file_is_reported_and_replaced(tmp_path, variables, caplog):
    selection.keep_if_best(tmp_path, 10, 0.9, variables)
    path = tmp_path / BEST_FILE
    path.write_bytes(path.read_bytes()[:-50])
    logging.getLogger("ssd.trainer").addHandler(caplog.handler)
    assert selection.restore_best(tmp_path, variables) is None
    logging.getLogger("ssd.trainer").removeHandler(caplog.handler)
    assert str(path) in caplog.text
    assert selection.keep_if_best(tmp_path, 20, 0.1, variables)
    assert selection.restore_best(tmp_path, variables) == (20, 0.1)


def test_a_full_disk_keeps_the_old_best(tmp_path, variables, monkeypatch):
    _fill(variables, 1)
    selection.keep_if_best(tmp_path, 10, 0.5, variables)
    with monkeypatch.context() as full:
        full.setattr(np.lib.format, "write_array", mock.Mock(side_effect=OSError("full")))
        with pytest.raises(DataError, match="full"):
            selection.keep_if_best(tmp_path, 20, 0.9, variables)
    assert selection.restore_best(tmp_path, variables) == (10, 0.5)
