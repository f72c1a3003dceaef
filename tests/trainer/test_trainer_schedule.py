import math

import pytest

from trainer.config import TrainerConfig
from trainer.schedule import LearningRate


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.01),
        (50, 0.055),
        (99, 0.0991),
        (100, 0.1),
        (499, 0.1),
        (500, 0.01),
        (799, 0.01),
        (800, 0.001),
        (5000, 0.001),
    ],
)
def test_warm_up_plateau_and_steps(step, rate):
    config = TrainerConfig(
        steps=1000,
        learning_rate=0.1,
        warmup_steps=100,
        warmup_learning_rate=0.01,
        learning_rate_steps=(0.5, 0.8),
    )
    assert float(LearningRate(config)(step)) == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 1e-4), (500, 1e-3), (79_999, 1e-3), (80_000, 1e-4), (99_999, 1e-4), (100_000, 1e-5)],
)
def test_the_defaults_are_the_papers(step, rate):
    assert float(LearningRate(TrainerConfig())(step)) == pytest.approx(rate, rel=1e-5)


def test_no_warm_up_and_no_steps():
    schedule = LearningRate(
        TrainerConfig(steps=10, learning_rate=0.5, warmup_steps=0, learning_rate_steps=())
    )
    assert [float(schedule(step)) for step in (0, 5, 9)] == [0.5] * 3


def test_cosine_after_the_warm_up():
    config = TrainerConfig(
        schedule="cosine",
        steps=300,
        learning_rate=0.2,
        warmup_steps=100,
        warmup_learning_rate=0.1,
        learning_rate_steps=(0.5,),
    )
    schedule = LearningRate(config)
    assert [float(schedule(step)) for step in (0, 50, 100)] == pytest.approx([0.1, 0.15, 0.2])
    for step in (101, 150, 200, 250, 299):
        wanted = 0.2 * (1 + math.cos(math.pi * (step - 100) / 200)) / 2
        assert float(schedule(step)) == pytest.approx(wanted, rel=1e-3)
    assert float(schedule(200)) == pytest.approx(0.1)
    assert float(schedule(300)) == float(schedule(400)) == pytest.approx(0, abs=1e-8)
