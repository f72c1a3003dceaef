"""Training steps are the same on JAX as on TensorFlow."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy

from trainer.moving_averages import MovingAverages
from trainer.objective import make_optimizer
from trainer.training import make_step

SCRIPT = Path(__file__).with_name("jax_steps.py")
ROOT = SCRIPT.parents[2]
# Padded rows, a tiny object, one that fills the picture, and a picture without objects.
BOXES = np.float32(
    [
        [[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.9], [0.02, 0.9, 0.05, 0.93]],
        [[0.0, 0.0, 1.0, 1.0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]
)
LABELS = np.int32([[1, 3, 2], [2, 0, 0], [0, 0, 0]])
STEPS = 2


def tensorflow_steps(images):
    """Initial weights, losses of each step, final weights and their averages."""
    script = runpy.run_path(str(SCRIPT))
    keras.utils.set_random_seed(3)
    network, anchors = script["build"](images.shape[1])
    start = network.get_weights()
    optimizer = make_optimizer(script["CONFIG"])
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, script["CONFIG"].ema)
    step = make_step(network, optimizer, averages, anchors, script["CONFIG"])
    losses = [[float(value) for value in step(images, BOXES, LABELS)] for _ in range(STEPS)]
    return start, losses, network.get_weights(), [*map(convert_to_numpy, averages.variables)]


# The pyramid's last map has one cell: normalising over three pictures amplifies rounding errors.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "tolerance"),
    [
        pytest.param(128, 1e-4, id="small"),
        pytest.param(96, 1e-3, id="lite0", marks=pytest.mark.e2e),
        pytest.param(64, 1e-4, id="vgg16", marks=pytest.mark.e2e),
    ],
)
def test_same_losses_and_weights_as_on_tensorflow(tmp_path, size, tolerance):
    images = np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    start, losses, weights, averages = tensorflow_steps(images)
    given = {"images": images, "boxes": BOXES, "labels": LABELS, "steps": STEPS}
    np.savez(tmp_path / "in.npz", **given, **{f"weight{i}": w for i, w in enumerate(start)})
    subprocess.run(
        [sys.executable, SCRIPT, "in.npz", "out.npz"],
        check=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            # Compilation takes most of the time; two steps need no fast code.
            "XLA_FLAGS": "--xla_backend_optimization_level=0 "
            "--xla_llvm_disable_expensive_passes=true",
            "PYTHONPATH": str(ROOT),
        },
    )
    found = np.load(tmp_path / "out.npz")
    assert not found["tensorflow"]
    total, _, _, positives = losses[0]
    assert positives > 2
    assert losses[-1][0] < total
    np.testing.assert_allclose(found["losses"][0], losses[0], rtol=1e-5)
    # The second loss depends on the first step's whole update.
    np.testing.assert_allclose(found["losses"], losses, rtol=tolerance)
    for name, values in (("weight", weights), ("average", averages)):
        for index, (before, after) in enumerate(zip(start, values, strict=True)):
            # Single values may differ more: rounding decides which side of a ReLU they are on.
            difference = np.linalg.norm(found[f"{name}{index}"] - after)
            assert difference <= 0.05 * np.linalg.norm(after - before) + 1e-6
