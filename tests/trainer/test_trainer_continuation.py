"""A longer training takes over the state of a finished one."""

import dataclasses
import errno
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from data.errors import DataError
from trainer import checkpoints, export, run, selection
from trainer.config import TrainerConfig
from trainer.continuation import continue_finished
from trainer.files import BEST_FILE, SUMMARY

# Four steps at one rate.
SHORT = TrainerConfig(
    detector="ssd128-small",
    augmentation="none",
    batch_size=2,
    steps=4,
    warmup_steps=1,
    learning_rate_steps=(),
    checkpoint_every=2,
)
_BOX = [0.25, 0.25, 0.75, 0.75]


def _identity(config=SHORT, **facts):
    return {
        "trainer": dataclasses.asdict(config),
        "code_version": "1",
        "data": {"train_records": 4},
        **facts,
    }


@pytest.fixture
def finish(tmp_path):
    """Makes a finished training's `model_run`, with checkpoints and optionally a best one."""

    def finish(identity, steps=(2, 4), best=None, name="1", ended=1):
        folder = tmp_path / "model_run" / name
        (folder / "logs").mkdir(parents=True)
        (folder / "logs" / "events").touch()
        for step in steps:
            checkpoints.save(folder / "checkpoints", step, [], keep=9)
        if best:
            selection.keep_if_best(folder / "checkpoints", best, 0.5, [])
        (folder / SUMMARY).write_text(json.dumps({**identity, "losses": None}))
        os.utime(folder / SUMMARY, (ended, ended))
        return folder

    return finish


@pytest.fixture
def taken(tmp_path):
    """The files that a new training takes over."""

    def taken(identity):
        work_dir = tmp_path / "work" / "new"
        continue_finished(work_dir, tmp_path / "model_run" / "9", identity)
        return sorted(
            str(path.relative_to(work_dir)) for path in work_dir.rglob("*") if path.is_file()
        )

    return taken


@pytest.fixture
def logged(messages):
    """What was logged; `messages` has everything once per handler."""
    return lambda: list(dict.fromkeys(messages()))


def _longer(**fields):
    return _identity(dataclasses.replace(SHORT, **{"steps": 8, **fields}))


_LAST = ["checkpoints/step-00000004.npz", "logs/events"]


def test_a_longer_training_takes_the_last_checkpoint_and_the_logs(finish, taken, logged):
    folder = finish(_identity())
    assert taken(_longer(log_every=7)) == _LAST
    (text,) = logged()
    assert f"continues the finished training of 4 steps in {folder}: same data" in text


@pytest.mark.parametrize(
    ("short", "longer", "found"),
    [
        # The rates differ after one step, or after three.
        ({"learning_rate_steps": (0.25,)}, {"learning_rate_steps": (0.25,)}, []),
        ({"learning_rate_steps": (0.75,)}, {"learning_rate_steps": (0.75,)}, [2]),
        # The rate falls only where the first training ended.
        ({}, {"learning_rate_steps": (0.5,)}, [4]),
        ({}, {"learning_rate_steps": (0.375,)}, [2]),
        # No longer than the first.
        ({}, {"steps": 4, "learning_rate_steps": (0.5,)}, [2]),
        ({"warmup_steps": 0}, {"warmup_steps": 0, "schedule": "cosine"}, []),
        # A longer cosine falls more slowly from its first step on.
        ({"schedule": "cosine", "warmup_steps": 0}, {"schedule": "cosine", "warmup_steps": 0}, []),
        ({"schedule": "cosine"}, {"schedule": "cosine"}, [2]),
        ({}, {"learning_rate": 0.1}, []),
        ({}, {"warmup_steps": 2}, []),
        ({}, {"warmup_steps": 2, "warmup_learning_rate": 1e-3}, []),
        ({"learning_rate": 1e-4}, {"learning_rate": 1e-4, "warmup_steps": 3}, [4]),
    ],
)
def test_only_steps_with_the_same_rates_are_taken(finish, taken, logged, short, longer, found):
    finish(_identity(dataclasses.replace(SHORT, **short)))
    files = taken(_longer(**longer))
    assert [name for name in files if "step-" in name] == [
        f"checkpoints/step-{step:08d}.npz" for step in found
    ]
    assert ("logs/events" in files) == (found == [4])
    if not found:
        assert "learning rates are the same for " in logged()[0]
        assert logged()[0].endswith("To start from its weights, set trainer.warm_start")


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (_longer(seed=1, momentum=0.5), "trainer.momentum, trainer.seed"),
        ({**_longer(), "code_version": "2"}, "code_version"),
        ({**_longer(), "data": {"train_records": 5}}, "data"),
        ({**_longer(), "classes": ["dog"]}, "classes"),
    ],
)
def test_other_settings_data_or_code_start_over_and_are_named(finish, taken, logged, wanted, named):
    folder = finish(_identity())
    assert taken(wanted) == []
    assert logged() == [
        f"  new training; the finished one in {folder} cannot be continued: it differs in {named}"
    ]


def test_missing_checkpoints_and_shorter_trainings_are_reported(finish, taken, logged):
    finish(_identity(), steps=())
    assert taken(_longer()) == []
    assert "its checkpoints are gone" in logged()[0]
    assert taken(_longer(steps=3)) == []
    assert "it has more steps (4)" in logged()[1]


