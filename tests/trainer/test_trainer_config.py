import keras
import pytest

from trainer.config import TrainerConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": "32"}, "trainer.batch_size: '32' must be a whole number"),
        ({"batch_size": 2.0}, "trainer.batch_size: 2.0 must be a whole number"),
        ({"steps": True}, "trainer.steps: True must be a whole number"),
        ({"learning_rate": "fast"}, "trainer.learning_rate: 'fast' must be a number"),
        ({"double_bias_rate": 1}, "trainer.double_bias_rate: 1 must be true or false"),
        ({"detector": None}, "trainer.detector: None must be text"),
        ({"learning_rate_steps": 0.5}, "trainer.learning_rate_steps: 0.5 must be a tuple"),
        ({"learning_rate_steps": ("a",)}, "trainer.learning_rate_steps: 'a' must be a number"),
        ({"schedule": "linear"}, "trainer.schedule: 'linear' .* steps, cosine"),
        ({"precision": "float16"}, "trainer.precision: 'float16' .*mixed_bfloat16"),
        ({"seed": 2**32}, "trainer.seed: 4294967296 must be at most 4294967295"),
        ({"shuffle_buffer": 10**12}, "trainer.shuffle_buffer: 1000000000000 must be at most"),
        ({"ema": 1.0}, r"trainer.ema: 1.0 must be in \[0, 1\)"),
        ({"ema": float("nan")}, "trainer.ema"),
        ({"schedule": "cosine", "steps": 500}, "trainer.warmup_steps: 500 must be less than"),
    ],
)
def test_values_of_the_wrong_type_or_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**fields)


def test_the_largest_seed_is_one():
    keras.utils.set_random_seed(TrainerConfig(seed=2**32 - 1).seed)


def test_a_whole_number_is_a_number():
    assert TrainerConfig(learning_rate=1, clip_norm=10).learning_rate == 1
