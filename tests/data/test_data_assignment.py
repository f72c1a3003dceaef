"""Splits and shards of a table of pictures, against plain loops over its rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.assignment import KEEP_ORDER, TABLE, leaks, shards

ROWS = st.lists(
    # Few hashes, so that there are twins; some end in a zero byte, or differ in one alone.
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
def test_each_picture_is_in_one_shard_in_its_place(rows, counts):
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
