"""The cost of a training step on the CPU: the network, and everything else.

    python -m benchmarks.train_step [--preset ssd300-voc] [--batch 8] [--rounds N] [--json FILE]

Everything else is matching, hard negative mining, loss with its gradients, and the optimiser. With
`--preset light --batch 16`, and TORCH_PYTHON set to a Python with torch and numpy, the whole step
is also compared with the same step in plain PyTorch (`benchmarks/torch_light.py`).
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.drawn import training_batch
from benchmarks.report import Bound, report
from benchmarks.side_by_side import Task, measure, ratio

_CLASSES = 20
_VGG, _LIGHT = "ssd300-voc", "light"
_TORCH = "the same step in PyTorch"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step")
    parser.add_argument("--preset", default=_VGG, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="pictures (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    tasks = {
        "whole step": Task(_whole, (options.preset, options.batch)),
        "matching, mining and loss": Task(_objective, (options.preset, options.batch)),
        "optimiser": Task(_optimiser, (options.preset,)),
    }
    torch = os.environ.get("TORCH_PYTHON") if options.preset == _LIGHT else None
    if torch:
        tasks[_TORCH] = Task(_in_torch, (options.preset, options.batch, torch))
    measured = measure(tasks, options.rounds)
    in_torch = measured.pop(_TORCH, None)
    step = measured["whole step"]
    shares = {name: ratio(found, step) for name, found in measured.items()}
    rest = sum(share for name, share in shares.items() if name != "whole step")
    rows = [
        {
            "what": name,
            "seconds": found.median,
            "CPU seconds": found.cpu_median,
            "share of the step": shares[name],
            "peak memory MiB": found.peak_mib,
        }
        for name, found in measured.items()
    ]
    network = {
        "what": "network (the rest)",
        "seconds": (1 - rest) * step.median,
        "CPU seconds": "",
    }
    rows.append({**network, "share of the step": 1 - rest, "peak memory MiB": ""})
    bounds = [Bound("all but the network, share of the step", rest, most=0.1)]
    if in_torch:
        # It runs in a child process, whose CPU time is not measured.
        seconds = {"what": _TORCH, "seconds": in_torch.median, "CPU seconds": ""}
        rows.append({**seconds, "share of the step": "", "peak memory MiB": ""})
        speed = ratio(in_torch, step)
        bounds.append(Bound("pictures/s against PyTorch", speed, least=1.0))
    title = f"training step of {options.preset}, batch {options.batch}"
    return report(title, rows, bounds, options.json)


def _parts(preset: str):
    """(configuration, detector spec, network) of a preset, with random weights."""
    from pipeline.config import PRESETS
    from trainer.detector import build_network, detector_spec, freeze_stages

    config = PRESETS[preset].trainer
    if config.steps is None:
        config = dataclasses.replace(config, steps=1000, epochs=None)
    if config.warmup_steps is None:
        config = dataclasses.replace(config, warmup_steps=100, warmup_fraction=None)
    spec = detector_spec(config)
    network = build_network(spec, _CLASSES)
    freeze_stages(network, spec, config.frozen_stages)
    return config, spec, network


def _in_torch(preset: str, pictures: int, python: str):
    import numpy as np

    from pipeline.config import PRESETS
    from trainer.anchors import anchor_boxes
    from trainer.detector import detector_spec

    spec = detector_spec(PRESETS[preset].trainer).anchors
    names = ("images", "boxes", "labels")
    batch = dict(zip(names, training_batch(pictures, spec.image_size, _CLASSES), strict=True))
    with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
        np.savez(file, **batch, anchors=anchor_boxes(spec))
    script = Path(__file__).with_name("torch_light.py")
    process = subprocess.Popen(
        [python, str(script), file.name, str(_CLASSES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def step():
        print(file=process.stdin, flush=True)
        answer = process.stdout.readline()
        # The file has been read by now.
        Path(file.name).unlink(missing_ok=True)
        return answer

    return step


def _whole(preset: str, pictures: int):
    from trainer.anchors import anchor_boxes
    from trainer.moving_averages import MovingAverages
    from trainer.objective import make_optimizer
    from trainer.training import make_step

    config, spec, network = _parts(preset)
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, config.ema)
    step = make_step(network, optimizer, averages, anchor_boxes(spec.anchors), config)
    batch = training_batch(pictures, spec.anchors.image_size, _CLASSES)
    return lambda: [float(value) for value in step(*batch)]


def _objective(preset: str, pictures: int):
    import tensorflow as tf

    from pipeline.config import PRESETS
    from trainer.anchors import anchor_boxes
    from trainer.detector import detector_spec
    from trainer.objective import objective

    config = PRESETS[preset].trainer
    spec = detector_spec(config).anchors
    anchors = anchor_boxes(spec)
    _, boxes, labels = training_batch(pictures, spec.image_size, _CLASSES)
    codes = tf.random.normal([pictures, len(anchors), 4], seed=0)
    logits = tf.random.normal([pictures, len(anchors), 1 + _CLASSES], seed=1)

    @tf.function
    def loss_and_gradients(codes, logits, boxes, labels):
        with tf.GradientTape() as tape:
            tape.watch((codes, logits))
            total, *_ = objective((codes, logits), boxes, labels, anchors, config)
        # Summed, so that the gradients are computed but not copied.
        gradients = tape.gradient(total, (codes, logits))
        return total, [tf.reduce_sum(gradient) for gradient in gradients]

    return lambda: float(loss_and_gradients(codes, logits, boxes, labels)[0])


def _optimiser(preset: str):
    import tensorflow as tf

    from trainer.objective import make_optimizer

    config, _, network = _parts(preset)
    variables = network.trainable_variables
    optimizer = make_optimizer(config)
    optimizer.build(variables)
    gradients = [tf.random.normal(variable.shape, stddev=1e-3) for variable in variables]

    @tf.function
    def apply(*gradients):
        optimizer.apply(list(gradients), variables)

    def action():
        apply(*gradients)
        # Waits for the update.
        return variables[-1].numpy()

    return action


if __name__ == "__main__":
    sys.exit(main())
