"""Perceptual hashes survive re-encoding and resizing, and distinguish different pictures."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import DataError
from data.looks import bands_of, look_of, near_pairs, same_looks


def scene(seed, width=320, height=240):
    """Smooth shades and a few hard edges, as in photographs."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (6, 8, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
    for _ in range(4):
        x, y = random.integers(0, width - 60), random.integers(0, height - 60)
        size = random.integers(20, 60, 2)
        picture.paste(tuple(random.integers(0, 255, 3).tolist()), (x, y, x + size[0], y + size[1]))
    return picture


def encoded(picture, kind="JPEG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def distance(look, other):
    return int(np.unpackbits(np.frombuffer(look, np.uint8) ^ np.frombuffer(other, np.uint8)).sum())


CHANGES = {
    "quality 50": lambda picture: encoded(picture, quality=50),
    "quality 20": lambda picture: encoded(picture, quality=20),
    "PNG": lambda picture: encoded(picture, "PNG"),
    "half": lambda picture: encoded(picture.resize((160, 120))),
    "three quarters, quality 40": lambda picture: encoded(picture.resize((240, 180)), quality=40),
    "squeezed": lambda picture: encoded(picture.resize((300, 300))),
    "larger": lambda picture: encoded(picture.resize((480, 360))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_a_different_picture_is_not(change):
    for seed in range(8):
        picture = scene(seed)
        look = look_of(encoded(picture, quality=90))
        copy = look_of(CHANGES[change](picture))
        assert distance(look, copy) <= 40
        assert set(bands_of(look)) & set(bands_of(copy))
        assert distance(look, look_of(encoded(scene(seed + 100)))) > 60


def test_real_photographs(voc_fixtures):
    paths = sorted((voc_fixtures / "voc2007_300").rglob("JPEGImages/*.jpg"))[:60]
    looks = []
    for path in paths:
        look = look_of(path.read_bytes())
        with Image.open(path) as picture:
            smaller = picture.resize((picture.width // 2, picture.height // 2))
        copy = look_of(encoded(smaller, quality=60))
        assert distance(look, copy) <= 24
        assert set(bands_of(look)) & set(bands_of(copy))
        looks.append(look)
    assert min(distance(*pair) for pair in itertools.combinations(looks, 2)) > 60


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_colour_modes(mode):
    picture = scene(3)
    look = look_of(encoded(picture))
    assert distance(look, look_of(encoded(picture.convert(mode)))) <= 40


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (500, 3)])
def test_a_picture_of_one_colour_has_no_look(size):
    assert look_of(encoded(Image.new("RGB", size, (90, 120, 30)))) is None


GOOD = encoded(scene(0))


@pytest.mark.parametrize("broken", [b"", b"not a picture", GOOD[:200], GOOD[: len(GOOD) // 2]])
def test_undecodable_pictures_are_an_error(broken):
    with pytest.raises(DataError, match="cannot be decoded"):
        look_of(broken)


LOOKS = st.lists(
    st.tuples(
        st.sampled_from(["train", "eval", "test"]),
        st.binary(min_size=2, max_size=2).map(lambda tail: bytes(30) + tail),
    ),
    max_size=8,
)


@given(LOOKS, st.integers(-1, 16))
@settings(max_examples=100)
def test_near_pairs_are_all_pairs_of_different_splits_within_the_distance(pictures, most):
    pictures = [(split, f"r{index}", look) for index, (split, look) in enumerate(pictures)]
    expected = {
        frozenset([first[:2], second[:2]]): distance(first[2], second[2])
        for first, second in itertools.combinations(pictures, 2)
        if first[0] != second[0] and distance(first[2], second[2]) <= most
    }
    found = {frozenset([a, b]): bits for a, b, bits in near_pairs(pictures, most)}
    assert found == expected


def test_no_pictures_look_the_same():
    assert not len(same_looks(np.zeros((0, 32), np.uint8)))
