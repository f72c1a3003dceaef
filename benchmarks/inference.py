"""The cost of a picture in SSD300-VGG16 on a CPU core: network and post-processing.

    python -m benchmarks.inference [--rounds N] [--json FILE]

Post-processing depends on how many anchors reach the score threshold. `usual` is like a trained
network, which recognises background; with `worst` every class reaches the threshold at every
anchor. The network of the preset `light` is timed in the same run.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.report import Bound, report
from benchmarks.side_by_side import Task, cpu_ratio, measure

_CLASSES = 20
# Background's logit above the classes'; about 1 % of the scores then reach 0.01.
_USUAL_MARGIN = 7.0
_LIGHT = "network of the preset light"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    tasks = {
        "network": Task(_network, ("ssd300-vgg16",), cores=1),
        _LIGHT: Task(_network, ("ssd300-lite0",), cores=1),
        "post-processing, usual": Task(_post_processing, (_USUAL_MARGIN,), cores=1),
        "post-processing, worst": Task(_post_processing, (0.0,), cores=1),
    }
    measured = measure(tasks, options.rounds)
    network = measured["network"]
    rows, bounds = [], []
    for name, found in measured.items():
        quotient = cpu_ratio(found, network)
        rows.append(
            {
                "what": name,
                "milliseconds": 1000 * found.median,
                "CPU milliseconds": 1000 * found.cpu_median,
                "peak memory MiB": found.peak_mib,
            }
        )
        if name == _LIGHT:
            bounds.append(Bound("network of light, of VGG-16's time", quotient, most=1 / 8))
        elif found is not network:
            share = quotient / (1 + quotient)
            bounds.append(Bound(f"{name}, share of the whole", share, most=0.05))
    return report("SSD300-VGG16, one picture on one core", rows, bounds, options.json)


def _network(detector: str):
    import tensorflow as tf

    from trainer.config import TrainerConfig
    from trainer.detector import build_network, detector_spec

    spec = detector_spec(TrainerConfig(detector=detector))
    network = build_network(spec, _CLASSES)
    images = tf.random.uniform([1, *network.input_shape[1:]], 0, 255, seed=0)
    forward = tf.function(lambda images: network(images, training=False))
    return lambda: [output.numpy() for output in forward(images)]


def _post_processing(margin: float):
    import tensorflow as tf

    from trainer.anchors import SSD300, anchor_boxes
    from trainer.config import TrainerConfig
    from trainer.postprocessing import detect

    config = TrainerConfig()
    anchors = tf.constant(anchor_boxes(SSD300))
    names = [f"class{number}" for number in range(_CLASSES)]
    codes = tf.random.normal([1, len(anchors), 4], seed=0)
    logits = tf.random.normal([1, len(anchors), 1 + _CLASSES], seed=1)
    if margin:
        logits += tf.one_hot(0, 1 + _CLASSES) * margin
    else:
        logits *= 0.1
        assert bool(tf.reduce_all(tf.nn.softmax(logits) > config.score_threshold))
    find = tf.function(lambda codes, logits: detect(codes, logits, anchors, names, config))
    return lambda: [output.numpy() for output in find(codes, logits).values()]


if __name__ == "__main__":
    sys.exit(main())
