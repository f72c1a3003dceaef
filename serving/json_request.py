"""Tensors from a JSON predict request, in TensorFlow Serving's row and columnar formats.

Checks come in the order in which TensorFlow Serving makes them, so that of several faults the same
one is named; the texts are its own (tensorflow_serving/util/json_tensor.cc).
"""

import binascii
import math
from collections.abc import Mapping
from itertools import chain

import numpy as np
import tensorflow as tf

from serving.json_text import dtype_name, parse, pretty
from serving.status import StatusError, invalid

Inputs = dict[str, np.ndarray]
InputTypes = Mapping[str, tf.DType]

_FLOATS = (tf.float32, tf.float64)
# Integer types, and the range in which their numbers are taken: smaller types wrap around.
_INT_RANGES = {
    **dict.fromkeys((tf.int8, tf.uint8, tf.int16, tf.int32), (-(2**31), 2**31 - 1)),
    tf.int64: (-(2**63), 2**63 - 1),
    tf.uint32: (0, 2**32 - 1),
    tf.uint64: (0, 2**64 - 1),
}
_JSON_TYPES = {"NoneType": "Null", "dict": "Object", "str": "String"}  # All others: numbers.
# TensorFlow Serving takes 254; arrays in Python end earlier.
_MAX_RANK = 32


def read_document(body: bytes) -> tuple[dict, str]:
    """The JSON object of a predict request, and the name of the signature it asks for."""
    document = parse(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {pretty(document)} Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid(
            f"JSON Value: {pretty(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return document, signature


def read_inputs(document: dict, types: InputTypes) -> tuple[Inputs, bool]:
    """The inputs in a predict request, and whether they, and so the answer, are in row format.

    Args:
      document: from `read_document`.
      types: names and types of the signature's inputs.
    """
    if not types:
        signature = document.get("signature_name") or "DEFAULT"
        raise invalid(f"Failed to get input map for signature: {signature}")
    if "instances" in document:
        if "inputs" in document:
            raise invalid(
                f"JSON Value: {pretty(document)} Not formatted correctly expecting only one of "
                "'inputs' or 'instances' keys to exist "
            )
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(
                f"JSON Value: {pretty(document)} Expecting 'instances' to be an list/array"
            )
        if not instances:
            raise invalid(f"JSON Value: {pretty(document)} No values in 'instances' array")
        return _rows(instances, types), True
    if "inputs" in document:
        return _columns(document["inputs"], types), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _columns(value: object, types: InputTypes) -> Inputs:
    if isinstance(value, dict) and not _is_base64(value):
        for name in types:
            if name not in value:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        return {name: _tensor(value[name], dtype) for name, dtype in types.items()}
    if len(types) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors "
            "required as per tensorinfo_map"
        )
    return {name: _tensor(value, dtype) for name, dtype in types.items()}


def _rows(instances: list, types: InputTypes) -> Inputs:
    named = _is_object(instances[0])
    if not isinstance(instances[0], dict) and len(types) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    if not named:
        columns = {next(iter(types)): instances}
    elif all(_is_object(row) and row.keys() == types.keys() for row in instances):
        columns = {name: [row[name] for row in instances] for name in instances[0]}
    else:
        columns = {}
    tensors = {name: _dense(column, types[name]) for name, column in columns.items()}
    if not tensors or any(tensor is None for tensor in tensors.values()):
        _check_rows(instances, named, types)
    return tensors


def _check_rows(instances: list, named: bool, types: InputTypes) -> None:
    """Raises for the first fault in instances that are no tensors."""
    shapes: dict[str, list[int]] = {}
    for number, instance in enumerate(instances):
        if named != _is_object(instance):
            kinds = "object but got list" if named else "value/list but got object"
            raise invalid(f"Expecting {kinds} at item {number} of input list")
        items = instance if named else {next(iter(types)): instance}
        for name, value in items.items():
            try:
                _check_instance(name, value, types, shapes)
            except StatusError as error:
                key = f" key: {name}" if named else ""
                raise invalid(
                    f"Failed to process element: {number}{key} of 'instances' list. Error: {error}"
                ) from error
        if items.keys() != types.keys() and named:
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{pretty(instance)} keys must be equal to: {','.join(sorted(types))}"
            )


