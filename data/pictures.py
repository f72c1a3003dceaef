"""Turns pictures into upright JPEGs, grey or RGB, that every decoder reads alike."""

import io
import math
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from data.jpeg import JpegHeader, read_header, without_exif
from data.options import STORED
from data.problems import Unusable

JPEG_QUALITY = 95
# Pillow's limit against decompression bombs, and the limit of JPEG.
_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or math.inf
_LONGEST_SIDE = 65_500
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
# By EXIF orientation: how to turn stored pixels upright, and what they look like as stored.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {**_UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_LOOKS = {
    2: "mirrored",
    3: "upside down",
    4: "mirrored and upside down",
    5: "mirrored and on its side",
    6: "on its left side",
    7: "mirrored and on its side",
    8: "on its right side",
}
# Exceptions of Pillow's decoders for damaged files.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


class SettledPicture(NamedTuple):
    """An upright JPEG, its header, and what was changed to get it."""

    jpeg: bytes
    header: JpegHeader
    changes: tuple[str, ...] = ()
    swapped_sides: bool = False  # whether the original tag swapped width and height


def settle_picture(content: bytes, exif: str | None, reencode: bool) -> SettledPicture:
    """Makes an upright, plain JPEG of a picture; returns it unchanged if it is one already.

    Args:
        content: an encoded picture.
        exif: `upright` or `stored`, as in `ConversionOptions`.
        reencode: whether to re-encode formats other than plain JPEG.

    Raises:
        Unusable: the picture is damaged, in another format, or rotated by a tag with `exif` unset.
    """
    try:
        header = read_header(content)
    except Unusable as error:
        if not reencode or error.problem.kind != "format":
            raise
        return _reencode(content, exif)
    if header.orientation == 1:
        return SettledPicture(content, header)
    _check_decided(header.orientation, exif)
    if exif == STORED:
        jpeg = without_exif(content)
        changes = ("orientation tag removed, pixels as stored",)
        return SettledPicture(jpeg, read_header(jpeg), changes, header.swaps_sides)
    upright = _encode(_decode(content)[0].transpose(_UPRIGHT[header.orientation]))
    return SettledPicture(upright, read_header(upright), ("turned upright",), header.swaps_sides)


def _reencode(content: bytes, exif: str | None) -> SettledPicture:
    image, orientation = _decode(content)
    name = image.format
    changes = [f"{'CMYK or unusual JPEG' if name == 'JPEG' else name} written as RGB JPEG"]
    pixels = _rgb(image)
    if orientation in _UPRIGHT:
        _check_decided(orientation, exif)
        # Pillow has already turned a TIFF.
        if exif == STORED:
            pixels = pixels.transpose(_BACK[orientation]) if name == "TIFF" else pixels
            changes.append("orientation tag removed, pixels as stored")
        else:
            pixels = pixels if name == "TIFF" else pixels.transpose(_UPRIGHT[orientation])
            changes.append("turned upright")
    jpeg = _encode(pixels)
    return SettledPicture(jpeg, read_header(jpeg), tuple(changes), orientation in range(5, 9))


def _check_decided(orientation: int, exif: str | None) -> None:
    if not exif:
        raise Unusable("exif", f"EXIF orientation {orientation}, stored {_LOOKS[orientation]}")


def _decode(content: bytes) -> tuple[Image.Image, int]:
    """A picture of bounded size, and its EXIF orientation; a TIFF is already upright."""
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        width, height = image.size
        if width * height > _MOST_PIXELS or max(width, height) > _LONGEST_SIDE:
            raise Unusable("large", f"the picture has {width:,} x {height:,} pixels")
        # A TIFF loses its tag when Pillow loads, and turns, its pixels.
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        image.load()
    except Unusable:
        raise
    except _DAMAGE as error:
        raise Unusable("damaged", f"the picture cannot be decoded ({error})") from error
    return image, orientation


def _rgb(image: Image.Image) -> Image.Image:
    """The first frame as RGB, with transparency on white and 16 bits reduced to the upper 8."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise Unusable("unreadable", f"the {image.format} has 32 bits per pixel, of unknown range")
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")


def _encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()
