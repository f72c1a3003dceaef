"""Reads tensors from a JSON predict request in TensorFlow Serving's row or column format."""

import binascii
import json
import math
import re
from collections.abc import Mapping
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from serving.model_server.status import StatusError, invalid

Inputs = dict[str, np.ndarray]
InputTypes = Mapping[str, tf.DType]

# The JSON values that a type accepts, and the type they are read as: smaller integers wrap around.
_FLOATS: set[type] = {int, float}
_INTEGERS: set[type] = {int}
_BOOLEANS: set[type] = {bool}
_NUMBERS: dict[tf.DType, tuple[set[type], Any]] = {
    **dict.fromkeys((tf.float32, tf.float64), (_FLOATS, np.float64)),
    **dict.fromkeys((tf.int8, tf.uint8, tf.int16, tf.int32), (_INTEGERS, np.int32)),
    tf.int64: (_INTEGERS, np.int64),
    tf.uint32: (_INTEGERS, np.uint32),
    tf.uint64: (_INTEGERS, np.uint64),
    tf.bool: (_BOOLEANS, np.bool_),
}
# TensorFlow Serving allows 254, numpy 32.
_MAX_RANK = 32
_SHOWN_CHARACTERS = 60
_BOM = b"\xef\xbb\xbf"
# The escapes in a string: a surrogate pair, half of one, any other.
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]|(u[dD][89a-fA-F])|.)", re.DOTALL)


def read_document(body: bytes) -> tuple[dict, str]:
    """The JSON object of a predict request, and the name of its signature.

    Like TensorFlow Serving's parser, it accepts NaN, Infinity and bytes that are not UTF-8 (in
    strings, as Python's `surrogateescape`), and keeps the first of duplicate keys. Raises
    INVALID_ARGUMENT.
    """
    text = body.removeprefix(_BOM).decode("utf-8", "surrogateescape")
    try:
        document = _DECODER.decode(text)
    except RecursionError as error:
        raise invalid("the body is nested too deeply (about 1000 levels at most)") from error
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}") from error
    # A lone surrogate would be encoded as a byte that was never sent.
    if any(escape[1] for escape in _ESCAPE.finditer(text)):
        raise invalid("the body is not JSON: an escape is half of a surrogate pair")
    if not isinstance(document, dict):
        raise invalid(f"the body must be a JSON object, found {_shown(document)}")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid(f"signature_name must be a string, found {_shown(signature)}")
    return document, signature


def read_inputs(document: dict, types: InputTypes) -> tuple[Inputs, bool]:
    """The inputs of a predict request, and whether it, and so the answer, is in row format.

    Args:
      document: from `read_document`.
      types: names and types of the signature's inputs.

    Raises INVALID_ARGUMENT; UNIMPLEMENTED for a column whose type JSON cannot express.
    """
    if not types:
        raise invalid("the signature has no inputs")
    if "instances" in document and "inputs" in document:
        raise invalid("the request has both instances and inputs: send one of them")
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list) or not instances:
            raise invalid(f"instances must be a non-empty list, found {_shown(instances)}")
        return _rows(instances, types), True
    if "inputs" in document:
        return _columns(document["inputs"], types), False
    raise invalid("the request has neither instances nor inputs")


def _columns(value: Any, types: InputTypes) -> Inputs:
    if not _is_object(value):
        if len(types) > 1:
            raise invalid(f"inputs must be an object with a value for {_names(types)}")
        value = dict.fromkeys(types, value)
    for name in types:
        if name not in value:
            raise invalid(f"inputs has no {name}: it needs {_names(types)}")
    return {name: _tensor(name, value[name], dtype) for name, dtype in types.items()}


