"""Convolutions with frozen batch normalisation, for fine-tuning on few pictures.

With frozen statistics, normalisation is a factor and an offset per channel. The factor is applied
to the small kernel instead of the large activations: on a CPU a training step takes about half as
long as with a separate normalisation layer, and the exported model has no normalisation left to
compute.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable(package="ssd")
class FrozenNormConv2D(layers.Layer):
    """`relu6(conv(x, kernel * scale) + bias)`, with TensorFlow's "same" padding.

    Weights: `kernel` [height, width, in, out] ([height, width, in, 1] where `depthwise`), `bias`
    [out], and `scale` [out], which is not trained. `folded` computes them from batch
    normalisation's parameters. Without published weights the scale is 1.

    Args:
      filters: output channels; the input's if `depthwise`.
      activation: name of an activation, or None.
    """

    def __init__(
        self,
        kernel_size: int,
        filters: int | None = None,
        strides: int = 1,
        depthwise: bool = False,
        activation: str | None = "relu6",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.filters = filters
        self.strides = strides
        self.depthwise = depthwise
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: tuple[int | None, int | None, int | None, int]) -> None:
        """Adds the weights for inputs of [batch, height, width, channels]."""
        channels = input_shape[-1]
        side = self.kernel_size
        outputs = channels if self.depthwise else self.filters
        # Keras would infer the wrong fan-in from a depthwise kernel, whose last axes are (in, 1).
        fan_in = side * side * (1 if self.depthwise else channels)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(side, side, channels, 1 if self.depthwise else outputs),
            initializer=keras.initializers.RandomNormal(stddev=(2.0 / fan_in) ** 0.5),
        )
        self.scale = self.add_weight(
            name="scale", shape=(outputs,), initializer="ones", trainable=False
        )
        self.bias = self.add_weight(name="bias", shape=(outputs,), initializer="zeros")

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """float [batch, height, width, in] to [batch, height / strides, width / strides, out]."""
        scale = ops.cast(self.scale, self.compute_dtype)
        if self.depthwise:
            kernel = self.kernel * scale[:, None]
            outputs = ops.depthwise_conv(inputs, kernel, strides=self.strides, padding="same")
        else:
            kernel = self.kernel * scale
            outputs = ops.conv(inputs, kernel, strides=self.strides, padding="same")
        return self.activation(ops.add(outputs, ops.cast(self.bias, self.compute_dtype)))

    def compute_output_shape(
        self, input_shape: tuple[int | None, int, int, int]
    ) -> tuple[int | None, int, int, int | None]:
        """With "same" padding, height and width are divided by the strides and rounded up."""
        batch, height, width, channels = input_shape
        outputs = channels if self.depthwise else self.filters
        return batch, -(-height // self.strides), -(-width // self.strides), outputs

    def get_config(self) -> dict:
        """The arguments of `__init__`, for Keras to save."""
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "filters": self.filters,
            "strides": self.strides,
            "depthwise": self.depthwise,
            "activation": keras.activations.serialize(self.activation),
        }


def folded(
    kernel: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    epsilon: float,
) -> list[np.ndarray]:
    """A FrozenNormConv2D's weights in Keras' order, from a convolution and its normalisation."""
    scale = gamma / np.sqrt(variance + epsilon)
    # Keras lists trainable weights first.
    return [kernel, beta - mean * scale, scale]
