import keras
import numpy as np
import pytest
from keras import layers

from data.errors import DataError
from trainer.anchors import SSD300, AnchorSpec, anchor_boxes
from trainer.backbones import MEAN_RGB, small
from trainer.backbones.caffe import CaffePreprocessing
from trainer.backbones.vgg16 import L2Normalisation
from trainer.config import TrainerConfig
from trainer.detector import DetectorSpec, build_network, detector_spec
from trainer.model_zoo import DETECTORS


@pytest.fixture(scope="module")
def ssd300():
    """SSD300-VGG16 for the 20 classes of VOC."""
    return build_network(detector_spec(TrainerConfig(detector="ssd300-vgg16")), 20)


def _macs(network) -> int:
    """Multiply-accumulates of a forward pass for one picture, from the convolutions' shapes."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * int(np.prod(layer.kernel.shape))
    return total


def test_ssd300_is_the_published_network(ssd300):
    assert ssd300.count_params() == 26_285_486
    assert _macs(ssd300) / 1e9 == pytest.approx(31.4, abs=0.05)
    assert ssd300.output_shape == [(None, 8732, 4), (None, 8732, 21)]


def test_ssd300_has_the_layers_of_the_paper(ssd300):
    maps = [ssd300.get_layer(f"class_head{level}").input.shape[1:] for level in range(6)]
    assert [m[0] for m in maps] == [38, 19, 10, 5, 3, 1]
    assert [m[2] for m in maps] == [512, 1024, 512, 256, 256, 256]
    fc6 = ssd300.get_layer("fc6")
    assert (fc6.kernel.shape, fc6.dilation_rate) == ((3, 3, 512, 1024), (6, 6))
    assert ssd300.get_layer("pool5").strides == (1, 1)
    for name in ("conv8", "conv9"):
        # "same" would pad only the far side of an even map.
        assert ssd300.get_layer(f"{name}_pad").padding == ((1, 1), (1, 1))
        assert ssd300.get_layer(f"{name}_2").padding == "valid"
        assert ssd300.get_layer(f"{name}_2").strides == (2, 2)
    for name in ("conv10_2", "conv11_2"):
        assert ssd300.get_layer(name).padding == "valid"


def test_ssd512_has_seven_maps():
    spec = detector_spec(TrainerConfig(detector="ssd512-vgg16"))
    network = build_network(spec, 20)
    assert network.output_shape == [(None, 24564, 4), (None, 24564, 21)]
    assert len(anchor_boxes(spec.anchors)) == 24564


@pytest.mark.parametrize("classes", [1, 6])
def test_the_small_detector_predicts_every_anchor(classes):
    spec = detector_spec(TrainerConfig(detector="ssd128-small"))
    network = build_network(spec, classes)
    codes, logits = network(np.zeros((2, 128, 128, 3), np.float32), training=False)
    anchors = len(anchor_boxes(spec.anchors))
    assert codes.shape == (2, anchors, 4)
    assert logits.shape == (2, anchors, 1 + classes)


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_configurable_detector_exists(detector):
    size = detector_spec(TrainerConfig(detector=detector)).anchors.image_size
    assert detector.startswith(f"ssd{size}-")


@pytest.mark.parametrize("detector", ["ssd512-vgg16", "ssd128-small"])
def test_hikapok_anchors_exist_for_ssd300_only(detector):
    assert detector_spec(TrainerConfig(anchors="hikapok")).anchors.extra_square_first
    with pytest.raises(DataError, match=f"'hikapok' does not exist for {detector}; use paper"):
        detector_spec(TrainerConfig(detector=detector, anchors="hikapok"))


def test_maps_that_do_not_fit_the_anchors_are_refused():
    with pytest.raises(ValueError, match=r"maps of \(38, 19, 10, 5\), the anchors need \(38, 19,"):
        build_network(DetectorSpec(small.feature_maps, SSD300), 20)


def test_outputs_are_in_the_order_of_the_anchors():
    def feature_maps(images):
        return [layers.AveragePooling2D(2)(images), layers.AveragePooling2D(4)(images)]

    spec = AnchorSpec(4, (2, 1), (2, 4), (1, 2), (2, 4), ((), ()))
    network = build_network(DetectorSpec(feature_maps, spec), 1)
    # Each head copies its cell's red channel times a number that encodes map and anchor.
    for level in range(2):
        layer = network.get_layer(f"box_head{level}")
        kernel = np.zeros(layer.kernel.shape, np.float32)
        for anchor in range(2):
            kernel[1, 1, 0, 4 * anchor : 4 * anchor + 4] = 10 * level + anchor + 1
        layer.set_weights([kernel, np.zeros(8)])
    picture = np.zeros((1, 4, 4, 3), np.float32)
    picture[0, :, :, 0] = np.kron([[1, 2], [3, 4]], np.ones((2, 2)))
    codes = keras.ops.convert_to_numpy(network(picture)[0])[0]
    np.testing.assert_allclose(codes[:, 0], [1, 2, 2, 4, 3, 6, 4, 8, 2.5 * 11, 2.5 * 12])
    centres = anchor_boxes(spec)[:, :2]
    wanted = [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75], [0.5, 0.5]]
    np.testing.assert_allclose(centres, np.repeat(wanted, 2, axis=0))


def test_preprocessing_matches_the_published_weights():
    pixels = np.array(MEAN_RGB, np.float32) + [[[[1.0, 2.0, 3.0]]]]
    found = CaffePreprocessing()(pixels.astype(np.float32))
    np.testing.assert_allclose(found, [[[[3.0, 2.0, 1.0]]]], atol=1e-4)


def test_l2_normalisation_starts_at_length_20():
    values = np.random.default_rng(0).normal(0, 50, (2, 3, 3, 8)).astype(np.float32)
    layer = L2Normalisation()
    found = keras.ops.convert_to_numpy(layer(values))
    norm = np.linalg.norm(values, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, 20 * values / norm, rtol=1e-4)
    layer.set_weights([np.arange(8)])
    np.testing.assert_allclose(layer(values), np.arange(8) * values / norm, rtol=1e-4)
    assert (keras.ops.convert_to_numpy(layer(np.zeros_like(values))) == 0).all()


def test_l2_normalisation_does_not_overflow_half_precision():
    values = np.full((1, 1, 1, 4), 3000, np.float16)
    found = keras.ops.convert_to_numpy(L2Normalisation(dtype="float16")(values))
    np.testing.assert_allclose(found, np.full((1, 1, 1, 4), 10), rtol=1e-2)
