import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import DataError
from data.jpeg import read_header


@settings(max_examples=50)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    mode=st.sampled_from(["RGB", "L"]),
    progressive=st.booleans(),
    quality=st.sampled_from([5, 75, 100]),
)
def test_size_and_channels_are_pillows(make_jpeg, width, height, mode, progressive, quality):
    jpeg = make_jpeg(width, height, mode=mode, progressive=progressive, quality=quality)
    header = read_header(jpeg)
    image = Image.open(io.BytesIO(jpeg))
    assert (header.width, header.height) == image.size
    assert header.channels == len(image.getbands())


@pytest.mark.parametrize("progressive", [False, True])
def test_every_cut_is_noticed(make_jpeg, progressive):
    jpeg = make_jpeg(progressive=progressive)
    for length in range(len(jpeg)):
        with pytest.raises(DataError):
            read_header(jpeg[:length])


def test_cut_behind_an_embedded_thumbnail_is_noticed(make_jpeg):
    # The thumbnail in the EXIF segment brings an end marker of its own.
    exif = b"Exif\x00\x00" + make_jpeg(16, 16)
    jpeg = make_jpeg(exif=exif)
    assert read_header(jpeg).width == 40
    with pytest.raises(DataError, match="cut short"):
        read_header(jpeg[:-200])


def test_bytes_behind_the_end_are_harmless(make_jpeg):
    assert read_header(make_jpeg() + b"\x00" * 64 + b"maker notes").height == 36


def _saved_as(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WebP", "TIFF"])
def test_other_formats_are_named(kind):
    with pytest.raises(DataError, match=f"is a {kind}, not a JPEG. Save it as a JPEG"):
        read_header(_saved_as(kind))


def test_cmyk_is_refused(make_jpeg):
    with pytest.raises(DataError, match="CMYK.*Save it as an RGB JPEG"):
        read_header(make_jpeg(mode="CMYK"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "no picture this project knows"),
        (b"\xff\xd8garbage", "damaged at byte 2"),
        (b"\xff\xd8\xff\xda\x00\x02\xff\xd9", "no frame header"),
    ],
)
def test_what_is_no_jpeg(content, message):
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
def test_kinds_that_do_not_decode_are_refused(make_jpeg, change, message):
    with pytest.raises(DataError, match=message):
        read_header(_with_frame(make_jpeg(), **change))


def test_real_pictures(voc_fixtures):
    paths = [*voc_fixtures.glob("*/VOCdevkit/*/JPEGImages/*.jpg"), *voc_fixtures.glob("images/*")]
    assert len(paths) >= 400
    for path in paths:
        header = read_header(path.read_bytes())
        with Image.open(path) as image:
            assert (header.width, header.height) == image.size
