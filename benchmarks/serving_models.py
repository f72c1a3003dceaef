"""Models to serve: the presets' detectors with random weights, exported like trained ones."""

import io
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from data.fields import COMMON
from pipeline.config import PRESETS
from trainer.detector import build_network, detector_spec
from trainer.export import ServedDetector, export
from trainer.preprocessing import ENCODED

# Scale of the class logits and bias of the background: a few dozen boxes then pass the score
# threshold, as in a trained detector.
_SPREAD = 1.6
_BACKGROUND = 9


def export_untrained(
    preset: str, num_classes: int, folder: Path, picture: bytes, seed: int = 0
) -> None:
    """Writes a SavedModel of the preset's detector to `folder`; it detects things in `picture`."""
    keras.utils.set_random_seed(seed)
    config = PRESETS[preset].trainer
    spec = detector_spec(config)
    network = build_network(spec, num_classes)
    size = spec.anchors.image_size
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB").resize((size, size)))
    logits = network(pixels[None].astype(np.float32))[1].numpy()
    for level in range(len(spec.anchors.feature_sizes)):
        head = network.get_layer(f"class_head{level}")
        kernel, bias = head.get_weights()
        bias.reshape(-1, 1 + num_classes)[:, 0] = _BACKGROUND
        head.set_weights([kernel * _SPREAD / logits.std(), bias])
    names = [f"class {number}" for number in range(1, num_classes + 1)]
    served = ServedDetector(network, spec.anchors, names, _Records(), config)
    export(served, folder, {"preset": preset}, [picture])


ECHO_TYPES = {
    "floats": tf.float32,
    "doubles": tf.float64,
    "ints": tf.int32,
    "bytes": tf.uint8,
    "longs": tf.int64,
    "bools": tf.bool,
    "strings": tf.string,
}


def save_echo(folder: Path) -> None:
    """Saves a model that returns its inputs: a signature for each type, and one with two inputs."""

    def echo(*names):
        specs = {name: tf.TensorSpec(None, ECHO_TYPES[name], name) for name in names}
        function = tf.function(lambda **inputs: {k: tf.identity(v) for k, v in inputs.items()})
        return function.get_concrete_function(**specs)

    signatures = {name: echo(name) for name in ECHO_TYPES}
    signatures["serving_default"] = echo("floats", "strings")
    module = tf.Module()
    module.functions = signatures
    tf.saved_model.save(module, str(folder), signatures=signatures)


class _Records(tf.Module):
    """Replaces the transform graph: only reads the encoded picture from an Example."""

    graph = None

    def __call__(self, serialised):
        feature = {COMMON.encoded: tf.io.FixedLenFeature([], tf.string)}
        return {ENCODED: tf.io.parse_example(serialised, feature)[COMMON.encoded]}
