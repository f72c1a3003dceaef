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

# The JSON values that a type takes, and the type that they are read as: smaller ones wrap around.
_FLOATS, _INTEGERS, _BOOLEANS = {int, float}, {int}, {bool}
_NUMBERS = {
    **dict.fromkeys((tf.float32, tf.float64), (_FLOATS, np.float64)),
    **dict.fromkeys((tf.int8, tf.uint8, tf.int16, tf.int32), (_INTEGERS, np.int32)),
    tf.int64: (_INTEGERS, np.int64),
    tf.uint32: (_INTEGERS, np.uint32),
    tf.uint64: (_INTEGERS, np.uint64),
    tf.bool: (_BOOLEANS, np.bool_),
}
_JSON_TYPES = {"NoneType": "Null", "dict": "Object", "str": "String"}  # All others: numbers.
# TensorFlow Serving takes 254; arrays in Python end earlier.
_MAX_RANK = 32


def read_document(body: bytes) -> tuple[dict, str]:
    """The JSON object of a predict request, and the name of the signature it asks for."""
    document = parse(body)
    if not isinstance(document, dict):
        raise _wrong(document, "Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        what = "not formatted correctly. 'signature_name' key must be a string value."
        raise _wrong(document, what)
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
        instances = document["instances"]
        if "inputs" in document:
            what = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            raise _wrong(document, f"{what}to exist ")
        if not isinstance(instances, list):
            raise _wrong(document, "Expecting 'instances' to be an list/array")
        if not instances:
            raise _wrong(document, "No values in 'instances' array")
        return _rows(instances, types), True
    if "inputs" in document:
        return _columns(document["inputs"], types), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _columns(value: object, types: InputTypes) -> Inputs:
    columns = value if _is_object(value) else dict.fromkeys(types, value)
    if columns is not value and len(types) > 1:
        raise _several("inputs is a plain value/list, but expecting an object")
    for name in types:
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    tensors = {name: _dense(columns[name], dtype) for name, dtype in types.items()}
    for name, tensor in tensors.items():
        if tensor is None:
            _check(columns[name], 0, _shape(columns[name]), types[name])
    return tensors


def _rows(instances: list, types: InputTypes) -> Inputs:
    named = _is_object(instances[0])
    if not isinstance(instances[0], dict) and len(types) > 1:
        raise _several("instances is a plain list, but expecting list of objects")
    columns = {}
    if not named:
        columns = {next(iter(types)): instances}
    elif all(_is_object(row) and row.keys() == types.keys() for row in instances):
        columns = {name: [row[name] for row in instances] for name in instances[0]}
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
        failed = f"Failed to process element: {number}"
        for name, value in (instance if named else {next(iter(types)): instance}).items():
            try:
                _check_instance(name, value, types, shapes)
            except StatusError as error:
                failed += f" key: {name}" if named else ""
                raise invalid(f"{failed} of 'instances' list. Error: {error}") from error
        if named and instance.keys() != types.keys():
            raise invalid(
                f"{failed} of 'instances' list. JSON object: {pretty(instance)} keys must be "
                f"equal to: {','.join(sorted(types))}"
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
        texts = ("[" + ",".join(map(str, sizes)) + "]" for sizes in (expected, shape))
        raise invalid("Expecting shape {} but got: {}".format(*texts))


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
    array = _array(values, dtype)
    return None if array is None else array.reshape(shape)


def _array(values: list, dtype: tf.DType) -> np.ndarray | None:
    """The values as an array; None where one is not of the type."""
    if dtype == tf.string:
        array = np.empty(len(values), object)
        array[:] = values = [_bytes(v) if type(v) is str else _base64(v) for v in values]
        return None if None in values else array
    taken, read_as = _NUMBERS.get(dtype, ((), None))
    if not set(map(type, values)).issubset(taken):
        return None
    if taken is _INTEGERS and values:
        limits = np.iinfo(read_as)
        if min(values) < limits.min or max(values) > limits.max:
            return None
    with np.errstate(over="ignore"):
        return np.array(values, read_as).astype(dtype.as_numpy_dtype)


def _check(value: object, level: int, shape: list[int], dtype: tf.DType) -> int:
    """The number of values in a nested list; raises at the first that does not fit."""
    if not isinstance(value, list):
        if level != len(shape):
            level += 1
            what = f"found at incorrect level: {level} in the JSON DOM. Expected at level: "
            raise _wrong(value, f"{what}{len(shape)}")
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
    if _array([value], dtype) is not None:
        return
    if dtype == tf.string and isinstance(value, dict):
        if not _is_base64(value):
            raise _wrong(value, "not formatted correctly for base64 data")
        raise invalid("Unable to base64 decode")
    if dtype not in _NUMBERS and dtype != tf.string and not isinstance(value, dict):
        what = f"Conversion of JSON Value: {pretty(value)} to type: {dtype_name(dtype)}"
        raise StatusError("UNIMPLEMENTED", what)
    kind = str(value) if type(value) is bool else _JSON_TYPES.get(type(value).__name__, "Number")
    raise _wrong(value, f"Type: {kind} is not of expected type: {dtype_name(dtype)}")


def _wrong(value: object, what: str) -> StatusError:
    return invalid(f"JSON Value: {pretty(value)} {what}")


def _several(what: str) -> StatusError:
    return invalid(f"{what} as multiple input tensors required as per tensorinfo_map")


def _is_base64(value: object) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _base64(value: object) -> bytes | None:
    """Decodes `{"b64": text}`: white space skipped, padding (dots, too) optional; else None."""
    if not _is_base64(value):
        return None
    text = b"".join(_bytes(value["b64"]).split())
    digits = text.rstrip(b"=.")
    missing = -len(digits) % 4
    if missing == 3 or len(text) - len(digits) not in (0, missing):
        return None
    try:
        decoded = binascii.a2b_base64(digits + b"=" * missing)
    except binascii.Error:
        return None
    # What is not in the alphabet is passed over, and leaves fewer bytes.
    return decoded if len(decoded) == len(digits) * 3 // 4 else None
