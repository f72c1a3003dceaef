"""The input preprocessing of networks trained in Caffe."""

import keras
from keras import layers, ops

from trainer.backbones import MEAN_RGB


@keras.saving.register_keras_serializable(package="ssd")
class CaffePreprocessing(layers.Layer):
    """Turns RGB 0-255 into BGR and subtracts ImageNet's mean."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """float [batch, height, width, 3], RGB to BGR."""
        mean = ops.convert_to_tensor(MEAN_RGB, dtype=inputs.dtype)
        return ops.flip(inputs - mean, axis=-1)
