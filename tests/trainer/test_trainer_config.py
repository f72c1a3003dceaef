import json
from dataclasses import asdict, replace

import keras
import pytest

from data.errors import DataError
from data.settings import parse
from trainer.config import TrainerConfig, in_steps, only_the_given


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 2.5}, "batch_size: 2.5 must be a whole number"),
        ({"steps": True}, "steps: True must be a number"),
        ({"learning_rate": False}, "learning_rate: False must be a number"),
        ({"double_bias_rate": 3}, "double_bias_rate: 3 must be true or false"),
        ({"detector": None}, "detector: None must be text"),
        ({"learning_rate_steps": 0.5}, "learning_rate_steps: 0.5 must be a list"),
        ({"learning_rate_steps": ["a"]}, "learning_rate_steps: 'a' must be a number"),
        ({"precision": "float16"}, "precision: 'float16' is unknown; did you mean .*mixed_float16"),
        ({"ema": 1.0}, "ema: 1.0 must be below 1"),
        ({"ema": float("nan")}, "ema: nan must be finite"),
        ({"stpes": 3}, "stpes: unknown setting; did you mean steps"),
        ({"patience": 2}, "patience: needs eval_every"),
        ({"frozen_stages": 2}, "frozen_stages: 2 stages of random weights"),
        ({"steps": 5, "epochs": 1}, "set either steps or epochs, not both"),
        ({"learning_rate_steps": [0.8, 0.2]}, "learning_rate_steps: .* must rise within"),
        ({"learning_rate_steps": [0.0]}, "learning_rate_steps: .* must rise within"),
        (
            {"schedule": "cosine", "steps": 5, "warmup_steps": 5},
            r"warmup_steps \(5\) must be less than steps \(5\)",
        ),
    ],
)
def test_invalid_values_are_errors(fields, message):
    with pytest.raises(ValueError):
        TrainerConfig(**fields)
    with pytest.raises(DataError, match=f"^{message}"):
        parse(TrainerConfig, fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"patience": 2, "eval_every": None, "eval_every_epochs": 1},
        {"frozen_stages": 2, "warm_start": "latest"},
        {"frozen_stages": 2, "backbone_weights": "imagenet"},
        {"learning_rate_steps": [0.5, 0.5, 1.0]},
        {"schedule": "cosine", "steps": 6, "warmup_steps": 5},
    ],
)
def test_values_just_inside_the_limits_are_valid(fields):
    parse(TrainerConfig, fields)


def test_the_defaults_are_the_papers():
    """The learning rate's are in test_trainer_schedule.py."""
    papers = {
        "detector": "ssd300-vgg16",
        "anchors": "paper",
        "augmentation": "paper",
        "use_difficult": True,
        "batch_size": 32,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "matching_iou": 0.5,
        "negatives_per_positive": 3,
        "score_threshold": 0.01,
        "candidates_per_class": 400,
        "nms_iou": 0.45,
        "max_detections": 200,
    }
    # The paper does none of this.
    neutral = {
        "backbone_rate": 1.0,
        "backbone_weights": "none",
        "double_bias_rate": False,
        "clip_norm": 0.0,
        "ema": 0.0,
        "eval_every": 0,
        "patience": 0,
        "frozen_stages": 0,
        "precision": "float32",
        "xla": False,
        "warm_start": "",
    }
    ours = {"seed": 0, "shuffle_buffer": 2048, "keep_checkpoints": 2}
    found = asdict(TrainerConfig())
    wanted = papers | neutral | ours
    assert {name: found[name] for name in wanted} == wanted


def test_configuration_survives_json():
    config = TrainerConfig(learning_rate_steps=(0.5, 0.75), ema=0.99)
    assert TrainerConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_keras_accepts_the_largest_seed():
    keras.utils.set_random_seed(TrainerConfig(seed=2**32 - 1).seed)


def test_integers_are_accepted_as_floats():
    assert TrainerConfig(learning_rate=1, clip_norm=10).learning_rate == 1


def test_lengths_in_epochs_and_shares_become_steps():
    config = TrainerConfig(
        batch_size=16,
        steps=None,
        epochs=2.5,
        warmup_steps=None,
        warmup_fraction=0.1,
        eval_every=None,
        eval_every_epochs=0.5,
    )
    found = in_steps(config, lambda: 205)
    # 205 / 16 is 12.8 steps per epoch.
    assert (found.steps, found.warmup_steps, found.eval_every) == (32, 3, 6)
    assert (found.epochs, found.warmup_fraction, found.eval_every_epochs) == (None, None, None)
    never = replace(config, eval_every_epochs=0)
    assert in_steps(never, lambda: 205).eval_every == 0
    tiny = in_steps(config, lambda: 1)
    assert (tiny.steps, tiny.warmup_steps, tiny.eval_every) == (1, 0, 1)


def test_lengths_in_steps_need_no_count_of_the_pictures():
    config = TrainerConfig(warmup_steps=None, warmup_fraction=0.5)
    found = in_steps(config, lambda: pytest.fail("counted"))
    assert (found.steps, found.warmup_steps) == (120_000, 60_000)


def test_steps_or_epochs_must_be_set():
    with pytest.raises(ValueError, match="set either steps or epochs, not both or neither"):
        TrainerConfig(steps=None)


def test_a_given_length_replaces_the_other_of_its_pair():
    values = {"steps": 5, "epochs": 2.0, "eval_every": 3}
    only_the_given(values, {"epochs"})
    assert values == {"steps": None, "epochs": 2.0, "eval_every": 3}
    # Both at once are an error later.
    values = {"steps": 5, "epochs": 2.0}
    only_the_given(values, {"steps", "epochs"})
    assert values == {"steps": 5, "epochs": 2.0}