def _rows(instances: list, types: InputTypes) -> Inputs:
    first = instances[0]
    if not isinstance(first, dict) and len(types) > 1:
        raise invalid(f"each instance must be an object with a value for {_names(types)}")
    named = _is_object(first)
    for number, row in enumerate(instances):
        if _is_object(row) != named:
            kinds = "an object" if named else "a value or a list"
            raise invalid(f"instance {number} must be {kinds}, as the first is: {_shown(row)}")
        if named and row.keys() != types.keys():
            names = f"inputs {_names(row)}, but the model needs {_names(types)}"
            raise invalid(f"instance {number} has {names}")
    if not named:
        columns = {next(iter(types)): instances}
    else:
        columns = {name: [row[name] for row in instances] for name in first}
    try:
        return {name: _tensor(name, column, types[name]) for name, column in columns.items()}
    except StatusError as error:
        # For rows, TensorFlow Serving has one code for all errors.
        raise invalid(error.message) from error


def _tensor(name: str, value: Any, dtype: tf.DType) -> np.ndarray:
    """The tensor in an evenly nested list of values that fit the type."""
    shape = _shape(name, value)
    values = [value]
    for size in shape:
        if set(map(type, values)) != {list} or set(map(len, values)) != {size}:
            raise _uneven(name, shape)
        values = list(chain.from_iterable(values))
        if not values:
            break
    if dtype == tf.string:
        array = np.empty(len(values), object)
        array[:] = [_string(name, item) for item in values]
        return array.reshape(shape)
    taken, read_as = _NUMBERS.get(dtype, (set(), np.float64))
    if not set(map(type, values)).issubset(taken):
        _refuse(name, next(item for item in values if type(item) not in taken), dtype, shape)
    if taken is _INTEGERS and values:
        limits = np.iinfo(read_as)
        if min(values) < limits.min or max(values) > limits.max:
            raise invalid(f"{name}: a number does not fit into {dtype.name}")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, read_as).astype(dtype.as_numpy_dtype).reshape(shape)
    except OverflowError as error:
        raise invalid(f"{name}: a number does not fit into {dtype.name}") from error


def _shape(name: str, value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    if len(shape) > _MAX_RANK:
        raise invalid(f"{name}: lists {len(shape)} levels deep, {_MAX_RANK} at most")
    return shape


def _refuse(name: str, value: Any, dtype: tf.DType, shape: list[int]) -> NoReturn:
    """Raises for a value that does not fit the type."""
    if isinstance(value, list):
        raise _uneven(name, shape)
    if dtype not in _NUMBERS and not isinstance(value, dict):
        raise StatusError("UNIMPLEMENTED", f"{name}: {dtype.name} cannot be sent as JSON")
    raise invalid(f"{name}: found {_shown(value)} where a {dtype.name} is expected")


def _uneven(name: str, shape: list[int]) -> StatusError:
    return invalid(f"{name}: its lists differ in length or depth (the first are {shape})")


def _string(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    decoded = _base64(value["b64"]) if _is_base64(value) else None
    if decoded is None:
        expected = 'a string or {"b64": BASE64} is expected'
        raise invalid(f"{name}: found {_shown(value)} where {expected}")
    return decoded


def _base64(text: str) -> bytes | None:
    """Decodes base64 with optional white space and padding (or dots); None if it is invalid."""
    packed = b"".join(text.encode("utf-8", "surrogateescape").split())
    digits = packed.rstrip(b"=.")
    missing = -len(digits) % 4
    if missing == 3 or len(packed) - len(digits) not in (0, missing):
        return None
    try:
        decoded = binascii.a2b_base64(digits + b"=" * missing)
    except binascii.Error:
        return None
    # Characters outside the alphabet are skipped, which leaves fewer bytes.
    return decoded if len(decoded) == len(digits) * 3 // 4 else None


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _names(named: Mapping[str, object]) -> str:
    return ", ".join(sorted(named)) or "no names"


def _shown(value: Any) -> str:
    """A value for a message: JSON, shortened."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _first_of_equal_keys(pairs: list[tuple[str, object]]) -> dict:
    return dict(reversed(pairs))


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} does not fit into a double")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_first_of_equal_keys, parse_float=_finite)
