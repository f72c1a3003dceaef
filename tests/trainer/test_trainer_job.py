"""What a Job passes to the training: data, initial weights, and when and how to measure."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from data.errors import DataError
from tests.trainer.tiny import TINY
from trainer import run
from trainer.anchors import anchor_boxes
from trainer.config import TrainerConfig
from trainer.run import weights_hash

pytestmark = pytest.mark.usefixtures("tiny_detector")

CONFIG = TrainerConfig(
    detector="ssd128-small", augmentation="none", batch_size=2, steps=6, warmup_steps=2
)
_BOX = [0.25, 0.25, 0.75, 0.75]


@pytest.fixture(scope="module")
def job_of(make, transform_folder, sample_classes, tmp_path_factory):
    """Makes a Job from a configuration. Train pictures are bright, eval pictures dark."""
    folder = tmp_path_factory.mktemp("splits")
    for split, brightness, numbers in (("train", 240, range(4)), ("eval", 10, range(4, 7))):
        picture = make.encode(np.full((32, 32, 3), brightness, np.uint8))
        records = [make.record(n, picture, [_BOX], sample_classes[:1]) for n in numbers]
        make.write_shards(folder / split, records)

    def job_of(**fields):
        config = dataclasses.replace(CONFIG, **fields)
        return run.Job.from_arguments(
            SimpleNamespace(
                custom_config={
                    "trainer": dataclasses.asdict(config),
                    "classes": sample_classes,
                },
                train_files=[f"{folder}/train/*"],
                eval_files=[f"{folder}/eval/*"],
                transform_graph_path=str(transform_folder),
                base_model=None,
                hyperparameters=None,
            )
        )

    return job_of


def test_a_job_trains_on_the_train_split(job_of):
    job = job_of()
    assert job.num_records == 4
    images, _, labels = next(iter(job._batches(0, tf.distribute.InputContext())))
    assert images.shape == (2, 32, 32, 3)
    assert (images.numpy() > 200).all()
    assert (labels.numpy().max(axis=1) == 1).all()


def _finds(records):
    """A detector that finds the object only in the pictures of some records."""

    def detect(serialised):
        ids = [
            tf.train.Example.FromString(item).features.feature["image/source_id"]
            for item in serialised.numpy()
        ]
        found = [int(feature.bytes_list.value[0][-6:]) in records for feature in ids]
        rows = len(found)
        return {
            "detection_boxes": tf.constant([[_BOX]] * rows, tf.float32),
            "detection_scores": tf.constant([[0.9]] * rows),
            "detection_classes": tf.ones([rows, 1], tf.int64),
            "num_detections": tf.constant(found, tf.int64),
        }

    return detect


@pytest.mark.parametrize(("records", "score"), [(range(4), 0.0), (range(4, 7), 1.0)])
def test_the_step_to_export_is_chosen_on_the_eval_split(
    job_of, tmp_path, monkeypatch, records, score
):
    scores = []
    monkeypatch.setattr(run, "train", lambda *arguments: scores.append(arguments[-1](2)))
    network, other = (
        keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, name="dense")])
        for _ in range(2)
    )
    served = SimpleNamespace(network=other, serving_examples=_finds(records))
    _, best = job_of(eval_every=2).train(network, served, tmp_path)
    assert scores == [score]
    assert best == (2, score)
    # The weights kept as the best, and restored here, are the measured ones.
    for value, wanted in zip(other.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_without_eval_every_nothing_is_measured(job_of, tmp_path, monkeypatch):
    evaluates = []
    monkeypatch.setattr(run, "train", lambda *arguments: evaluates.append(arguments[-1]))
    network = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    served = SimpleNamespace(network=network, serving_examples=None)
    assert job_of().train(network, served, tmp_path) == (None, None)
    assert evaluates == [None]


def test_the_eval_split_is_fingerprinted_only_if_it_is_used(job_of):
    assert "eval_fingerprint" not in job_of().data_facts
    facts = job_of(eval_every=2).data_facts
    assert facts["eval_fingerprint"] != facts["train_fingerprint"]


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_the_network_has_the_configured_precision_and_the_export_float32(job_of, precision):
    job = job_of(precision=precision)
    layer = job.new_network().get_layer("conv8")
    assert layer.compute_dtype == precision.removeprefix("mixed_")
    assert job.new_detector().network.get_layer("conv8").compute_dtype == "float32"


def test_a_network_starts_as_configured(job_of):
    weights = {"backbone_weights": "/nowhere.h5"}
    with pytest.raises(DataError, match="/nowhere.h5: no such file"):
        job_of(**weights).new_network()
    with pytest.raises(DataError, match=r"frozen_stages: 1, but .* no stages to freeze"):
        job_of(frozen_stages=1, warm_start="latest").new_network()


def test_the_seed_decides_the_initial_weights(job_of):
    hashes = [weights_hash(job_of(seed=seed).new_network()) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.slow
def test_a_measurement_sees_the_weights_that_are_exported(job_of, tmp_path):
    """The averages, even after the last step, which is not a multiple of `eval_every`."""
    config = dataclasses.replace(CONFIG, steps=5, eval_every=2, ema=0.5, checkpoint_every=5)
    job = job_of()
    network, seen = job.new_network(), {}

    def evaluate(step):
        seen[step] = network.get_weights()
        return 0.0

    places = (tmp_path / "checkpoints", tmp_path / "logs")
    run.train(network, anchor_boxes(TINY.anchors), job._batches, config, *places, evaluate)
    assert list(seen) == [2, 4, 5]
    for value, other in zip(seen[5], network.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)
    # The last weights themselves differ.
    with np.load(tmp_path / "checkpoints" / "step-00000005.npz") as stored:
        last = [stored[f"{i}:{v.path}"] for i, v in enumerate(network.variables)]
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(last, seen[5], strict=True))
