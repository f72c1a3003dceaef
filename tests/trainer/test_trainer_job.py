"""What a Job passes to the training: data, initial weights, and when and how to measure."""

import dataclasses
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from data.errors import DataError
from trainer import devices, input_pipeline, run, selection
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

    def job_of(base_model=None, hyperparameters=None, **fields):
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
                base_model=base_model,
                hyperparameters=hyperparameters,
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


def test_batches_start_at_the_step_and_for_the_replicas_asked_for(job_of, monkeypatch):
    asked = mock.Mock()
    monkeypatch.setattr(input_pipeline, "training_batches", asked)
    job, context = job_of(), tf.distribute.InputContext()
    job._batches(3, context)
    asked.assert_called_once_with(job.shards, job.records, job.config, 32, 4, 3, context)


def test_lengths_in_epochs_are_those_of_the_train_split(job_of):
    assert job_of(steps=None, epochs=3).config.steps == 6
    with pytest.raises(
        DataError, match="^trainer: warmup_steps .2. must be less than steps .1.[^\n]*$"
    ):
        job_of(steps=None, epochs=0.5, schedule="cosine")


def test_tuned_values_replace_configured_ones(job_of):
    assert job_of(hyperparameters={"values": {"learning_rate": 0.5}}).config.learning_rate == 0.5


def test_a_base_model_replaces_the_backbone_weights(job_of, monkeypatch):
    load = mock.Mock()
    monkeypatch.setattr(run, "load_base_model", load)
    job = job_of(base_model="model", backbone_weights="/nowhere.h5", warm_start="latest")
    network = job.new_network()
    load.assert_called_once_with(network, job.config, job.classes, "model")


def test_normalisation_is_synchronised_for_the_strategy(job_of, monkeypatch):
    synchronise = mock.Mock()
    monkeypatch.setattr(devices, "synchronise_normalisation", synchronise)
    job = job_of()
    synchronise.assert_called_once_with(job.new_network(), job.strategy)


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


def _dense(value=0):
    """A network whose two weights have this value."""
    network = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, name="dense")])
    return _fill(network, value)


def _fill(network, value):
    network.set_weights([np.full(shape, value) for shape in ((1, 1), (1,))])
    return network


@pytest.mark.parametrize(("records", "score"), [(range(4), 0.0), (range(4, 7), 1.0)])
def test_the_step_to_export_is_chosen_on_the_eval_split(
    job_of, tmp_path, monkeypatch, messages, records, score
):
    measured = []

    def train(network, *_, evaluate):
        _fill(network, 2)
        measured.append(evaluate(2))
        _fill(network, 3)

    monkeypatch.setattr(run, "train", lambda *given: train(*given[:-1], evaluate=given[-1]))
    served = SimpleNamespace(network=_dense(), serving_examples=_finds(records))
    _, best = job_of(eval_every=2).train(_dense(), served, tmp_path)
    assert measured == [score]
    assert best == (2, score)
    # The measured weights, not the last ones.
    assert [value.item() for value in served.network.get_weights()] == [2, 2]
    assert "the eval split has 3 pictures: with fewer than 30" in "".join(messages())


def test_a_split_with_enough_pictures_gets_no_warning(job_of, tmp_path, monkeypatch, messages):
    monkeypatch.setattr(selection, "FEW_PICTURES", 3)
    assert job_of(eval_every=2)._evaluation(_dense(), None, tmp_path)
    assert messages() == []


def test_without_eval_every_nothing_is_measured(job_of, tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr(run, "train", lambda *given: places.append(given[-3:]))
    served = SimpleNamespace(network=_dense(), serving_examples=None)
    assert job_of().train(_dense(3), served, tmp_path) == (None, None)
    assert places == [(tmp_path / "checkpoints", tmp_path / "logs", None)]
    assert [value.item() for value in served.network.get_weights()] == [3, 3]


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
