"""Writes the JSON answer to a predict request in TensorFlow Serving's row or column format."""

import json
from base64 import b64encode
from collections.abc import Mapping

import numpy as np
import orjson

from serving.model_server.status import invalid

_PLAIN = ("bool", "int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")
_SPECIAL = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def write_response(outputs: Mapping[str, np.ndarray], row_format: bool) -> bytes:
    """The JSON answer: `{"predictions": [...]}` by row, or `{"outputs": ...}` by column.

    Raises INVALID_ARGUMENT if the outputs have no rows, or a type that JSON cannot express.
    """
    if not outputs:
        raise invalid("the signature has no outputs")
    columns = {name: _writable(name, array) for name, array in outputs.items()}
    if not row_format:
        return _dumps({"outputs": _only_or_all(columns)})
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"output {name} is one value, not a row for each instance: send inputs")
    if len(set(map(len, outputs.values()))) > 1:
        sizes = ", ".join(f"{name} {len(array)}" for name, array in outputs.items())
        raise invalid(f"the outputs differ in their number of rows ({sizes}): send inputs")
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return _dumps({"predictions": list(map(_only_or_all, rows))})


def _dumps(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _only_or_all(values: dict) -> object:
    return next(iter(values.values())) if len(values) == 1 else values


def _writable(name: str, array: np.ndarray) -> np.ndarray | list:
    """An array, or nested lists, that orjson writes as TensorFlow Serving would."""
    kind = array.dtype.name
    values: list[object]
    if kind in _PLAIN or (kind in ("float32", "float64") and np.isfinite(array).all()):
        return np.ascontiguousarray(array).reshape(array.shape)[()]  # a scalar if it has no shape
    if kind in ("float32", "float64"):
        texts = map(str, array.ravel())
        values = [orjson.Fragment(_SPECIAL.get(text, text)) for text in texts]
    elif kind == "object" and name.endswith("_bytes"):
        values = [{"b64": b64encode(value).decode()} for value in array.ravel()]
    elif kind == "object":
        values = list(map(_text, array.ravel()))
    else:
        raise invalid(f"output {name} is {kind}, which cannot be sent as JSON")
    items = np.empty(len(values), object)
    items[:] = values
    return items.reshape(array.shape).tolist()


def _text(value: bytes) -> str | orjson.Fragment:
    """The string; bytes that are not UTF-8 are sent unchanged."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        text = json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)
        return orjson.Fragment(text.encode("utf-8", "surrogateescape"))
