"""Detectors on backbones from keras.applications."""

import socket

import keras
import numpy as np
import pytest

from pipeline.config import load_config
from trainer.anchors import SSD300_COARSE, anchor_boxes
from trainer.config import TrainerConfig
from trainer.detector import build_network, detector_spec
from trainer.moving_averages import MovingAverages
from trainer.objective import make_optimizer
from trainer.training import make_step

# Map sizes by hand: 300 px halved and rounded up for each stride, then the extra layers.
EXPECTED = {
    "ssd300-mobilenet": ((19, 10, 5, 3, 2, 1), (6, 6, 6, 6, 6, 6), 3000),
    "ssd300-resnet50": ((38, 19, 10, 5, 3, 1), (4, 6, 6, 6, 4, 4), 8732),
}
APPLICATIONS = {
    "ssd300-mobilenet": keras.applications.MobileNetV3Large,
    "ssd300-resnet50": keras.applications.ResNet50,
}


@pytest.fixture(scope="module", params=EXPECTED)
def detector(request):
    """(name, network, spec) of each preset, built offline."""

    def no_network(*_, **__):
        raise OSError("no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", no_network)
        spec = detector_spec(load_config(request.param).trainer)
        keras.utils.set_random_seed(0)
        return request.param, build_network(spec, 3), spec


def test_maps_and_anchors(detector):
    name, network, spec = detector
    sizes, per_cell, total = EXPECTED[name]
    assert spec.anchors.feature_sizes == sizes
    assert tuple(spec.anchors.per_cell(level) for level in range(6)) == per_cell
    assert sum(n * size**2 for n, size in zip(per_cell, sizes, strict=True)) == total
    assert len(anchor_boxes(spec.anchors)) == total
    assert network.output_shape == [(None, total, 4), (None, total, 4)]
    for level, size in enumerate(sizes):
        head = network.get_layer(f"class_head{level}")
        assert head.output.shape == (None, size, size, per_cell[level] * 4)


def test_all_but_extras_and_heads_have_published_weights(detector):
    name, network, _ = detector
    published = {
        layer.name: [weight.shape for weight in layer.weights]
        for layer in APPLICATIONS[name](include_top=False, weights=None).layers
        if layer.weights
    }
    own = {
        layer.name: [weight.shape for weight in layer.weights]
        for layer in network.layers
        if layer.weights and not layer.name.startswith(("extra", "box_head", "class_head"))
    }
    assert own == published


@pytest.mark.slow
def test_training_steps_lower_the_loss(detector):
    name, network, spec = detector
    images = np.random.default_rng(0).uniform(0, 255, (2, 300, 300, 3)).astype(np.float32)
    boxes = np.float32([[[0.1, 0.2, 0.6, 0.7]], [[0.5, 0.4, 0.9, 1.0]]])
    labels = np.int32([[1], [3]])
    config = TrainerConfig(detector=name, learning_rate=1e-3, warmup_steps=0)
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, config.ema)
    step = make_step(network, optimizer, averages, anchor_boxes(spec.anchors), config)
    losses = np.array([[float(x) for x in step(images, boxes, labels)] for _ in range(3)])
    assert np.isfinite(losses).all()
    assert losses[-1, 0] < losses[0, 0]


def test_coarse_anchors_range_from_a_fifth_to_the_whole_side():
    scales = np.linspace(0.2, 0.95, 6)
    np.testing.assert_allclose(np.array(SSD300_COARSE.min_sizes) / 300, scales)
    np.testing.assert_allclose(np.array(SSD300_COARSE.max_sizes) / 300, [*scales[1:], 1.0])
