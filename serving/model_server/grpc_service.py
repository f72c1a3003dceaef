"""TensorFlow Serving's gRPC API: Predict, metadata, status, reload, and health checks."""

import contextlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from data.errors import DataError
from data.saved_model import DEFAULT_SIGNATURE
from serving.model_server.backend import Backend
from serving.model_server.model_config import models_of
from serving.model_server.status import StatusError, invalid

_UNDER_LOAD = 8  # threads for health, status and metadata calls


def start_grpc_server(address: str, backend: Backend) -> tuple[grpc.Server, health.HealthServicer]:
    """Starts serving at `host:port`, healthy at once. Raises OSError if the port is taken."""
    # More threads than predictions may use, so that health and status answer under load.
    most = backend.max_requests + _UNDER_LOAD
    server = grpc.server(
        ThreadPoolExecutor(most, "grpc"),
        maximum_concurrent_rpcs=most,
        options=[
            ("grpc.max_receive_message_length", backend.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    services = _Services(backend)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    health_servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address} for gRPC") from error
    server.start()
    return server, health_servicer


@contextlib.contextmanager
def _answering(context: grpc.ServicerContext) -> Iterator[None]:
    """Turns a StatusError into the status of the call."""
    try:
        yield
    except StatusError as error:
        context.abort(grpc.StatusCode[error.code], error.message)


class _Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def Predict(  # noqa: N802
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        name = request.model_spec.name
        with _answering(context), self._backend.timed(name, "Predict", "GRPC"):
            claim = self._backend.claim()
            try:
                claim.add_bytes(request.ByteSize())
                claim.take_place()
                return self._backend.executor.submit(self._predict, request).result()
            finally:
                claim.release()

    def _predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        spec, wanted = request.model_spec, list(request.output_filter)
        signature = spec.signature_name or DEFAULT_SIGNATURE
        with self._backend.manager.use(*_named(spec)) as (number, servable):
            inputs = {name: self._array(name, proto) for name, proto in request.inputs.items()}
            outputs = self._backend.run(spec.name, number, servable, signature, inputs, wanted)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = number
        response.model_spec.signature_name = signature
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response

    def _array(self, name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
        # A proto with one value and a huge shape would be expanded to that shape.
        size = math.prod(dim.size for dim in proto.tensor_shape.dim)
        try:
            if size < 0 or size > self._backend.max_body_bytes:
                raise ValueError(f"a shape of {size} values")
            return tf.make_ndarray(proto)
        except (ValueError, TypeError) as error:
            raise invalid(f"input {name} is not a tensor: {error}") from error

    def GetModelMetadata(  # noqa: N802
        self, request: Message, context: grpc.ServicerContext
    ) -> Message:
        with _answering(context):
            if list(request.metadata_field) != ["signature_def"]:
                fields = ", ".join(request.metadata_field) or "none"
                raise invalid(f"metadata_field must be signature_def, found: {fields}")
            return self._backend.metadata(*_named(request.model_spec))

    def GetModelStatus(  # noqa: N802
        self, request: Message, context: grpc.ServicerContext
    ) -> Message:
        with _answering(context):
            return self._backend.status(*_named(request.model_spec)[:2])

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        with _answering(context):
            try:
                self._backend.configure(models_of(request.config, "the request"))
            except DataError as error:
                raise invalid(str(error)) from error
            # TensorFlow Serving, too, loads new models before it answers.
            self._backend.manager.poll()
        return model_management_pb2.ReloadConfigResponse()

    def Classify(  # noqa: N802
        self, request: Message, context: grpc.ServicerContext
    ) -> Message:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not supported by this server: use Predict")

    Regress = MultiInference = Classify


def _named(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """The model name, version and label that a request asks for."""
    if not spec.name:
        raise invalid("the request names no model")
    number = spec.version.value if spec.HasField("version") else None
    return spec.name, number, spec.version_label if spec.HasField("version_label") else None
