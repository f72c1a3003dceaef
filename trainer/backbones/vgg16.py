"""VGG-16 as SSD uses it, with the extra layers of SSD300 and SSD512 (paper, section 2.1)."""

from typing import Any

import keras
from keras import layers, ops

from trainer.backbones import Pretrained
from trainer.backbones.caffe import CaffePreprocessing
from trainer.weights import vgg16 as weights

# Channels of the convolutions before each pooling.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# (squeeze, output, kernel, stride, padding) of the layer pairs after fc7.
_EXTRAS = {
    300: ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0)),
    512: (
        (256, 512, 3, 2, 1),
        (128, 256, 3, 2, 1),
        (128, 256, 3, 2, 1),
        (128, 256, 3, 2, 1),
        (128, 256, 4, 1, 1),
    ),
}


@keras.saving.register_keras_serializable(package="ssd")
class L2Normalisation(layers.Layer):
    """Normalises over channels, then applies a learned scale per channel, initially 20.

    conv4_3 has larger activations than the other maps (ParseNet; SSD paper, section 3.1).
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Adds the scale, [channels]."""
        self.scale = self.add_weight(
            name="scale", shape=(input_shape[-1],), initializer=keras.initializers.Constant(20.0)
        )

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """float [batch, height, width, channels], normalised and scaled."""
        # Squares overflow float16, so the norm is taken in float32.
        values = ops.cast(inputs, "float32")
        norm = ops.sqrt(ops.sum(ops.square(values), axis=-1, keepdims=True) + 1e-10)
        return ops.cast(values / norm * ops.cast(self.scale, "float32"), inputs.dtype)


def _conv(
    inputs: keras.KerasTensor, filters: int, kernel: int, name: str, **kwargs: Any
) -> keras.KerasTensor:
    return layers.Conv2D(
        filters,
        kernel,
        activation="relu",
        # Xavier, like every layer without pretrained weights in the Caffe release.
        kernel_initializer="glorot_uniform",
        name=name,
        **kwargs,
    )(inputs)


def feature_maps(images: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Maps of conv4_3 (normalised), fc7 and the extra layers; `images` are 300 or 512 px square."""
    x = CaffePreprocessing(name="preprocessing", dtype="float32")(images)
    maps = []
    for block, channels in enumerate(_BLOCKS, start=1):
        for index, filters in enumerate(channels, start=1):
            x = _conv(x, filters, 3, f"conv{block}_{index}", padding="same")
        if block == 4:
            maps.append(L2Normalisation(name="conv4_3_norm")(x))
        # "same" rounds up, so pool3 turns 75 into 38 as Caffe does; pool5 keeps the resolution.
        size, stride = (3, 1) if block == 5 else (2, 2)
        x = layers.MaxPooling2D(size, stride, padding="same", name=f"pool{block}")(x)

    x = _conv(x, 1024, 3, "fc6", padding="same", dilation_rate=6)
    x = _conv(x, 1024, 1, "fc7")
    maps.append(x)
    for number, (squeeze, filters, kernel, stride, pad) in enumerate(
        _EXTRAS[images.shape[1]], start=8
    ):
        x = _conv(x, squeeze, 1, f"conv{number}_1")
        if pad:
            # Explicit: with stride 2, "same" pads only one side and shifts the map by half a cell.
            x = layers.ZeroPadding2D(pad, name=f"conv{number}_pad")(x)
        x = _conv(x, filters, kernel, f"conv{number}_2", strides=stride)
        maps.append(x)
    return maps


STAGES = ("conv1_", "conv2_", "conv3_", r"conv4_\d$", "conv5_")

PRETRAINED = Pretrained(
    # Includes the dense layers, which become fc6 and fc7.
    url="https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    md5="64373286793e3c8b2b4e3219cbf3544b",
    from_keras=weights.from_keras,
    from_torch=weights.from_torch,
)
