"""keras.applications' MobileNetV3-Large: its maps at 1/16 and 1/32, and four extra maps."""

import keras

from trainer.backbones import Pretrained
from trainer.backbones.application import extra_maps, from_keras

# (squeeze, output, stride, padding); 10 cells become 5, 3, 2 and 1.
_EXTRAS = ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 2, 1), (64, 128, 2, 1))


def _application(**inputs: keras.KerasTensor | None) -> keras.Model:
    return keras.applications.MobileNetV3Large(
        include_top=False, weights=None, include_preprocessing=True, **inputs
    )


def feature_maps(images: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Six maps, of 19, 10, 5, 3, 2 and 1 cells for 300 px pictures."""
    model = _application(input_tensor=images)
    # The last layer at 1/16 is the expansion of the block that halves the resolution to 1/32
    # (MobileNetV3 paper, section 6.3).
    fine = model.get_layer("expanded_conv_12_depthwise_pad").input
    coarse = model.output
    return [fine, coarse, *extra_maps(coarse, _EXTRAS)]


PRETRAINED = Pretrained(
    url="https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/"
    "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    md5="07fb09a5933dd0c8eaafa16978110389",
    from_keras=from_keras(_application),
)
