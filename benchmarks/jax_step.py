"""The training speed of SSD300-VGG16 on JAX, also as a share of the chip's matrix rate.

    python -m benchmarks.jax_step [--batches 32 64 128 256] [--precision mixed_bfloat16]
        [--rounds N] [--matrix 8192] [--json FILE]

Meant for a GPU, but runs on any device that JAX finds: on a CPU use `--batches 2 --matrix 1024`.
The matrix rate is measured in the same run, with bfloat16 products of random square matrices; the
step's operations are XLA's count before optimisation. Batches are already on the device, so the
input pipeline (`benchmarks.input_pipeline`) is not included.
"""

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from benchmarks.drawn import training_batch  # noqa: E402
from benchmarks.report import Bound, report  # noqa: E402
from trainer.anchors import anchor_boxes  # noqa: E402
from trainer.config import PRECISIONS, TrainerConfig  # noqa: E402
from trainer.detector import build_network, detector_spec  # noqa: E402
from trainer.jax_step import initial_state, make_step  # noqa: E402
from trainer.moving_averages import MovingAverages  # noqa: E402
from trainer.objective import make_optimizer  # noqa: E402

_CLASSES = 20
# Products per timing, so that launching them does not count.
_PRODUCTS = 20
_LEAST_RATE, _LEAST_SHARE = 1000.0, 0.35


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jax_step", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128, 256], metavar="N")
    parser.add_argument("--precision", choices=PRECISIONS, default="mixed_bfloat16")
    parser.add_argument("--rounds", type=int, default=20, help="steps (default: %(default)s)")
    parser.add_argument("--matrix", type=int, default=8192, help="rows (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    matrix_rate = _matrix_rate(options.matrix, options.rounds)
    rows = [
        _measure(batch, options.precision, options.rounds, matrix_rate) for batch in options.batches
    ]
    best = max(rows, key=lambda row: row["images/s"])
    bounds = [
        Bound("images/s", best["images/s"], least=_LEAST_RATE),
        Bound("share of the matrix rate", best["share of it"], least=_LEAST_SHARE),
    ]
    device = jax.devices()[0].device_kind
    return report(f"training on JAX, {device}, {options.precision}", rows, bounds, options.json)


def _matrix_rate(size: int, rounds: int) -> float:
    """Operations per second of bfloat16 matrix products."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys)
    # Scaled, so that chained products neither grow nor vanish.
    product = jax.jit(lambda a, b: (a @ b) * size**-0.5)

    def chain():
        found = a
        for _ in range(_PRODUCTS):
            found = product(found, b)
        return found

    return _PRODUCTS * 2 * size**3 / _seconds(chain, rounds)


def _measure(batch: int, precision: str, rounds: int, matrix_rate: float) -> dict:
    config = TrainerConfig(batch_size=batch, precision=precision)
    spec = detector_spec(config)
    network = build_network(spec, _CLASSES, precision)
    optimizer = make_optimizer(config)
    averages = MovingAverages(network, config.ema)
    state = initial_state(network, optimizer, averages)
    data = [jnp.asarray(part) for part in training_batch(batch, spec.anchors.image_size, _CLASSES)]
    step = make_step(network, optimizer, averages, anchor_boxes(spec.anchors), config)
    lowered = step.lower(state, *data)
    operations = lowered.cost_analysis()["flops"]
    step = lowered.compile()

    def train():
        nonlocal state
        state, results = step(state, *data)
        return results

    seconds = _seconds(train, rounds)
    return {
        "what": f"batch {batch}",
        "ms a step": 1000 * seconds,
        "images/s": batch / seconds,
        "Gflop an image": operations / batch / 1e9,
        "Tflop/s": operations / seconds / 1e12,
        "matrix Tflop/s": matrix_rate / 1e12,
        "share of it": operations / seconds / matrix_rate,
        "peak memory MiB": _peak_mib(),
    }


def _seconds(action: Callable, rounds: int) -> float:
    """Median time of single runs, without the first two."""
    times = []
    for _ in range(2 + rounds):
        started = time.perf_counter()
        jax.block_until_ready(action())
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def _peak_mib() -> float:
    """Peak memory of the device since the start; of the process if the device is the CPU."""
    found = jax.devices()[0].memory_stats()
    if found:
        return found["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    sys.exit(main())
