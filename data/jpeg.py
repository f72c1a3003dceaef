"""What a JPEG says about itself, read from its header without decoding the picture."""

from dataclasses import dataclass

from data.errors import DataError

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
# Frame headers; C4, C8 and CC in this range are tables and extensions.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Baseline, extended sequential and progressive Huffman: what TensorFlow's decoder reads.
_DECODABLE_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_FORMATS = {
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}


@dataclass(frozen=True)
class JpegHeader:
    """Size in pixels, as stored (an EXIF rotation is not applied), and number of channels."""

    width: int
    height: int
    channels: int  # 1 grey, 3 colour


def read_header(jpeg: bytes) -> JpegHeader:
    """Reads size and channels, and checks that every decoder will see the same picture.

    A picture that was cut short lacks the end marker behind its scan; what some cameras append
    after that marker is harmless.

    Raises:
        DataError: not a JPEG, cut short, CMYK, or of a kind that TensorFlow does not decode.
    """
    if not jpeg:
        raise DataError("the file is empty. Copy the picture again")
    if not jpeg.startswith(_START):
        raise DataError(f"{_format_of(jpeg)}, not a JPEG. Save it as a JPEG")
    header = None
    position = len(_START)
    while True:
        marker, payload, position = _segment(jpeg, position)
        if marker in _FRAMES:
            header = _frame(marker, payload)
        if marker == _START_OF_SCAN:
            break
    if header is None:
        raise DataError("the JPEG has no frame header. Save it again")
    # In the scan every FF byte of data is followed by 00, so this finds the real end.
    if jpeg.find(_END, position) < 0:
        raise _cut_short(jpeg)
    return header


def _segment(jpeg: bytes, position: int) -> tuple[int, bytes, int]:
    """Returns marker, payload and the position behind the segment at `position`."""
    if jpeg[position : position + 1] not in (b"\xff", b""):
        raise DataError(f"the JPEG header is damaged at byte {position}. Copy the picture again")
    # Any number of FF bytes may stand before a marker.
    while jpeg[position : position + 1] == b"\xff":
        position += 1
    length = int.from_bytes(jpeg[position + 1 : position + 3], "big")
    payload = jpeg[position + 3 : position + 1 + length]
    if position + 1 + length > len(jpeg) or length < 2:
        raise _cut_short(jpeg)
    return jpeg[position], payload, position + 1 + length


def _frame(marker: int, payload: bytes) -> JpegHeader:
    if marker not in _DECODABLE_FRAMES or len(payload) < 6 or payload[0] != 8:
        raise DataError(
            "the JPEG is lossless, arithmetic-coded or not 8-bit, which TensorFlow does not "
            "decode. Save it as an ordinary JPEG"
        )
    height, width, channels = (
        int.from_bytes(payload[1:3], "big"),
        int.from_bytes(payload[3:5], "big"),
        payload[5],
    )
    if channels == 4:
        raise DataError(
            "the JPEG is CMYK, whose colours decoders turn into RGB differently. Save it as an "
            "RGB JPEG"
        )
    if not (height and width and channels in (1, 3)):
        raise DataError(
            f"the JPEG header states {width} x {height} pixels and {channels} channels. "
            "Save it again"
        )
    return JpegHeader(width, height, channels)


def _format_of(content: bytes) -> str:
    for start, name in _OTHER_FORMATS.items():
        if content.startswith(start):
            return f"the picture is a {name}"
    return "the file is no picture this project knows"


def _cut_short(jpeg: bytes) -> DataError:
    return DataError(f"the JPEG is cut short ({len(jpeg):,} bytes). Copy the picture again")
