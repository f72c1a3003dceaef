"""What `run_fn` settles before it trains: the folder to go on from, devices, warnings."""

import dataclasses
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest

from data.errors import DataError
from tests.trainer.tiny import TINY
from trainer import devices, run  # run by name: TFX reloads the module that it finds it in
from trainer.config import BOOKKEEPING, TrainerConfig
from trainer.detector import build_network

pytestmark = pytest.mark.usefixtures("tiny_detector")

CONFIG = TrainerConfig(detector="ssd128-small", batch_size=4, steps=6, warmup_steps=2)


class Stopped(Exception):
    """Where training would begin."""


@pytest.fixture(scope="module")
def arguments(make, transform_folder, sample_classes, tmp_path_factory):
    """What TFX hands to `run_fn`, with another field of the configuration, fact or argument."""
    folder = tmp_path_factory.mktemp("inputs")
    for split, number in (("train", 4), ("other", 5)):
        picture = make.encode(np.full((32, 32, 3), 120, np.uint8))
        make.write_shards(folder / split, [make.record(i, picture) for i in range(number)])
    keras.utils.set_random_seed(1)
    network = build_network(TINY, len(sample_classes))
    network.save_weights(folder / "other.weights.h5")

    def arguments(work_dir, field=None, value=None):
        config, facts = CONFIG, {"preset": "tiny", "code_version": "1", "classes": sample_classes}
        given = {"train_files": [f"{folder}/train/*"]}
        if field in vars(config):
            config = dataclasses.replace(config, **{field: value})
        elif field in facts:
            facts[field] = value
        elif field:
            given[field] = value
        facts |= {"trainer": dataclasses.asdict(config), "work_dir": str(work_dir)}
        return SimpleNamespace(
            **given,
            custom_config=facts,
            eval_files=[f"{folder}/train/*"],
            transform_graph_path=str(transform_folder),
            model_run_dir=str(work_dir.parent / "run"),
            base_model=None,
            hyperparameters=None,
        )

    arguments.folder = folder
    return arguments


@pytest.fixture
def folder_of(arguments, tmp_path):
    """The folder that a training with a changed setting would go on from."""

    def folder_of(*change):
        train = mock.patch.object(run.Job, "train", side_effect=Stopped)
        with train as train, pytest.raises(Stopped):
            run.run_fn(arguments(tmp_path / "work", *change))
        return train.call_args.args[-1]

    return folder_of


def test_settings_that_change_no_result_keep_the_folder(folder_of):
    first = folder_of()
    assert set(BOOKKEEPING) == {"log_every", "checkpoint_every", "keep_checkpoints"}
    assert {folder_of(field, 3) for field in BOOKKEEPING} == {first}


def test_other_settings_data_weights_classes_and_code_have_folders_of_their_own(
    folder_of, arguments, sample_classes
):
    changes = [
        (),
        ("seed", 1),
        ("steps", 7),
        ("learning_rate", 0.5),
        ("eval_every", 2),
        ("backbone_weights", str(arguments.folder / "other.weights.h5")),
        ("train_files", [f"{arguments.folder}/other/*"]),
        ("classes", list(reversed(sample_classes))),
        ("code_version", "2"),
    ]
    assert len({folder_of(*change) for change in changes}) == len(changes)


def test_unfinished_trainings_of_other_settings_are_told_once(folder_of, messages):
    def told():
        return [text for text in messages() if "starting anew" in text]

    folder = folder_of()
    (folder / "checkpoints").mkdir(parents=True)
    folder_of()
    assert told() == []
    other = folder_of("seed", 1)
    before = told()
    assert f"unfinished with other settings, data or code: 1 in {folder.parent} " in before[0]
    (other / "checkpoints").mkdir(parents=True)
    folder_of("seed", 1)
    assert told() == before


def test_a_warm_up_that_never_ends_is_told(folder_of, messages):
    folder_of()
    assert not any("warmup_steps" in text for text in messages())
    folder_of("warmup_steps", 6)
    assert any("warmup_steps=6 is not less than trainer.steps=6" in text for text in messages())


def test_a_batch_that_does_not_fit_the_devices_is_told_by_the_trainer(arguments, tmp_path):
    three = SimpleNamespace(num_replicas_in_sync=3)
    chosen = mock.patch.object(devices, "choose_strategy", return_value=three)
    with chosen, pytest.raises(DataError, match="batch_size: 4 .* 3 devices"):
        run.run_fn(arguments(tmp_path / "work"))
