"""The SavedModel that is evaluated, pushed and served: one network, three signatures."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from data.errors import DataError
from data.saved_model import (
    DEFAULT_SIGNATURE,
    EXAMPLES_SIGNATURE,
    IDENTITY,
    TENSOR_SIGNATURE,
    WARM_UP_REQUESTS,
)
from trainer import bounded_decoding, checkpoints, crop_and_resize
from trainer.anchors import AnchorSpec, anchor_boxes, anchors_hash
from trainer.config import TrainerConfig
from trainer.files import MODEL_NAME, WEIGHTS
from trainer.input_pipeline import TransformedRecords
from trainer.postprocessing import detect, output_specs
from trainer.preprocessing import ENCODED

# Pictures per forward pass. An evaluator may send a thousand records at once, whose activations
# would not fit into memory.
_CHUNK = 16
_WARMUP_PICTURES = 2


class ServedDetector(tf.Module):
    """Network, anchors, class names and transform graph behind the three signatures.

    `serving_default` takes `image_bytes`, strings [batch], each a JPEG or PNG; `serving_tensor`
    takes `images`, uint8 [batch, height, width, 3]; `serving_examples` takes `examples`,
    serialised `tf.Example`s. All return what `postprocessing.detect` does.
    """

    def __init__(
        self,
        network: keras.Model,
        spec: AnchorSpec,
        class_names: Sequence[str],
        records: TransformedRecords,
        config: TrainerConfig,
    ) -> None:
        super().__init__()
        outputs = network.output_shape[1][-1] - 1
        if outputs != len(class_names):
            raise DataError(
                f"the network has {outputs} classes, but there are {len(class_names)} names "
                f"({', '.join(class_names)}). Train again with this schema, or give the schema "
                "the network was trained with"
            )
        self.network = network
        self.spec = spec
        self.size = spec.image_size
        self.anchors = tf.constant(anchor_boxes(spec))
        self.class_names = tuple(class_names)
        self.records = records
        self.config = config

    def detect(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections for network inputs float32 [batch, size, size, 3]."""
        box_codes, class_logits = self.network(inputs, training=False)
        return detect(box_codes, class_logits, self.anchors, self.class_names, self.config)

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")]
    )
    def serving_default(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections in encoded pictures, strings [batch]."""
        return self._in_chunks(self._detect_encoded, image_bytes)

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")],
    )
    def serving_tensor(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections in decoded pictures, uint8 [batch, height, width, 3]."""
        return self._in_chunks(lambda chunk: self.detect(self._resize_all(chunk)), images)

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="examples")]
    )
    def serving_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detections in the pictures of raw, serialised `tf.Example`s [batch]."""
        return self._in_chunks(
            lambda chunk: self._detect_encoded(self.records(chunk)[ENCODED]), examples
        )

    def _detect_encoded(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        def decode(picture: tf.Tensor) -> tf.Tensor:
            return self._resize(bounded_decoding.decode(picture))

        shape = tf.TensorSpec([self.size, self.size, 3], tf.float32)
        return self.detect(tf.map_fn(decode, encoded, fn_output_signature=shape))

    def _resize_all(self, images: tf.Tensor) -> tf.Tensor:
        shape = tf.TensorSpec([self.size, self.size, 3], tf.float32)
        return tf.map_fn(self._resize, images, fn_output_signature=shape)

    def _resize(self, image: tf.Tensor) -> tf.Tensor:
        return crop_and_resize.resize(image, [self.size, self.size])

    def _in_chunks(
        self, answer: Callable[[tf.Tensor], dict[str, tf.Tensor]], inputs: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Applies `answer` to chunks of at most _CHUNK rows and joins the results."""
        total = tf.shape(inputs)[0]
        arrays = {
            name: tf.TensorArray(
                dtype, size=-(-total // _CHUNK), element_shape=[None, *shape], infer_shape=False
            )
            for name, (dtype, shape) in output_specs(self.config.max_detections).items()
        }

        def body(
            start: tf.Tensor, arrays: dict[str, tf.TensorArray]
        ) -> tuple[tf.Tensor, dict[str, tf.TensorArray]]:
            results = answer(inputs[start : start + _CHUNK])
            index = start // _CHUNK
            written = {name: array.write(index, results[name]) for name, array in arrays.items()}
            return start + _CHUNK, written

        _, arrays = tf.while_loop(lambda start, _: start < total, body, (0, arrays))
        return {name: array.concat() for name, array in arrays.items()}


def export(
    detector: ServedDetector, folder: Path, facts: dict, warmup_pictures: Sequence[bytes]
) -> None:
    """Writes the SavedModel with its warm-up requests and IDENTITY.

    Args:
      facts: JSON values that describe the model (preset, versions); image size, anchors hash
        and classes are added here.
      warmup_pictures: a few encoded pictures that the server runs before it reports that it is
      ready.
    """
    saved = tf.Module()
    saved.transform_graph = detector.records.graph
    # Anything but `tf.saved_model.load` restores a directly saved Keras variable into a copy:
    # TensorFlow Serving's functions would find the original empty.
    variables = detector.network.variables
    named = {checkpoints.key(i, v): v.value for i, v in enumerate(variables)}
    setattr(saved, WEIGHTS, named)
    tf.saved_model.save(
        saved,
        str(folder),
        signatures={
            DEFAULT_SIGNATURE: detector.serving_default,
            TENSOR_SIGNATURE: detector.serving_tensor,
            EXAMPLES_SIGNATURE: detector.serving_examples,
        },
    )
    identity = {
        **facts,
        "image_size": detector.spec.image_size,
        "anchors_hash": anchors_hash(detector.spec),
        "classes": list(detector.class_names),
    }
    (folder / IDENTITY).parent.mkdir(exist_ok=True)
    (folder / IDENTITY).write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
    with tf.io.TFRecordWriter(str(folder / WARM_UP_REQUESTS)) as writer:
        for picture in warmup_pictures[:_WARMUP_PICTURES]:
            writer.write(_warmup_request(picture))


def _warmup_request(picture: bytes) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL_NAME
    request.model_spec.signature_name = DEFAULT_SIGNATURE
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([picture]))
    log = prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )
    return log.SerializeToString()
