"""Counts the pixels of the encoded pictures in a request, from their headers alone."""

from collections.abc import Iterable, Iterator
from io import BytesIO

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image

from serving.model_server.status import invalid

# Per request, and for all running requests together: decoding takes 3 bytes per pixel.
MAX_PIXELS = 100_000_000
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")


def count_pixels(arrays: Iterable[np.ndarray]) -> int:
    """Pixels of all encoded pictures in a request's inputs, including those in `tf.Example`s.

    Raises INVALID_ARGUMENT above `MAX_PIXELS`.
    """
    values = (v for array in arrays if array.dtype == object for v in array.ravel())
    total = sum(_pixels(picture) for value in values for picture in _encoded(value))
    if total > MAX_PIXELS:
        raise invalid(
            f"the pictures have {total} pixels, but a request may have {MAX_PIXELS}: "
            "send fewer or smaller ones"
        )
    return total


def _encoded(value: bytes) -> Iterator[bytes]:
    """Possible encoded pictures: the value itself, or those in it if it is a `tf.Example`."""
    if value.startswith(_STARTS):
        yield value
        return
    try:
        features = tf.train.Example.FromString(value).features.feature
    except DecodeError:
        return
    for feature in features.values():
        yield from (v for v in feature.bytes_list.value if v.startswith(_STARTS))


def _pixels(picture: bytes) -> int:
    """Width times height by the header; 0 if Pillow cannot read it."""
    try:
        with Image.open(BytesIO(picture)) as opened:
            return opened.width * opened.height
    except Image.DecompressionBombError as error:
        raise invalid(f"picture refused: {error}") from error
    except (OSError, SyntaxError, ValueError):
        return 0  # left to TensorFlow's decoder, which has the better message
