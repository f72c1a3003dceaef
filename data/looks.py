"""Perceptual hashes of pictures, and finding pictures that look the same."""

import io
from collections.abc import Iterable, Iterator

import imagehash
import numpy as np
from PIL import Image

from data.errors import DataError

# Of 256 bits: re-encoded or resized photographs differ in up to 20, different ones in 80 or more.
SAME_LOOK_DISTANCE = 40
LOOK_BYTES = 32

_HASH_SIDE = 16
_LOW_SIDE = 8
# A hash has about as many ones as zeros, unless the picture has no structure.
_LEAST_ONES = 64
_BANDS = 6
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)


def look_of(encoded: bytes) -> bytes | None:
    """The perceptual hash of an encoded picture, 32 bytes; None if it is all one colour.

    It is the signs of low frequencies (pHash), which re-encoding and resizing hardly change. JPEGs
    are decoded at reduced size (1/8 to 1/2) where that is enough.

    Raises:
        DataError: the picture cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.draft("L", (64, 64))
            bits = imagehash.phash(image, hash_size=_HASH_SIDE).hash
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be decoded ({error})") from error
    return np.packbits(bits).tobytes() if bits.sum() >= _LEAST_ONES else None


def bands_of(look: bytes) -> list[tuple[int, bytes]]:
    """Keys made of the lowest frequencies: pictures that look the same share at least one.

    Only pictures that share a key are compared, so the work grows with the number of pictures and
    not with its square.
    """
    low = _bits(look).reshape(_HASH_SIDE, _HASH_SIDE)[:_LOW_SIDE, :_LOW_SIDE].reshape(-1)
    parts = np.array_split(low, _BANDS)
    return [(index, np.packbits(part).tobytes()) for index, part in enumerate(parts)]


def near_pairs(
    pictures: Iterable[tuple[str, str, bytes]], max_distance: int
) -> Iterator[tuple[tuple[str, str], tuple[str, str], int]]:
    """Pairs of (split, record id) from different splits, with the number of differing bits.

    pictures: (split, record id, look).
    """
    by_split: dict[str, list[tuple[str, bytes]]] = {}
    for split, record_id, look in sorted(pictures):
        by_split.setdefault(split, []).append((record_id, look))
    splits = list(by_split)
    tables = {
        split: np.frombuffer(b"".join(look for _, look in rows), np.uint8).reshape(len(rows), -1)
        for split, rows in by_split.items()
    }
    for index, split in enumerate(splits):
        for other in splits[index + 1 :]:
            for (record_id, _), row in zip(by_split[split], tables[split], strict=True):
                distance = _ONES[tables[other] ^ row].sum(axis=1)
                for match in np.flatnonzero(distance <= max_distance):
                    other_id = by_split[other][match][0]
                    yield (split, record_id), (other, other_id), int(distance[match])


def same_looks(looks: np.ndarray) -> np.ndarray:
    """Pairs of pictures that look the same: int [pairs, 2], their indices in `looks`.

    looks: uint8 [pictures, 32]; all zeros for a picture without a look.
    """
    pairs = [np.empty((0, 2), np.int64)]
    having = np.flatnonzero(looks.any(axis=1))
    bits = np.unpackbits(looks[having], axis=1).reshape(-1, _HASH_SIDE, _HASH_SIDE)
    low = bits[:, :_LOW_SIDE, :_LOW_SIDE].reshape(len(having), _LOW_SIDE**2)
    for part in np.array_split(low, _BANDS, axis=1):
        keys = part @ (1 << np.arange(part.shape[1]))
        order = np.argsort(keys, kind="stable")
        bounds = np.flatnonzero(np.diff(keys[order])) + 1
        for members in np.split(having[order], bounds):
            for index, one in enumerate(members[:-1]):
                others = members[index + 1 :]
                distance = _ONES[looks[others] ^ looks[one]].sum(axis=1)
                near = others[distance <= SAME_LOOK_DISTANCE]
                pairs.append(np.stack([np.full_like(near, one), near], axis=1))
    return np.concatenate(pairs)


def _bits(look: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(look, np.uint8))
