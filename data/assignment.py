"""Assigns pictures to splits and shards, from one table with the hashes of all pictures.

A row takes 29 bytes, 61 with a look. As elements of a Beam group, pictures would be Python objects
ten times as large, of which a local runner holds several copies.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.looks import LOOK_BYTES, same_looks
from data.splits import SPLITS

# A picture found in several splits stays in the first of these: a leak into test does most harm.
KEEP_ORDER = ("test", "eval", "train")

# One row per picture, in any order.
TABLE = np.dtype(
    [
        ("number", np.uint32),  # in the picture index
        ("split", np.uint8),  # index in KEEP_ORDER
        ("sha256", "S16"),  # of its bytes; half of the digest identifies them
        ("place", np.uint64),  # random: decides the shard and the position in it
    ]
)
# Used where the split depends on the look of a picture; zeros mean no look.
TABLE_WITH_LOOKS = np.dtype([*TABLE.descr, ("look", np.uint8, (LOOK_BYTES,))])


def split_by_content(table: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Sets the split of each row; pictures that look the same form a group and stay together.

    A group's split depends only on its content, not on other pictures, unless a split would be
    empty: it then takes the nearest group.

    Args:
        table: of TABLE_WITH_LOOKS.
        shares: of train, eval and test, adding up to 1.

    Returns:
        int [rows], the group number of each row.
    """
    rows = len(table)
    order = np.argsort(table["sha256"])
    same = table["sha256"][order][1:] == table["sha256"][order][:-1]
    equal = np.stack([order[:-1][same], order[1:][same]], axis=1)
    one, other = np.concatenate([equal, same_looks(table["look"])]).T
    links = coo_array((np.ones(len(one), bool), (one, other)), (rows, rows))
    _, group = connected_components(links, directed=False)
    # The smallest hash of a group, as a number in [0, 1), decides its split.
    _, first = np.unique(group[order], return_index=True)
    least = table["sha256"][order][first]
    place = np.array([int.from_bytes(h.ljust(8, b"\0")[:8], "big") / 2**64 for h in least])
    ends = np.cumsum(shares)
    split = np.searchsorted(ends / ends[-1], place, side="right")
    for index, share in enumerate(shares):
        if share and not (split == index).any():
            distance = np.abs(place - (ends[index] - share / 2))
            distance[np.bincount(split, minlength=len(SPLITS))[split] == 1] = np.inf
            if np.isfinite(distance).any():
                split[np.argmin(distance)] = index
    order_of = np.array([KEEP_ORDER.index(name) for name in SPLITS], np.uint8)
    table["split"] = order_of[split[group]]
    return group


def leaks(table: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Byte-identical pictures in several splits: the rows that stay and those that would leak.

    The rows in the first of their splits in KEEP_ORDER stay.
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

    shards_of: number of shards by split.
    """
    for index, split in enumerate(KEEP_ORDER):
        rows = table[table["split"] == index]
        shard = rows["place"] % np.uint64(shards_of[split])
        order = np.lexsort((rows["place"], shard))
        bounds = np.searchsorted(shard[order], np.arange(shards_of[split] + 1))
        for number, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            if start < end:
                yield split, number, rows["number"][order[start:end]]
