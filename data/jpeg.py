"""Reads and checks JPEG headers, without decoding the picture."""

from dataclasses import dataclass
from typing import Literal

from data.problems import Unusable

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_QUANTISATION = 0xDB
_HUFFMAN = 0xC4
_PROGRESSIVE = 0xC2
_APP1 = 0xE1
_EXIF = b"Exif\x00\x00"
_ORIENTATION = 0x0112
_TURNED = range(5, 9)  # orientations that swap width and height
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
    """Size in pixels as stored, number of channels, and the EXIF orientation, 1 if upright."""

    width: int
    height: int
    channels: int  # 1 grey, 3 colour
    orientation: int = 1

    @property
    def swaps_sides(self) -> bool:
        """Whether applying the orientation swaps width and height."""
        return self.orientation in _TURNED


def read_header(jpeg: bytes) -> JpegHeader:
    """Reads size, channels and orientation, and checks that all decoders will see the same picture.

    A truncated picture lacks the end marker after its scan; what some cameras append after that
    marker is harmless.

    Raises:
        Unusable: not a JPEG, truncated, without the tables needed for decoding, CMYK, or of a kind
            that TensorFlow does not decode.
    """
    if not jpeg:
        raise Unusable("damaged", "the file is empty")
    if not jpeg.startswith(_START):
        raise _other_format(jpeg)
    frame, marker, orientation = None, 0, 1
    quantisation: set[int] = set()
    has_huffman = False
    position = len(_START)
    while marker != _START_OF_SCAN:
        marker, payload, position = _segment(jpeg, position)
        if marker in _FRAMES:
            frame = marker, payload
        elif marker == _QUANTISATION:
            quantisation |= _table_numbers(payload)
        elif marker == _HUFFMAN:
            has_huffman = True
        elif marker == _APP1 and orientation == 1 and payload.startswith(_EXIF):
            orientation = _orientation(payload[len(_EXIF) :])
    if frame is None:
        raise Unusable("damaged", "the JPEG has no frame header")
    width, height, channels = _size(*frame)
    # In the scan, every FF data byte is followed by 00, so this finds the real end.
    if jpeg.find(_END, position) < 0:
        raise _cut_short(jpeg)
    # Decoders know the default Huffman tables, except for progressive pictures.
    needed = set(frame[1][8 : 6 + 3 * channels : 3])
    if not needed <= quantisation or (frame[0] == _PROGRESSIVE and not has_huffman):
        raise Unusable("damaged", "the JPEG lacks tables needed for decoding")
    return JpegHeader(width, height, channels, orientation)


def without_exif(jpeg: bytes) -> bytes:
    """A JPEG that `read_header` accepts, without its EXIF segments; its pixels do not change."""
    kept, position = [_START], len(_START)
    while True:
        start = position
        marker, payload, position = _segment(jpeg, start)
        if not (marker == _APP1 and payload.startswith(_EXIF)):
            kept.append(jpeg[start:position])
        if marker == _START_OF_SCAN:
            return b"".join([*kept, jpeg[position:]])


def _segment(jpeg: bytes, position: int) -> tuple[int, bytes, int]:
    """Marker and payload of the segment at `position`, and the position after it."""
    if jpeg[position : position + 1] not in (b"\xff", b""):
        raise Unusable("damaged", f"the JPEG header is damaged at byte {position}")
    # Any number of FF bytes may precede a marker.
    while jpeg[position : position + 1] == b"\xff":
        position += 1
    length = int.from_bytes(jpeg[position + 1 : position + 3], "big")
    payload = jpeg[position + 3 : position + 1 + length]
    if position + 1 + length > len(jpeg) or length < 2:
        raise _cut_short(jpeg)
    return jpeg[position], payload, position + 1 + length


def _size(marker: int, frame: bytes) -> tuple[int, int, int]:
    """Width, height and channels of a frame header."""
    if marker not in _DECODABLE_FRAMES or len(frame) < 6 or frame[0] != 8:
        raise Unusable(
            "format",
            "the JPEG is lossless, arithmetic-coded or not 8-bit, which TensorFlow does not decode",
        )
    height, width, channels = (
        int.from_bytes(frame[1:3], "big"),
        int.from_bytes(frame[3:5], "big"),
        frame[5],
    )
    if channels == 4:
        raise Unusable("format", "the JPEG is CMYK, which decoders convert to RGB differently")
    if not (height and width and channels in (1, 3)):
        raise Unusable(
            "damaged",
            f"the JPEG header states {width} x {height} pixels and {channels} channels",
        )
    return width, height, channels


def _table_numbers(payload: bytes) -> set[int]:
    """The numbers of the quantisation tables in a segment; each has 64 values of 1 or 2 bytes."""
    numbers, position = set(), 0
    while position < len(payload):
        precision, number = divmod(payload[position], 16)
        numbers.add(number)
        position += 1 + 64 * (2 if precision else 1)
    return numbers


_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\x00": "little", b"MM\x00*": "big"}


def _orientation(tiff: bytes) -> int:
    """The orientation in EXIF data; as in viewers, 1 if it is missing or damaged."""
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return 1

    def number(start: int, size: int) -> int:
        return int.from_bytes(tiff[start : start + size], order)

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if entry + 12 > len(tiff):
            break
        if number(entry, 2) == _ORIENTATION:
            size = {1: 1, 3: 2, 4: 4}.get(number(entry + 2, 2), 0)
            value = number(entry + 8, size)
            return value if 2 <= value <= 8 else 1
    return 1


def _other_format(content: bytes) -> Unusable:
    if content[4:8] == b"ftyp":
        return Unusable("unreadable", "the picture is HEIC or AVIF, which cannot be read")
    for start, name in _OTHER_FORMATS.items():
        if content.startswith(start):
            return Unusable("format", f"the picture is a {name}, not a JPEG")
    return Unusable("unreadable", "not a picture of a known format")


def _cut_short(jpeg: bytes) -> Unusable:
    return Unusable("damaged", f"the JPEG is truncated ({len(jpeg):,} bytes)")
