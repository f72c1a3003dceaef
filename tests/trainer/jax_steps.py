"""Training steps on JAX, in a separate process: `python jax_steps.py INPUT.npz OUTPUT.npz`.

Needs KERAS_BACKEND=jax in the environment. The test uses `build` from here too, so that both
backends train the same network.
"""

import sys

import numpy as np

from trainer.anchors import AnchorSpec, anchor_boxes
from trainer.backbones import efficientnet_lite, vgg16
from trainer.config import TrainerConfig
from trainer.detector import DetectorSpec, build_network, detector_spec
from trainer.moving_averages import MovingAverages
from trainer.objective import make_optimizer

CLASSES = 3
CONFIG = TrainerConfig(
    detector="ssd128-small",
    learning_rate=1e-3,
    warmup_steps=0,
    weight_decay=0.01,
    ema=0.9,
    matching_iou=0.4,
)


def build(size: int):
    """(network, anchor boxes) for a picture size.

    The small detector for 128 px, EfficientNet-Lite with few blocks, for faster XLA compilation,
    for 96 px, and VGG-16 without extras for 64 px.
    """
    if size == 128:
        spec = detector_spec(CONFIG)
    elif size == 96:
        sides = (12, 24, 48, 96)
        maps = AnchorSpec(size, (12, 6, 3, 1), (8, 16, 32, 96), sides, sides, ((2,),) * 4)
        lite = efficientnet_lite.Variant("", width=0.25, depth=0.3)
        spec = DetectorSpec(lite.feature_maps, maps, head=lite.head)
    else:
        vgg16._EXTRAS[size] = ()
        maps = AnchorSpec(size, (8, 4), (8, 16), (10, 30), (30, 60), ((2,), (2,)))
        spec = DetectorSpec(vgg16.feature_maps, maps)
    return build_network(spec, CLASSES), anchor_boxes(spec.anchors)


def main(source: str, target: str) -> None:
    from trainer.jax_step import initial_state, make_step

    given = np.load(source)
    network, anchors = build(given["images"].shape[1])
    network.set_weights([given[f"weight{i}"] for i in range(len(network.weights))])
    optimizer = make_optimizer(CONFIG)
    averages = MovingAverages(network, CONFIG.ema)
    state = initial_state(network, optimizer, averages)
    step = make_step(network, optimizer, averages, anchors, CONFIG)
    losses = []
    for _ in range(int(given["steps"])):
        state, results = step(state, given["images"], given["boxes"], given["labels"])
        losses.append([float(value) for value in results])
    for variable, value in zip(network.trainable_variables, state[0], strict=True):
        variable.assign(value)
    for variable, value in zip(network.non_trainable_variables, state[1], strict=True):
        variable.assign(value)
    weights = {f"weight{i}": value for i, value in enumerate(network.get_weights())}
    weights |= {f"average{i}": value for i, value in enumerate(state[3])}
    np.savez(target, losses=losses, tensorflow="tensorflow" in sys.modules, **weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
