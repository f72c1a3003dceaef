"""The JSON answer to a predict request, in TensorFlow Serving's row and columnar formats."""

import json
import math
from base64 import b64encode
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from serving.json_text import decimals, dtype_name
from serving.status import invalid

_INTEGERS = ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")


def write_response(outputs: Mapping[str, np.ndarray], row_format: bool) -> bytes:
    """The JSON answer: `{"predictions": [...]}` a row each, or `{"outputs": ...}` a column each."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if not row_format:
        columns = {name: _nested(_tokens(name, a), a.shape) for name, a in outputs.items()}
        return _encode('{"outputs": ' + _members(columns) + "}")
    batch = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch is not None and len(array) != batch:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}"
            )
        batch = len(array)
    columns = {}
    for name, array in outputs.items():
        tokens = _tokens(name, array)
        size = math.prod(array.shape[1:])
        columns[name] = [
            _nested(tokens[i * size : (i + 1) * size], array.shape[1:]) for i in range(batch)
        ]
    rows = (_members({name: column[i] for name, column in columns.items()}) for i in range(batch))
    return _encode('{"predictions": [' + ", ".join(rows) + "]}")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _members(values: dict[str, str]) -> str:
    if len(values) == 1:
        return next(iter(values.values()))
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in values.items()) + "}"


def _tokens(name: str, array: np.ndarray) -> list[str]:
    """The JSON text of each value, in order."""
    flat = array.ravel()
    dtype = tf.as_dtype(array.dtype)
    if dtype in (tf.float32, tf.float64):
        return decimals(flat)
    if dtype == tf.bool:
        return ["true" if value else "false" for value in flat.tolist()]
    if dtype.name in _INTEGERS:
        return list(map(str, flat.tolist()))
    if dtype == tf.string and name.endswith("_bytes"):
        return [f'{{"b64": "{b64encode(value).decode()}"}}' for value in flat.tolist()]
    if dtype == tf.string:
        texts = (value.decode("utf-8", "surrogateescape") for value in flat.tolist())
        return [json.dumps(text, ensure_ascii=False) for text in texts]
    raise invalid(f"Failed to write JSON value for tensor type: {dtype_name(dtype)}")


def _nested(tokens: list[str], shape: tuple[int, ...]) -> str:
    """Tokens as nested lists of the shape, or the one token where the shape is empty."""
    for i in range(len(shape) - 1, -1, -1):
        size = shape[i]
        count = math.prod(shape[:i])
        tokens = ["[" + ", ".join(tokens[k * size : (k + 1) * size]) + "]" for k in range(count)]
    return tokens[0]
