"""The JSON answer to a predict request, in TensorFlow Serving's row and columnar formats."""

import json
from base64 import b64encode
from collections.abc import Mapping

import numpy as np
import orjson
import tensorflow as tf

from serving.json_text import decimals, dtype_name, nine_digits
from serving.status import invalid

_INTEGERS = ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")


def write_response(outputs: Mapping[str, np.ndarray], row_format: bool) -> bytes:
    """The JSON answer: `{"predictions": [...]}` a row each, or `{"outputs": ...}` a column each."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    columns = {name: _writable(name, array).tolist() for name, array in outputs.items()}
    if not row_format:
        return orjson.dumps({"outputs": _only_or_all(columns)})
    batch = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch is not None and len(array) != batch:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}"
            )
        batch = len(array)
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return orjson.dumps({"predictions": list(map(_only_or_all, rows))})


def _only_or_all(values: dict) -> object:
    return next(iter(values.values())) if len(values) == 1 else values


def _writable(name: str, array: np.ndarray) -> np.ndarray:
    """An array of the same shape whose items orjson writes as TensorFlow Serving would."""
    dtype = tf.as_dtype(array.dtype)
    if dtype == tf.bool or dtype.name in _INTEGERS:
        return array
    if dtype in (tf.float32, tf.float64):
        rounded = nine_digits(array) if dtype == tf.float32 else None
        if rounded is not None:
            return rounded
        values = [orjson.Fragment(text) for text in decimals(array.ravel())]
    elif dtype == tf.string and name.endswith("_bytes"):
        values = [{"b64": b64encode(value).decode()} for value in array.ravel().tolist()]
    elif dtype == tf.string:
        values = list(map(_text, array.ravel().tolist()))
    else:
        raise invalid(f"Failed to write JSON value for tensor type: {dtype_name(dtype)}")
    items = np.empty(len(values), object)
    items[:] = values
    return items.reshape(array.shape)


def _text(value: bytes) -> str | orjson.Fragment:
    """The string; bytes that are not UTF-8 go out as they are."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        text = json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)
        return orjson.Fragment(text.encode("utf-8", "surrogateescape"))
