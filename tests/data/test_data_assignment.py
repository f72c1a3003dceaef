"""Splits and shards of a table of pictures, compared with plain loops over its rows."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.assignment import KEEP_ORDER, TABLE, TABLE_WITH_LOOKS, leaks, shards, split_by_content
from data.looks import LOOK_BYTES

ROWS = st.lists(
    # Few hashes, so that there are twins; some end in zero bytes or differ only after one.
    st.tuples(
        st.integers(0, 2), st.sampled_from([b"a", b"a\0\0b", b"b", b""]), st.integers(0, 2**64 - 1)
    ),
    max_size=12,
)


def tabulate(rows):
    return np.array([(number, *row) for number, row in enumerate(rows)], TABLE)


@given(ROWS)
def test_twins_stay_in_one_split(rows):
    expected = {}
    for picture in {sha256 for _, sha256, _ in rows}:
        twins = [row for row, (_, sha256, _) in enumerate(rows) if sha256 == picture]
        stays = min(rows[row][0] for row in twins)
        leaking = {row for row in twins if rows[row][0] != stays}
        if leaking:
            expected[frozenset(leaking)] = set(twins) - leaking
    found = {frozenset(gone.tolist()): set(kept.tolist()) for kept, gone in leaks(tabulate(rows))}
    assert found == expected


@given(ROWS, st.tuples(*[st.integers(1, 3)] * 3))
def test_each_picture_is_in_one_shard_at_its_place(rows, counts):
    shards_of = dict(zip(KEEP_ORDER, counts, strict=True))
    expected = {}
    for place, number in sorted((place, number) for number, (_, _, place) in enumerate(rows)):
        split = KEEP_ORDER[rows[number][0]]
        expected.setdefault((split, place % shards_of[split]), []).append(number)
    found = {
        (split, shard): numbers.tolist()
        for split, shard, numbers in shards(tabulate(rows), shards_of)
    }
    assert found == expected


def _with_looks(looks, seeds=None):
    table = np.zeros(len(looks), TABLE_WITH_LOOKS)
    table["number"] = np.arange(len(looks))
    table["look"] = looks
    table["sha256"] = [
        hashlib.sha256(str(seed).encode()).digest()[:16] for seed in seeds or range(len(looks))
    ]
    return table


def _looks(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, LOOK_BYTES), np.uint8)


def test_a_split_by_content_has_the_right_shares_and_ignores_other_pictures():
    assert KEEP_ORDER == ("test", "eval", "train")
    table = _with_looks(_looks(1000))
    groups = split_by_content(table, (0.8, 0.1, 0.1))
    assert len(set(groups)) == 1000
    shares = {name: (table["split"] == n).mean() for n, name in enumerate(KEEP_ORDER)}
    assert shares == pytest.approx({"train": 0.8, "eval": 0.1, "test": 0.1}, abs=0.03)
    some = table[::2].copy()
    some["split"] = 0
    split_by_content(some[::-1], (0.8, 0.1, 0.1))
    assert (some["split"] == table["split"][::2]).all()


def test_pictures_that_look_the_same_share_a_split():
    looks = _looks(300)
    # Chains of three pictures, each a few bits from the last, and a twin of the first.
    near = looks.copy()
    near[:, :4] ^= 1
    further = near.copy()
    further[:, 4:8] ^= 1
    table = _with_looks(np.concatenate([looks, near, further, looks]), [*range(900), *range(300)])
    table["look"][900:] = 0  # no look, as for one colour: only the bytes match
    groups = split_by_content(table, (0.5, 0.25, 0.25))
    for first in range(300):
        same = [first, first + 300, first + 600, first + 900]
        assert len({groups[row] for row in same}) == 1
        assert len({table["split"][row] for row in same}) == 1
    assert len(set(groups)) == 300


def test_no_split_is_empty_if_there_are_enough_pictures():
    for count in range(3, 12):
        table = _with_looks(_looks(count, count), [f"{count} {n}" for n in range(count)])
        split_by_content(table, (0.8, 0.1, 0.1))
        assert set(table["split"]) == {0, 1, 2}
    table = _with_looks(_looks(5))
    split_by_content(table, (0.9, 0.1, 0.0))
    assert set(table["split"]) == {KEEP_ORDER.index("train"), KEEP_ORDER.index("eval")}


@pytest.mark.parametrize(
    ("shares", "places", "splits"),
    [
        # Each share begins at its lower limit.
        ((0.5, 0.25, 0.25), (0.25, 0.5, 0.6, 0.875), "train eval eval test"),
        # 0.79 is nearest to the middle of the empty split, 0.92 to its end.
        ((0.8, 0.1, 0.1), (0.1, 0.79, 0.92, 0.98), "train eval test test"),
        # A split does not give away its only group.
        ((0.8, 0.1, 0.1), (0.1,), "train"),
    ],
)
def test_the_split_follows_from_the_place_of_the_hash(shares, places, splits):
    table = _with_looks(_looks(len(places)))
    table["sha256"] = [int(place * 2**64).to_bytes(8, "big") + b"x" * 8 for place in places]
    split_by_content(table, shares)
    assert [KEEP_ORDER[split] for split in table["split"]] == splits.split()
