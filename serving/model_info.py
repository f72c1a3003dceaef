"""Metadata and status of models, as the messages that REST and gRPC both answer with."""

import inspect

from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.manager import ModelManager

_SIGNATURES = "signature_def"

# The option that shows fields at their default; protobuf 5 has renamed it.
_OPTIONS = ("including_default_value_fields", "always_print_fields_with_no_presence")
_ALL_FIELDS = {
    name: True
    for name in inspect.signature(json_format.MessageToDict).parameters
    if name in _OPTIONS
}


def metadata(
    manager: ModelManager, name: str, number: int | None, label: str | None
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a loaded version; raises StatusError where it is not loaded."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with manager.use(name, number, label) as (number, servable):
        response.model_spec.name = name
        response.model_spec.version.value = number
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
        response.metadata[_SIGNATURES].Pack(signatures)
    return response


def status(
    manager: ModelManager, name: str, number: int | None
) -> get_model_status_pb2.GetModelStatusResponse:
    """The states of a model's versions; raises StatusError where none was ever seen."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version in manager.statuses(name, number):
        entry = response.model_version_status.add(version=version.version)
        entry.state = entry.State.Value(version.state)
        if version.error:
            entry.status.error_code = error_codes_pb2.Code.Value(version.error.code)
            entry.status.error_message = version.error.message
        else:
            entry.status.SetInParent()
    return response


def metadata_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> dict:
    """The metadata as REST shows it: without the type URL that a packed message carries."""
    shown = to_json(response)
    del shown["metadata"][_SIGNATURES]["@type"]
    return shown


def to_json(message: Message) -> dict:
    """A message as JSON with all its fields, set or not."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True, **_ALL_FIELDS)