@pytest.mark.parametrize(
    ("before", "now", "continues"), [(0, 0, True), (2, 2, True), (2, 3, True), (2, 0, True),
                                   (3, 2, False), (0, 2, False)],
)  # fmt: skip
def test_a_training_that_might_have_stopped_earlier_starts_over(
    finish, taken, logged, before, now, continues
):
    finish(_identity(dataclasses.replace(SHORT, eval_every=2, patience=before)), best=2)
    assert bool(taken(_longer(eval_every=2, patience=now))) == continues
    assert ("might have stopped" in logged()[0]) != continues


@pytest.mark.parametrize(
    ("eval_every", "best", "continues"),
    [
        (2, 2, True),
        (2, 4, True),
        # Measured only as the last step.
        (3, 4, False),
        (3, 3, True),
        (2, None, False),
    ],
)
def test_the_best_weights_must_also_be_the_longer_trainings(
    finish, taken, logged, eval_every, best, continues
):
    finish(_identity(dataclasses.replace(SHORT, eval_every=eval_every)), best=best)
    files = taken(_longer(eval_every=eval_every))
    assert (f"checkpoints/{BEST_FILE}" in files) == continues == (_LAST[0] in files)
    assert ("its best weights are " in logged()[0]) != continues


def test_the_best_weights_of_steps_with_other_rates_are_not_taken(finish, taken):
    falls = {"eval_every": 2, "learning_rate_steps": (0.75,)}
    finish(_identity(dataclasses.replace(SHORT, **falls)), best=4)
    assert taken(_longer(**falls)) == []


def test_a_repeated_training_is_trained_again(finish, taken, logged):
    finish(_identity(), name="1")
    finish(_longer(), name="2")
    assert taken(_longer()) == []
    assert logged() == []


def test_the_newest_fitting_training_is_taken(finish, taken, tmp_path):
    finish(_identity(), name="7", ended=7)
    finish(_identity(dataclasses.replace(SHORT, steps=6)), (4, 6), name="8", ended=8)
    finish(_longer(seed=1), name="6", ended=9)
    for text in ("{}", "[]", "{"):
        folder = tmp_path / "model_run" / f"x{len(text)}{text[-1]}"
        folder.mkdir()
        (folder / SUMMARY).write_text(text)
    assert taken(_longer())[0] == "checkpoints/step-00000006.npz"


def test_a_trainings_own_checkpoints_come_first(finish, taken, tmp_path):
    finish(_identity())
    (tmp_path / "work" / "new" / "checkpoints").mkdir(parents=True)
    assert taken(_longer()) == []


def test_a_training_without_logs_can_be_continued(finish, taken):
    shutil.rmtree(finish(_identity()) / "logs")
    assert taken(_longer()) == _LAST[:1]


def test_a_run_does_not_continue_itself(finish, taken):
    finish(_identity(), name="9")
    assert taken(_longer()) == []


def test_the_state_is_taken_completely_or_not_at_all(finish, taken, tmp_path, monkeypatch):
    finish(_identity())

    def no_room(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(shutil, "copytree", no_room)
        with pytest.raises(DataError, match=r"work/new: .*No space left on device.*Free disk"):
            taken(_longer())
    assert not (tmp_path / "work" / "new").exists()
    assert taken(_longer()) == _LAST


@pytest.mark.e2e
@pytest.mark.usefixtures("tiny_detector")
def test_a_continued_training_equals_one_from_scratch(
    make, transform_folder, sample_classes, tmp_path, monkeypatch, messages
):
    monkeypatch.setattr(export, "export", lambda *_: None)
    picture = make.encode(np.full((32, 32, 3), 200, np.uint8))
    records = [make.record(n, picture, [_BOX], sample_classes[:1]) for n in range(5)]
    make.write_shards(tmp_path / "data", records)

    def trained(folder, name, steps):
        config = dataclasses.replace(SHORT, steps=steps, eval_every=2, ema=0.5)
        run.run_fn(
            SimpleNamespace(
                custom_config={
                    "preset": "tiny",
                    "code_version": "1",
                    "classes": sample_classes,
                    "trainer": dataclasses.asdict(config),
                    "work_dir": str(tmp_path / folder / "work"),
                },
                train_files=[f"{tmp_path}/data/*"],
                eval_files=[f"{tmp_path}/data/*"],
                transform_graph_path=str(transform_folder),
                model_run_dir=str(tmp_path / folder / "model_run" / name),
                serving_model_dir=str(tmp_path / folder / "model"),
                base_model=None,
                hyperparameters=None,
            )
        )
        run_dir = tmp_path / folder / "model_run" / name
        with np.load(run_dir / "checkpoints" / f"step-{steps:08d}.npz") as stored:
            state = {key: stored[key] for key in stored.files}
        return json.loads((run_dir / SUMMARY).read_text()), state

    trained("one", "1", 4)
    summary, state = trained("one", "2", 8)
    assert any("train resume step=4" in text for text in messages())
    whole, state_of_whole = trained("other", "1", 8)
    assert summary == whole
    assert state.keys() == state_of_whole.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(value, state_of_whole[key])
    assert len(list((tmp_path / "one" / "model_run" / "2" / "logs").glob("events*"))) == 2
