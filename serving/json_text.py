"""Reads and prints JSON with the rules and the error texts of TensorFlow Serving.

It parses with RapidJSON, and so does this: NaN and Infinity are allowed, the first of equal keys
wins, bytes that are not UTF-8 pass through. In strings, such a byte is a lone surrogate (Python's
`surrogateescape`).
"""

import json
import re

import numpy as np
import rapidjson

from serving.status import invalid

_PARSE_ERROR = re.compile(r"Parse error at offset (\d+): (.*)", re.DOTALL)
_BOM = b"\xef\xbb\xbf"
# The escapes in a string: a pair of surrogates, the second half of one alone, any other.
_ESCAPED = re.compile(r"\\(?:u[dD][89abAB]..\\u|u([dD][c-fC-F][\da-fA-F]{2})|.)", re.DOTALL)
_NOT_FINITE = "\0"  # in no other JSON text, where it would be escaped
_ESCAPES = str.maketrans(
    {chr(code): f"\\u{code:04X}" for code in range(0x20)}
    | {character: json.dumps(character)[1:-1] for character in '"\\\b\f\n\r\t'}
)
# RapidJSON for Python takes only valid text: a stray byte travels as a private-use character.
_TO_PRIVATE = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}
_FROM_PRIVATE = {private: stray for stray, private in _TO_PRIVATE.items()}


class _Decoder(rapidjson.Decoder):
    def start_object(self):
        return []

    def end_object(self, pairs):
        first: dict = {}
        for key, value in pairs:
            first.setdefault(key, value)
        return first


class _StrayByteDecoder(_Decoder):
    def string(self, text):
        return text.translate(_FROM_PRIVATE)

    def end_object(self, pairs):
        return super().end_object([(key.translate(_FROM_PRIVATE), value) for key, value in pairs])


_NUMBERS = rapidjson.NM_NATIVE | rapidjson.NM_NAN
_DECODER = _Decoder(number_mode=_NUMBERS)
_STRAY_BYTE_DECODER = _StrayByteDecoder(number_mode=_NUMBERS)


def parse(body: bytes) -> object:
    """The JSON value in a request body; raises INVALID_ARGUMENT as RapidJSON words it."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    json_bytes = body.removeprefix(_BOM)
    text = json_bytes.decode("utf-8", "surrogateescape")
    if "\\u" in text:
        text = _ESCAPED.sub(_unescaped_if_alone, text)
    decoder = _DECODER
    if not text.isascii() and (private := text.translate(_TO_PRIVATE)) != text:
        text, decoder = private, _STRAY_BYTE_DECODER
    try:
        return decoder(text)
    except RecursionError as error:
        raise invalid("JSON Parse error: nested too deeply (1000 levels at most)") from error
    except rapidjson.JSONDecodeError as error:
        offset, what = _PARSE_ERROR.match(str(error)).groups()
        if what == "Invalid encoding in string." and text.encode()[int(offset)] < 0x20:
            # As RapidJSON 1.1.0 says it, which TensorFlow Serving is built with.
            what = "Invalid escape character in string."
        before = text.encode()[: int(offset)].decode("utf-8", "ignore").translate(_FROM_PRIVATE)
        offset = len(body) - len(json_bytes) + len(before.encode("utf-8", "surrogateescape"))
        raise invalid(f"JSON Parse error: {what} at offset: {offset}") from error


def _unescaped_if_alone(escape: re.Match) -> str:
    """The bytes that RapidJSON 1.1.0 makes of the second half of a surrogate pair by itself."""
    alone = escape[1] and chr(int(escape[1], 16)).encode("utf-8", "surrogatepass")
    return alone.decode("utf-8", "surrogateescape") if alone else escape[0]


def dtype_name(dtype) -> str:
    """TensorFlow's C++ name of a `tf.DType`, used in its messages."""
    return {"float32": "float", "float64": "double", "float16": "half"}.get(dtype.name, dtype.name)


def pretty(value: object) -> str:
    """A value as TensorFlow Serving shows it in error messages."""
    if isinstance(value, float):
        fits = not np.isfinite(value) or abs(value) <= np.finfo(np.float32).max
        return decimals(np.array([value], np.float32 if fits else np.float64))[0]
    try:
        # RapidJSON stops writing where a number is not finite.
        return _pretty(value, 0).partition(_NOT_FINITE)[0]
    except RecursionError:
        return "(nested too deeply to be shown)"


def _pretty(value: object, level: int) -> str:
    if isinstance(value, float):
        return _shortest(value)
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if not isinstance(value, (dict, list)) or not value:
        return json.dumps(value)
    inner, outer = "\n" + "    " * (level + 1), "\n" + "    " * level
    if isinstance(value, list):
        return "[" + ",".join(inner + _pretty(v, level + 1) for v in value) + outer + "]"
    members = (f"{inner}{_pretty(k, 0)}: {_pretty(v, level + 1)}" for k, v in value.items())
    return "{" + ",".join(members) + outer + "}"


def _shortest(value: float) -> str:
    """RapidJSON's own spelling of a double: plain from 1e-6 to 1e21, else like 1e30 or 1.5e-7."""
    if not np.isfinite(value):
        return _NOT_FINITE
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        return np.format_float_positional(value, trim="0")
    mantissa, exponent = np.format_float_scientific(value, trim="-").split("e")
    return f"{mantissa}e{int(exponent)}"


def decimals(values: np.ndarray) -> list[str]:
    """JSON numbers of a flat float32 or float64 array: 6 digits if that is exact, else all.

    Whole numbers get `.0`, so that a list never mixes integers and floats.
    """
    texts = [f"{value:.6g}" for value in values.tolist()]
    with np.errstate(over="ignore"):
        exact = np.fromiter(map(float, texts), np.float64, len(texts)).astype(values.dtype)
    full = ".9g" if values.dtype == np.float32 else ".17g"
    for i in np.flatnonzero((exact != values) & np.isfinite(values)):
        texts[i] = format(values[i].item(), full)
    return [t if "." in t or "e" in t else _SPECIAL.get(t) or t + ".0" for t in texts]


def nine_digits(values: np.ndarray) -> np.ndarray | None:
    """The float64s whose shortest spelling is that of `decimals`; None for some, to be spelled out.

    That is for float32 numbers which need no exponent: many times as fast where there are many.
    """
    exact = values.astype(np.float64)
    size = np.abs(exact)
    if not size.max(initial=0) < 1e6 or ((size < 1e-4) & (size > 0)).any():
        return None
    # Both products and quotients by a power of ten up to 1e22 are rounded once.
    unit = _UNITS[np.searchsorted(_POWERS_OF_TEN, size, "right")]
    six = np.rint(exact * unit) / unit
    unit *= 1000
    nine = np.rint(exact * unit) / unit
    return np.where(six.astype(np.float32) == values, six, nine)


# The sixth digit's place, for numbers that start below 1e-3, at 1e-3, ... and at 1e5.
_POWERS_OF_TEN = 10.0 ** np.arange(-3, 6)
_UNITS = 10.0 ** np.arange(9, -1, -1)
_SPECIAL = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
