"""keras.applications' ResNet-50: its maps at 1/8, 1/16 and 1/32, and three extra maps."""

import keras

from trainer.backbones import Pretrained
from trainer.backbones.application import extra_maps, from_keras
from trainer.backbones.caffe import CaffePreprocessing

_MAPS = ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
# (squeeze, output, stride, padding); 10 cells become 5, 3 and 1.
_EXTRAS = ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0))


def _application(**inputs: keras.KerasTensor | None) -> keras.Model:
    return keras.applications.ResNet50(include_top=False, weights=None, **inputs)


def feature_maps(images: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Six maps, of 38, 19, 10, 5, 3 and 1 cells for 300 px pictures."""
    x = CaffePreprocessing(name="preprocessing", dtype="float32")(images)
    model = _application(input_tensor=x)
    maps = [model.get_layer(name).output for name in _MAPS]
    return maps + extra_maps(maps[-1], _EXTRAS)


STAGES = ("conv1_", "conv2_block", "conv3_block", "conv4_block", "conv5_block")

PRETRAINED = Pretrained(
    url="https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    md5="4d473c1dd8becc155b73f8504c6f6626",
    from_keras=from_keras(_application),
)
