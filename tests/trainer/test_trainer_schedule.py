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
