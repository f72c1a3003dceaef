"""A SavedModel in memory, run in a TensorFlow session as TensorFlow Serving does.

Unlike the functions of `tf.saved_model.load`, a session does not check inputs against the declared
shapes, and it fails with the same status as TensorFlow Serving.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, error_codes_pb2, meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2

from data.saved_model import DEFAULT_SIGNATURE, SAVED_MODEL_FILE, WARM_UP_REQUESTS
from serving.model_server.status import StatusError, invalid

Arrays = Mapping[str, np.ndarray]

_CALLING_THREAD = -1  # in RunOptions.inter_op_thread_pool


class Servable:
    """One loaded version of a model. `run` is thread-safe."""

    def __init__(self, folder: Path, warm_up: bool = True) -> None:
        """Loads the model and runs its warm-up requests; raises StatusError if either fails."""
        if not (folder / SAVED_MODEL_FILE).is_file():
            raise StatusError(
                "NOT_FOUND",
                f"{folder} has no {SAVED_MODEL_FILE}: it is not a SavedModel, or not yet complete",
            )
        self._calls: dict[tuple, Callable] = {}
        config = config_pb2.ConfigProto()
        config.gpu_options.allow_growth = True
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        load = tf.compat.v1.saved_model.load
        try:
            with graph.as_default():
                meta = load(self._session, [tf.saved_model.SERVING], str(folder))
            self.signatures: Mapping[str, meta_graph_pb2.SignatureDef] = meta.signature_def
            self._outputs = {name: sorted(s.outputs) for name, s in self.signatures.items()}
            self._input_types = {
                name: {key: tf.as_dtype(s.inputs[key].dtype) for key in sorted(s.inputs)}
                for name, s in self.signatures.items()
            }
            if warm_up and (folder / WARM_UP_REQUESTS).is_file():
                self._warm_up(folder / WARM_UP_REQUESTS)
        except (tf.errors.OpError, OSError, RuntimeError, TypeError, ValueError) as error:
            self.close()
            if isinstance(error, tf.errors.OpError):
                raise _failed(error) from error
            if "Cannot parse" in str(error):
                raise StatusError("DATA_LOSS", f"{folder / SAVED_MODEL_FILE} is damaged") from error
            raise StatusError("UNKNOWN", str(error)) from error
        except StatusError:
            self.close()
            raise

    def input_types(self, signature_name: str) -> dict[str, tf.DType]:
        """The types of a signature's inputs, by name ("" for the default signature)."""
        name = signature_name or DEFAULT_SIGNATURE
        if name not in self._input_types:
            raise invalid(self._no_signature(name))
        return self._input_types[name]

    def run(
        self, signature_name: str, inputs: Arrays, outputs: Sequence[str] = (), busy: bool = False
    ) -> Arrays:
        """Runs a signature ("" for the default one).

        Args:
          inputs: all inputs of the signature, by name.
          outputs: names of the wanted outputs; all if empty.
          busy: other calls keep the cores busy, so operations run one after the other on the
            calling thread instead of on TensorFlow's thread pool.

        Raises StatusError for inputs that do not fit and for failures inside the model.
        """
        name = signature_name or DEFAULT_SIGNATURE
        if name not in self._input_types:
            raise StatusError("FAILED_PRECONDITION", self._no_signature(name))
        expected = self._input_types[name]
        if inputs.keys() != expected.keys():
            sent, needed = (", ".join(sorted(names)) or "none" for names in (inputs, expected))
            raise invalid(f"the request has the inputs {sent}, but signature {name} needs {needed}")
        wanted = _wanted_outputs(self._outputs[name], outputs)
        call = self._call(name, wanted, busy)
        try:
            results = call(*(inputs[key] for key in expected))
        except tf.errors.OpError as error:
            raise _failed(error) from error
        except UnicodeDecodeError as error:
            # The message quotes an input that is not UTF-8, and TensorFlow fails to decode it.
            raise invalid(error.object.decode("utf-8", "backslashreplace")) from error
        # As numpy's bytes type, a string would lose its trailing zeros.
        return {
            key: np.asarray(result, object if isinstance(result, bytes) else None)
            for key, result in zip(wanted, results, strict=True)
        }

    def _no_signature(self, name: str) -> str:
        return f"the model has no signature {name}, only {', '.join(sorted(self.signatures))}"

    def close(self) -> None:
        """Frees the model; nothing may be running."""
        self._calls.clear()
        self._session.close()
        self._session = None
        gc.collect()  # a graph refers to itself, and would stay until the next collection

    def _call(self, name: str, wanted: list[str], busy: bool) -> Callable:
        key = (busy, name, *wanted)
        if key not in self._calls:
            signature = self.signatures[name]
            options = config_pb2.CallableOptions(
                feed=[signature.inputs[i].name for i in self._input_types[name]],
                fetch=[signature.outputs[o].name for o in wanted],
            )
            if busy:
                options.run_options.inter_op_thread_pool = _CALLING_THREAD
            # Session.run would check the inputs against the declared shapes.
            self._calls[key] = self._session._make_callable_from_options(options)
        return self._calls[key]

    def _warm_up(self, path: Path) -> None:
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            try:
                log = prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError as error:
                raise invalid(f"{path}: a record is not a PredictionLog") from error
            if not log.HasField("predict_log"):
                raise StatusError("UNIMPLEMENTED", f"{path}: only predict requests can warm up")
            request = log.predict_log.request
            inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            for busy in (False, True):
                wanted = list(request.output_filter)
                self.run(request.model_spec.signature_name, inputs, wanted, busy)


def _wanted_outputs(known: list[str], outputs: Sequence[str]) -> list[str]:
    for name in outputs:
        if name not in known:
            raise invalid(f"the signature has no output {name}, only {', '.join(known)}")
        if list(outputs).count(name) > 1:
            raise invalid(f"output {name} is requested twice")
    return list(outputs) or known


def _failed(error: tf.errors.OpError) -> StatusError:
    return StatusError(error_codes_pb2.Code.Name(error.error_code), error.message)
