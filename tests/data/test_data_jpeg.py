import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import DataError
from data.jpeg import read_header, without_exif


@settings(max_examples=50)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    mode=st.sampled_from(["RGB", "L"]),
    progressive=st.booleans(),
    quality=st.sampled_from([5, 75, 100]),
)
def test_size_and_channels_equal_those_from_pillow(
    make_jpeg, width, height, mode, progressive, quality
):
    jpeg = make_jpeg(width, height, mode=mode, progressive=progressive, quality=quality)
    header = read_header(jpeg)
    image = Image.open(io.BytesIO(jpeg))
    assert (header.width, header.height) == image.size
    assert header.channels == len(image.getbands())


@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncation_is_noticed(make_jpeg, progressive):
    jpeg = make_jpeg(progressive=progressive)
    for length in range(len(jpeg)):
        with pytest.raises(DataError):
            read_header(jpeg[:length])


def test_truncation_after_an_embedded_thumbnail_is_noticed(make_jpeg):
    # The thumbnail in the EXIF segment has its own end marker.
    exif = b"Exif\x00\x00" + make_jpeg(16, 16)
    jpeg = make_jpeg(exif=exif)
    assert read_header(jpeg).width == 40
    with pytest.raises(DataError, match="truncated"):
        read_header(jpeg[:-200])


def test_bytes_after_the_end_are_harmless(make_jpeg):
    assert read_header(make_jpeg() + b"\x00" * 64 + b"maker notes").height == 36


def _saved_as(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WebP", "TIFF"])
def test_other_formats_are_named(kind):
    with pytest.raises(DataError, match=f"is a {kind}, not a JPEG. --reencode writes"):
        read_header(_saved_as(kind))


def test_cmyk_is_refused(make_jpeg):
    with pytest.raises(DataError, match="CMYK.*--reencode writes"):
        read_header(make_jpeg(mode="CMYK"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not a picture of a known format"),
        (b"\xff\xd8garbage", "damaged at byte 2"),
        (b"\xff\xd8\xff\xda\x00\x02\xff\xd9", "no frame header"),
    ],
)
def test_content_that_is_not_a_jpeg(content, message):
    with pytest.raises(DataError, match=message):
        read_header(content)


def _with_frame(jpeg: bytes, marker: int | None = None, **changed: int) -> bytes:
    """Overwrites bytes of the frame header: its marker, precision or number of rows."""
    changes = {"precision": 4, "rows_high": 5, "rows_low": 6}
    content = bytearray(jpeg)
    start = jpeg.index(b"\xff\xc0")
    content[start + 1] = marker or 0xC0
    for name, value in changed.items():
        content[start + changes[name]] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"marker": 0xC3}, "lossless, arithmetic-coded or not 8-bit"),
        ({"marker": 0xC9}, "lossless, arithmetic-coded or not 8-bit"),
        ({"precision": 12}, "lossless, arithmetic-coded or not 8-bit"),
        ({"rows_high": 0, "rows_low": 0}, "states 40 x 0 pixels"),
    ],
)
def test_undecodable_kinds_are_refused(make_jpeg, change, message):
    with pytest.raises(DataError, match=message):
        read_header(_with_frame(make_jpeg(), **change))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("table", [0xDB, 0xC4])
def test_tables_are_required_if_tensorflow_needs_them(make_jpeg, progressive, table):
    jpeg = _without(make_jpeg(progressive=progressive), table)
    try:
        tf.io.decode_jpeg(jpeg)
    except tf.errors.InvalidArgumentError:
        with pytest.raises(DataError, match="lacks tables needed for decoding"):
            read_header(jpeg)
    else:
        # The default Huffman tables, which cameras omit from Motion JPEG.
        assert (table, progressive) == (0xC4, False)
        assert read_header(jpeg).height == 36


def _without(jpeg: bytes, left_out: int) -> bytes:
    """A JPEG without the segments of one kind before its scan."""
    kept, position = jpeg[:2], 2
    while True:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if jpeg[position + 1] != left_out:
            kept += jpeg[position:end]
        if jpeg[position + 1] == 0xDA:
            return kept + jpeg[end:]
        position = end


def _exif(orientation, order="MM", kind=3) -> bytes:
    """EXIF data with one entry."""
    byte_order = "big" if order == "MM" else "little"
    value = orientation.to_bytes(2 if kind == 3 else 4, byte_order).ljust(4, b"\0")
    entry = b"".join(n.to_bytes(size, byte_order) for n, size in ((0x112, 2), (kind, 2), (1, 4)))
    head = (42).to_bytes(2, byte_order) + (8).to_bytes(4, byte_order) + (1).to_bytes(2, byte_order)
    return b"Exif\0\0" + order.encode() + head + entry + value + bytes(4)


@pytest.mark.parametrize("order", ["MM", "II"])
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation(make_jpeg, order, kind):
    for orientation in range(1, 9):
        header = read_header(make_jpeg(exif=_exif(orientation, order, kind)))
        assert (header.width, header.height, header.orientation) == (40, 36, orientation)
        assert header.swaps_sides == (orientation >= 5)


@pytest.mark.parametrize(
    "exif", [_exif(0), _exif(9), _exif(6)[:12], _exif(6)[:20], b"Exif\0\0", b"Exif\0\0rubbish"]
)
def test_a_damaged_orientation_counts_as_upright(make_jpeg, exif):
    assert read_header(make_jpeg(exif=exif)).orientation == 1


def test_removing_the_tag(make_jpeg):
    jpeg = make_jpeg(exif=_exif(6), icc_profile=b"profile")
    without = without_exif(jpeg)
    assert read_header(without).orientation == 1
    assert b"Exif" not in without and b"profile" in without
    assert np.array_equal(tf.io.decode_jpeg(without), tf.io.decode_jpeg(jpeg))


def test_real_pictures(voc_fixtures):
    paths = [*voc_fixtures.glob("*/VOCdevkit/*/JPEGImages/*.jpg"), *voc_fixtures.glob("images/*")]
    assert len(paths) >= 400
    for path in paths:
        header = read_header(path.read_bytes())
        with Image.open(path) as image:
            assert (header.width, header.height) == image.size
