"""Which pictures go to which split and shard, decided from a table of the hashes of all of them.

A picture takes 29 bytes in it. As an element of one of Beam's groups it would be a few Python
objects, ten times as large, of which a local runner holds several copies.
"""

from collections.abc import Iterator, Mapping

import numpy as np

# A picture found in several splits stays in the one whose result it would spoil.
KEEP_ORDER = ("test", "eval", "train")

# One row a picture, in any order.
TABLE = np.dtype(
    [
        ("number", np.uint32),  # by which the workers know the picture
        ("split", np.uint8),  # that it is for, as index in KEEP_ORDER
        ("sha256", "S16"),  # of its bytes; half of it is enough to know them by
        ("place", np.uint64),  # at random: decides the shard and the place in it
    ]
)


def leaks(table: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of byte-identical pictures in several splits, the rows that stay and those that would leak.

    Those of one split stay.
    """
    if not len(table):
        return
    order = np.lexsort((table["split"], table["sha256"]))
    split, sha256 = table["split"][order], table["sha256"][order]
    other = sha256[1:] != sha256[:-1]  # picture than the one before
    first = np.flatnonzero(np.append(True, other))
    last = np.flatnonzero(np.append(other, True))
    several = split[first] != split[last]
    for start, end in zip(first[several], last[several] + 1, strict=True):
        stays = split[start:end] == split[start]
        yield order[start:end][stays], order[start:end][~stays]


def shards(
    table: np.ndarray, shards_of: Mapping[str, int]
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Split, number and shuffled pictures (uint32 [n], at least one) of each shard.

    shards_of: how many there are, by split.
    """
    for index, split in enumerate(KEEP_ORDER):
        rows = table[table["split"] == index]
        shard = rows["place"] % np.uint64(shards_of[split])
        order = np.lexsort((rows["place"], shard))
        bounds = np.searchsorted(shard[order], np.arange(shards_of[split] + 1))
        for number, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            if start < end:
                yield split, number, rows["number"][order[start:end]]