def _check_instance(name: str, value: object, types: InputTypes, shapes: dict) -> None:
    if name not in types:
        raise invalid(f"JSON object: does not have named input: {name}")
    shape = _shape(value)
    size = _check(value, 0, shape, types[name])
    expected = shapes.setdefault(name, shape)
    if size != math.prod(expected):
        raise invalid(f"Expecting tensor size: {math.prod(expected)} but got: {size}")
    if shape != expected:
        raise invalid(f"Expecting shape {_text(expected)} but got: {_text(shape)}")


def _text(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _tensor(value: object, dtype: tf.DType) -> np.ndarray:
    tensor = _dense(value, dtype)
    if tensor is None:
        _check(value, 0, _shape(value), dtype)
    return tensor


def _shape(value: object) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    if len(shape) > _MAX_RANK:
        raise invalid(f"List nested {len(shape)} levels deep: tensors have {_MAX_RANK} at most")
    return shape


def _dense(value: object, dtype: tf.DType) -> np.ndarray | None:
    """The tensor of an evenly nested list of fitting values; None where there is a fault."""
    shape = _shape(value)
    values = [value]
    for size in shape:
        if set(map(type, values)) != {list} or set(map(len, values)) != {size}:
            return None
        values = list(chain.from_iterable(values))
        if not values:
            break
    values = _converted(values, dtype)
    return None if values is None else _array(values, dtype).reshape(shape)


def _converted(values: list, dtype: tf.DType) -> list | None:
    """The values, strings as bytes; None where one is not of the type."""
    types = set(map(type, values))
    if dtype == tf.string:
        if not types <= {str, dict}:
            return None
        values = [_base64_or_none(v) if type(v) is dict else _bytes(v) for v in values]
        fits = None not in values
    elif dtype in _FLOATS:
        fits = types <= {int, float}
    elif dtype in _INT_RANGES:
        low, high = _INT_RANGES[dtype]
        fits = types <= {int} and (not values or low <= min(values) <= max(values) <= high)
    else:
        fits = types <= ({bool} if dtype == tf.bool else set())
    return values if fits else None


def _array(values: list, dtype: tf.DType) -> np.ndarray:
    if dtype == tf.string:
        array = np.empty(len(values), object)
        array[:] = values
        return array
    if dtype == tf.bool:
        return np.array(values, bool)
    wide = np.float64 if dtype in _FLOATS else np.uint64 if dtype == tf.uint64 else np.int64
    with np.errstate(over="ignore"):
        return np.array(values, wide).astype(dtype.as_numpy_dtype)


def _check(value: object, level: int, shape: list[int], dtype: tf.DType) -> int:
    """The number of values in a nested list; raises at the first that does not fit."""
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {pretty(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {len(shape)}"
            )
        _check_value(value, dtype)
        return 1
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    return sum(_check(item, level + 1, shape, dtype) for item in value)


def _check_value(value: object, dtype: tf.DType) -> None:
    if _converted([value], dtype) is not None:
        return
    if dtype == tf.string and isinstance(value, dict):
        if not _is_base64(value):
            raise invalid(f"JSON Value: {pretty(value)} not formatted correctly for base64 data")
        raise invalid("Unable to base64 decode")
    known = dtype in (*_FLOATS, *_INT_RANGES, tf.bool, tf.string)
    if not known and not isinstance(value, dict):
        raise StatusError(
            "UNIMPLEMENTED",
            f"Conversion of JSON Value: {pretty(value)} to type: {dtype_name(dtype)}",
        )
    kind = str(value) if type(value) is bool else _JSON_TYPES.get(type(value).__name__, "Number")
    raise invalid(
        f"JSON Value: {pretty(value)} Type: {kind} is not of expected type: {dtype_name(dtype)}"
    )


def _is_base64(value: object) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _base64_or_none(value: dict) -> bytes | None:
    """Decodes `{"b64": text}`: the standard alphabet, white space skipped, padding optional."""
    if not _is_base64(value):
        return None
    text = _bytes(value["b64"])
    decoded = _decoded(text)
    return _decoded(b"".join(text.split())) if decoded is None else decoded


def _decoded(text: bytes) -> bytes | None:
    """Decodes base64 without white space; None where it is not just that."""
    digits = text.rstrip(b"=")
    missing = -len(digits) % 4
    if missing == 3 or len(text) - len(digits) not in (0, missing):
        return None
    try:
        decoded = binascii.a2b_base64(digits + b"=" * missing)
    except binascii.Error:
        return None
    # What is not in the alphabet is passed over, and leaves fewer bytes.
    return decoded if len(decoded) == len(digits) * 3 // 4 else None
