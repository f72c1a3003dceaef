"""Converting rotated pictures and formats other than plain JPEG."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from data import pictures
from data.jpeg import read_header
from data.pictures import settle_picture
from data.problems import Unusable

_RED, _BLUE = (220, 20, 20), (20, 20, 220)


def _scene() -> Image.Image:
    """Looks different in each orientation: red on top, a blue corner."""
    scene = Image.new("RGB", (64, 48), "white")
    scene.paste(_RED, (0, 0, 64, 16))
    scene.paste(_BLUE, (0, 32, 16, 48))
    return scene


def _encoded(image: Image.Image, kind: str = "JPEG", orientation: int = 1, **options) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(file, kind, exif=exif, **options)
    return file.getvalue()


def _pixels(encoded: bytes) -> np.ndarray:
    """The pixels as TensorFlow sees them; asserts that there is no tag."""
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        return np.asarray(image.convert("RGB")).astype(int)


def _same(encoded: bytes, expected: Image.Image) -> bool:
    found = _pixels(encoded)
    wanted = np.asarray(expected.convert("RGB")).astype(int)
    return found.shape == wanted.shape and np.abs(found - wanted).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_rotated_pictures_need_a_choice_of_exif(kind, orientation):
    content = _encoded(_scene(), kind, orientation)
    probe = Image.open(io.BytesIO(_encoded(_scene(), "PNG", orientation)))
    upright = ImageOps.exif_transpose(probe)
    with pytest.raises(Unusable, match=f"EXIF orientation {orientation}, .*--exif upright.*stored"):
        settle_picture(content, None, reencode=True)

    turned = settle_picture(content, "upright", reencode=True)
    assert _same(turned.jpeg, upright)
    assert (turned.header.width, turned.header.height) == upright.size
    assert "turned upright" in turned.changes

    stored = settle_picture(content, "stored", reencode=True)
    assert _same(stored.jpeg, _scene())
    assert stored.swapped_sides == turned.swapped_sides == (orientation >= 5)
    if kind == "JPEG":
        assert stored.jpeg[-200:] == content[-200:], "the same encoded pixels"


@pytest.mark.parametrize("exif", [None, "upright", "stored"])
def test_plain_jpegs_stay_byte_for_byte(exif):
    for content in (_encoded(_scene()), _encoded(_scene().convert("L"))):
        settled = settle_picture(content, exif, reencode=True)
        assert (settled.jpeg, settled.changes) == (content, ())


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *[("PNG", mode) for mode in ("RGB", "RGBA", "P", "L", "LA", "1")],
        *[("BMP", "RGB"), ("GIF", "P"), ("WEBP", "RGBA"), ("TIFF", "CMYK"), ("JPEG", "CMYK")],
    ],
)
def test_other_formats_are_written_as_rgb_jpegs_on_request(kind, mode):
    content = _encoded(_scene().convert(mode), kind)
    with pytest.raises(Unusable, match="--reencode writes such pictures as RGB JPEGs"):
        settle_picture(content, None, reencode=False)
    settled = settle_picture(content, None, reencode=True)
    assert settled.header == read_header(settled.jpeg)
    assert settled.header.channels == 3
    reference = Image.open(io.BytesIO(content)).convert("RGB")
    assert np.abs(_pixels(settled.jpeg) - np.asarray(reference).astype(int)).mean() < 6


def test_transparency_becomes_white():
    content = _encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "PNG")
    assert _pixels(settle_picture(content, None, reencode=True).jpeg).min() > 250


def test_of_16_bits_the_upper_8_are_kept():
    levels = np.repeat(np.linspace(0, 65535, 16).astype(np.uint16), 16).reshape(16, 16)
    settled = settle_picture(_encoded(Image.fromarray(levels), "PNG"), None, reencode=True)
    assert np.abs(_pixels(settled.jpeg)[:, 8, 0] - (levels[:, 8] >> 8)).max() <= 3


def test_damaged_unknown_and_huge_pictures_are_refused(monkeypatch):
    png = _encoded(_scene(), "PNG")
    for content, kind in (
        (png[:-40], "damaged"),
        (b"<html>", "unreadable"),
        (b"\0\0\0\x20ftypheic" + bytes(40), "unreadable"),
        (_encoded(Image.new("F", (8, 8)), "TIFF"), "unreadable"),
        (_encoded(_scene(), orientation=6)[:-300], "damaged"),
    ):
        with pytest.raises(Unusable) as error:
            settle_picture(content, "upright", reencode=True)
        assert error.value.problem.kind == kind
    monkeypatch.setattr(pictures, "_MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(Unusable, match="64 x 48 pixels. Scale picture and boxes down"):
        settle_picture(png, None, reencode=True)
