"""A killed and resumed training ends like an uninterrupted one."""

import resource
import shutil

import numpy as np
import pytest
from keras.ops import convert_to_numpy

from data.errors import DataError
from tests.trainer.tiny_training import (
    batches_from,
    make_config,
    make_network,
    read_scalars,
    train_tiny,
)
from trainer import training


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """An uninterrupted run of six steps: folder, network and last losses."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, *train_tiny(folder, make_config())


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(uninterrupted, tmp_path):
    folder, network, last = uninterrupted

    class Killed(Exception):
        pass

    def killed_after_five(first_step, context):
        for number, batch in enumerate(batches_from(first_step)):
            if number == 5:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        train_tiny(tmp_path, make_config(), killed_after_five)
    started_at = []

    def batches(first_step, context):
        started_at.append(first_step)
        return batches_from(first_step)

    # A new network, with different weights until the checkpoint is read.
    resumed, resumed_last = train_tiny(tmp_path, make_config(), batches, make_network(seed=99))
    assert started_at == [3]
    assert resumed_last == last
    assert read_scalars(tmp_path, "loss/total") == read_scalars(folder, "loss/total")
    for value, other in zip(network.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_finished_run_does_nothing_more(uninterrupted):
    folder, network, _ = uninterrupted
    again, losses = train_tiny(folder, make_config(), lambda *_: pytest.fail("no batch is needed"))
    assert losses is None
    for value, other in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_disk_that_is_too_full_for_logs_loses_nothing(uninterrupted, tmp_path, monkeypatch):
    # Log lines may go to a file too.
    monkeypatch.setattr(training._log, "disabled", True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full_from_step_5_on(first_step, context):
        for number, batch in enumerate(batches_from(first_step), start=1):
            if number == 5:
                # Writing beyond the limit fails like on a full disk.
                resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            yield batch

    try:
        with pytest.raises(
            DataError, match=rf"^{tmp_path}/logs: .* \({tmp_path}/.* File too large\). Free disk"
        ):
            train_tiny(tmp_path, make_config(), full_from_step_5_on)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _, network, last = uninterrupted
    resumed, resumed_last = train_tiny(tmp_path, make_config(), network=make_network(seed=99))
    assert resumed_last == last
    for value, other in zip(network.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


_EVERY_OPTION = {
    "schedule": "cosine",
    "double_bias_rate": True,
    "ema": 0.8,
    "precision": "mixed_float16",
}


@pytest.fixture(scope="module")
def with_every_option(tmp_path_factory):
    """Six steps, each with a checkpoint: folder, network and last losses."""
    folder = tmp_path_factory.mktemp("options")
    config = make_config(checkpoint_every=1, keep_checkpoints=6, **_EVERY_OPTION)
    return folder, *train_tiny(folder, config, network=make_network(precision="mixed_float16"))


def test_resume_is_exact_with_every_option(with_every_option, tmp_path):
    folder, network, last = with_every_option
    (tmp_path / "ckpt").mkdir()
    shutil.copy(folder / "ckpt" / "step-00000003.npz", tmp_path / "ckpt")
    other = make_network(seed=99, precision="mixed_float16")
    resumed, resumed_last = train_tiny(tmp_path, make_config(**_EVERY_OPTION), network=other)
    assert resumed_last == last
    losses = read_scalars(folder, "loss/total")
    assert read_scalars(tmp_path, "loss/total") == {step: losses[step] for step in (4, 5, 6)}
    for value, other in zip(network.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)
    # A finished run restores the same averages.
    again, losses = train_tiny(
        tmp_path, make_config(**_EVERY_OPTION), network=make_network(seed=98)
    )
    assert losses is None
    for value, other in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(value, other)


def test_trained_weights_are_the_averages_over_the_steps(with_every_option):
    """The stored ones; test_trainer_moving_averages.py checks their values with numpy."""
    folder, network, _ = with_every_option
    with np.load(folder / "ckpt" / "step-00000006.npz") as stored:
        averages = [stored[name] for name in stored.files if name.endswith("_average")]
        last = [stored[f"{i}:{v.path}"] for i, v in enumerate(network.variables)]
    first = make_network(precision="mixed_float16").get_weights()
    for variable, average, *others in zip(network.variables, averages, last, first, strict=True):
        np.testing.assert_array_equal(convert_to_numpy(variable), average)
        for value in others:
            assert len(value.shape) == 1 or np.abs(average - value).max() > 1e-5
