"""Rows of pieces are put together in bulk as they would be one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.ragged import ROWS_AT_ONCE, gather, starts_of


@given(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=5)), min_size=1, max_size=40))
def test_rows_are_what_they_are_made_of(rows: list[tuple[bytes, bytes]]) -> None:
    """Whatever the lengths, nothing included."""
    columns = [[row[number] for row in rows] for number in (0, 1)]
    lengths = [np.array([len(piece) for piece in column]) for column in columns]
    source = np.frombuffer(b"".join(columns[0] + columns[1]), np.uint8)
    starts = [starts_of(lengths[0]), starts_of(lengths[1]) + lengths[0].sum()]
    assert b"".join(gather(source, starts, lengths)) == b"".join(first + second for first, second in rows)


def test_many_rows_come_some_at_a_time() -> None:
    """So that their index stays small."""
    count = 2 * ROWS_AT_ONCE + 1
    rows = np.arange(count)
    parts = list(gather(np.frombuffer(b"ab", np.uint8), [rows % 2], [np.ones(count, np.int64)]))
    assert [len(part) for part in parts] == [ROWS_AT_ONCE, ROWS_AT_ONCE, 1]
    assert b"".join(parts) == (b"ab" * count)[:count]


def test_no_rows() -> None:
    """Give nothing."""
    none = np.empty(0, np.int64)
    assert list(gather(np.empty(0, np.uint8), [none], [none])) == []
