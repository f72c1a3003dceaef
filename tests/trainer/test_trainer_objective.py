"""The optimiser's steps, compared with numpy."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy

from trainer.config import TrainerConfig
from trainer.objective import make_optimizer

_STEPS = 4


def _config(**fields):
    return TrainerConfig(
        **{
            "steps": 10,
            "learning_rate": 0.1,
            "warmup_steps": 2,
            "warmup_learning_rate": 0.05,
            "learning_rate_steps": (0.3,),
            "weight_decay": 0.2,
            **fields,
        }
    )


_RATES = (0.05, 0.075, 0.1, 0.01)


def _variables():
    """A kernel, its bias and a normalisation's scale."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 2), "bias": (2,), "gamma": (2,)}
    return [
        keras.Variable(rng.normal(size=shape).astype(np.float32), name=name)
        for name, shape in shapes.items()
    ]


def _gradients():
    rng = np.random.default_rng(1)
    shapes = ((3, 2), (2,), (2,))
    return [[rng.normal(size=s).astype(np.float32) for s in shapes] for _ in range(_STEPS)]


def _expected(config):
    """Values after the steps: clipping, decay and momentum, in this order."""
    values = [convert_to_numpy(v).astype(np.float64) for v in _variables()]
    speeds = [0.0] * 3
    for rate, gradients in zip(_RATES, _gradients(), strict=True):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
        scale = min(1.0, config.clip_norm / norm) if config.clip_norm else 1.0
        for index, gradient in enumerate(gradients):
            decay = config.weight_decay * values[index] if index == 0 else 0.0
            own_rate = rate * (2 if index == 1 and config.double_bias_rate else 1)
            speeds[index] = config.momentum * speeds[index] - own_rate * (scale * gradient + decay)
            values[index] = values[index] + speeds[index]
    return values


def _step_all(config, loss_scale=1.0):
    variables = _variables()
    optimizer = make_optimizer(config)
    optimizer.build(variables)
    for gradients in _gradients():
        optimizer.apply([g * np.float32(loss_scale) for g in gradients], variables)
    return optimizer, variables


@pytest.mark.parametrize(
    "fields",
    [{}, {"double_bias_rate": True}, {"clip_norm": 1.5, "double_bias_rate": True, "momentum": 0.5}],
    ids=["plain", "biases", "all"],
)
def test_steps_equal_numpy(fields):
    config = _config(**fields)
    _, variables = _step_all(config)
    for variable, value in zip(variables, _expected(config), strict=True):
        np.testing.assert_allclose(convert_to_numpy(variable), value, rtol=1e-5)


def test_scaled_losses_give_the_same_steps():
    config = _config(precision="mixed_float16", clip_norm=1.5)
    scale = float(make_optimizer(config).scale_loss(1.0))
    assert scale > 1
    _, variables = _step_all(config, scale)
    for variable, value in zip(variables, _expected(config), strict=True):
        np.testing.assert_allclose(convert_to_numpy(variable), value, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_step_that_overflows_is_skipped_and_the_scale_halved(bad):
    optimizer, variables = _step_all(_config(precision="mixed_float16"), 2.0**15)
    before = [convert_to_numpy(v) for v in (*variables, *optimizer.inner_optimizer.variables)]
    scale = float(optimizer.scale_loss(1.0))
    gradients = _gradients()[0]
    gradients[1] = gradients[1] * np.float32(bad)
    optimizer.apply(gradients, variables)
    after = [convert_to_numpy(v) for v in (*variables, *optimizer.inner_optimizer.variables)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(optimizer.scale_loss(1.0)) == scale / 2


def test_other_precisions_do_not_scale():
    for precision in ("float32", "mixed_bfloat16"):
        assert float(make_optimizer(_config(precision=precision)).scale_loss(3.0)) == 3.0


def test_the_backbone_has_its_own_rate():
    config = _config(
        detector="ssd300-lite0",
        backbone_rate=0.1,
        double_bias_rate=True,
        weight_decay=0.0,
        warmup_steps=0,
        momentum=0.0,
    )
    layers = [keras.layers.Dense(1, name=name) for name in ("stem", "block12_project", "lateral0")]
    for layer in layers:
        layer.build((2,))
    variables = [*(layer.kernel for layer in layers), layers[0].bias]
    before = [convert_to_numpy(variable) for variable in variables]
    optimizer = make_optimizer(config)
    optimizer.build(variables)
    optimizer.apply([np.ones(value.shape, np.float32) for value in before], variables)
    pairs = zip(before, variables, strict=True)
    moved = [float(np.mean(value - convert_to_numpy(variable))) for value, variable in pairs]
    np.testing.assert_allclose(moved, [0.01, 0.01, 0.1, 0.02], rtol=1e-4)
