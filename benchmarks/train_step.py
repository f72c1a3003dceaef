"""What a training step of SSD300-VGG16 costs on the CPU: the network, and all the rest.

    python -m benchmarks.train_step [--batch 8] [--rounds N] [--json FILE]

The rest is matching, hard negative mining, loss with its gradients, and the optimiser.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.drawn import training_batch
from benchmarks.report import Bound, report
from benchmarks.side_by_side import Task, measure, ratio

_CLASSES = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step")
    parser.add_argument("--batch", type=int, default=8, help="pictures (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    tasks = {
        "whole step": Task(_whole, (options.batch,)),
        "matching, mining and loss": Task(_objective, (options.batch,)),
        "optimiser": Task(_optimiser),
    }
    measured = measure(tasks, options.rounds)
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
        "what": "network (what is left)",
        "seconds": (1 - rest) * step.median,
        "CPU seconds": "",
    }
    rows.append({**network, "share of the step": 1 - rest, "peak memory MiB": ""})
    bounds = [Bound("all but the network, share of the step", rest, most=0.1)]
    return report(f"training step, batch {options.batch}", rows, bounds, options.json)


def _parts():
    """(configuration, layout, network) of SSD300 on VGG-16 with random weights."""
    from trainer.config import TrainerConfig
    from trainer.detector import build_network, detector_spec

    config = TrainerConfig()
    spec = detector_spec(config)
    return config, spec, build_network(spec, _CLASSES)


def _whole(pictures: int):
    from trainer.anchors import anchor_boxes
    from trainer.moving_averages import MovingAverages
    from trainer.objective import make_optimizer
    from trainer.training import make_step

    config, spec, network = _parts()
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, config.ema)
    step = make_step(network, optimizer, averages, anchor_boxes(spec.anchors), config)
    batch = training_batch(pictures, spec.anchors.image_size, _CLASSES)
    return lambda: [float(value) for value in step(*batch)]


def _objective(pictures: int):
    import tensorflow as tf

    from trainer.anchors import SSD300, anchor_boxes
    from trainer.config import TrainerConfig
    from trainer.objective import objective

    config = TrainerConfig()
    anchors = anchor_boxes(SSD300)
    _, boxes, labels = training_batch(pictures, SSD300.image_size, _CLASSES)
    codes = tf.random.normal([pictures, len(anchors), 4], seed=0)
    logits = tf.random.normal([pictures, len(anchors), 1 + _CLASSES], seed=1)

    @tf.function
    def loss_and_gradients(codes, logits, boxes, labels):
        with tf.GradientTape() as tape:
            tape.watch((codes, logits))
            total, *_ = objective((codes, logits), boxes, labels, anchors, config)
        # Summed up, so that the gradients have to be computed and need not be copied.
        gradients = tape.gradient(total, (codes, logits))
        return total, [tf.reduce_sum(gradient) for gradient in gradients]

    return lambda: float(loss_and_gradients(codes, logits, boxes, labels)[0])


def _optimiser():
    import tensorflow as tf

    from trainer.objective import make_optimizer

    config, _, network = _parts()
    variables = network.trainable_variables
    optimizer = make_optimizer(config)
    optimizer.build(variables)
    gradients = [tf.random.normal(variable.shape, stddev=1e-3) for variable in variables]

    @tf.function
    def apply(*gradients):
        optimizer.apply(list(gradients), variables)

    def action():
        apply(*gradients)
        # Waits until it is done.
        return variables[-1].numpy()

    return action


if __name__ == "__main__":
    sys.exit(main())
