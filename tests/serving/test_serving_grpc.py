"""The gRPC API of a running server."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def _request(model, outputs=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def _refused(call, request, code) -> str:
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=10)
    assert raised.value.code() == code
    return raised.value.details()


def test_answers_equal_those_over_rest(server, stub, picture):
    content = picture.read_bytes()
    response = stub.Predict(_request("blobs", image_bytes=[content, content]), timeout=10)
    rest = server.predict(
        "blobs",
        instances=[
            {
                "b64": tf.io.encode_base64(content)
                .numpy()
                .decode()
                .replace("-", "+")
                .replace("_", "/")
            }
        ],
    )["predictions"][0]
    assert response.model_spec.version.value == 20
    assert response.outputs.keys() == rest.keys()
    for name, proto in response.outputs.items():
        for row in tf.make_ndarray(proto):
            if name == "detection_class_names":
                assert [text.decode() for text in row] == rest[name]
            else:
                np.testing.assert_array_equal(row, np.array(rest[name], row.dtype))


def test_versions_labels_and_output_filter(stub):
    request = _request("adder", ["y"], x=np.float32([1]))
    assert tf.make_ndarray(stub.Predict(request, timeout=10).outputs["y"]).tolist() == [3.0]
    request.model_spec.version.value = 1
    assert tf.make_ndarray(stub.Predict(request, timeout=10).outputs["y"]).tolist() == [2.0]
    request.model_spec.version_label = "stable"
    response = stub.Predict(request, timeout=10)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [2.0]
    assert response.model_spec.signature_name == "serving_default"


def test_errors(stub):
    bad = grpc.StatusCode.INVALID_ARGUMENT
    one = np.float32([1])
    _refused(stub.Predict, _request("nope", x=one), grpc.StatusCode.NOT_FOUND)
    assert "names no model" in _refused(stub.Predict, _request("", x=one), bad)
    assert "needs x" in _refused(stub.Predict, _request("adder"), bad)
    assert "inputs z" in _refused(stub.Predict, _request("adder", z=one), bad)
    assert "no output z" in _refused(stub.Predict, _request("adder", ["z"], x=one), bad)
    assert "twice" in _refused(stub.Predict, _request("adder", ["y", "y"], x=one), bad)
    _refused(stub.Predict, _request("adder", x=np.int64([1])), bad)
    request = _request("adder", x=one)
    request.model_spec.signature_name = "other"
    _refused(stub.Predict, request, grpc.StatusCode.FAILED_PRECONDITION)


def test_an_error_message_that_quotes_binary_input(stub):
    request = _request("blobs", examples=[b"\x01 no Example \xff"])
    request.model_spec.signature_name = "serving_examples"
    details = _refused(stub.Predict, request, grpc.StatusCode.INVALID_ARGUMENT)
    assert r"no Example \xff'" in details


@pytest.mark.parametrize("size", [10**12, -1])
def test_a_tensor_that_claims_an_absurd_shape(stub, size):
    request = _request("adder", x=np.float32([1]))
    request.inputs["x"].tensor_shape.dim[0].size = size
    assert "not a tensor" in _refused(stub.Predict, request, grpc.StatusCode.INVALID_ARGUMENT)


def test_a_message_over_the_limit(stub):
    request = _request("blobs", image_bytes=[b"x" * 2_000_001])
    _refused(stub.Predict, request, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_metadata(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "blobs"
    response = stub.GetModelMetadata(request, timeout=10)
    assert (response.model_spec.name, response.model_spec.version.value) == ("blobs", 20)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "serving_tensor", "serving_examples"} <= set(
        signatures.signature_def
    )
    del request.metadata_field[:]
    _refused(stub.GetModelMetadata, request, grpc.StatusCode.INVALID_ARGUMENT)


def test_status(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "adder"
    response = stub.GetModelStatus(request, timeout=10)
    state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    found = [(version.version, version.state) for version in response.model_version_status]
    assert found == [(2, state), (1, state)]
    request.model_spec.version.value = 9
    _refused(stub.GetModelStatus, request, grpc.StatusCode.NOT_FOUND)


@pytest.mark.slow
def test_reloading_the_configuration(start_server, save_adder, tmp_path):
    for name, amount in (("a", 1), ("b", 2)):
        save_adder(tmp_path / name / "1", amount)
    server = start_server("--model_name=a", f"--model_base_path={tmp_path / 'a'}")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)

        def request(*names, **fields):
            request = model_management_pb2.ReloadConfigRequest()
            for name in names:
                base_path = str(tmp_path / name)
                request.config.model_config_list.config.add(
                    name=name, base_path=base_path, model_platform="tensorflow", **fields
                )
            return request

        response = stub.HandleReloadConfigRequest(request("a", "b"), timeout=30)
        assert response.status.error_code == 0
        assert server.predict("b", instances=[0]) == {"predictions": [2.0]}, "loaded already"
        stub.HandleReloadConfigRequest(request("b", version_labels={"stable": 1}), timeout=30)
        assert "error" in server.predict("a", instances=[0])
        moved = request("b", version_labels={"stable": 7})
        _refused(stub.HandleReloadConfigRequest, moved, grpc.StatusCode.FAILED_PRECONDITION)
        bad = grpc.StatusCode.INVALID_ARGUMENT
        assert "each model once" in _refused(stub.HandleReloadConfigRequest, request("b", "b"), bad)
        assert "no model" in _refused(stub.HandleReloadConfigRequest, request(), bad)
        assert server.predict("b", instances=[0]) == {"predictions": [2.0]}


def test_health_and_unsupported_methods(channel, stub):
    health = health_pb2_grpc.HealthStub(channel)
    response = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    request = classification_pb2.ClassificationRequest()
    details = _refused(stub.Classify, request, grpc.StatusCode.UNIMPLEMENTED)
    assert "not supported" in details
