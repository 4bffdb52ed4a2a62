"""Checks for the columns of a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.batch import MONOTONIC, Batch
from gateway.store import columns
from gateway.store.integers import SegmentError, Writer

int64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9))
rows = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 2**32 - 1]), int64, int64, st.sampled_from([0, 1, 2, 4, 5, 12, 15])),
    min_size=1,
    max_size=60,
)


def batch_of(readings: list[tuple[int, int, int, int]]) -> Batch:
    """Return rows as a sorted batch."""
    dtypes = (np.uint32, np.int64, np.int64, np.uint8)
    return Batch(*(np.array(c, d) for c, d in zip(zip(*readings, strict=True), dtypes, strict=True))).sorted()


def same(one: Batch, other: Batch) -> bool:
    """Return whether two batches are equal, bit by bit."""
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("series", "time_ns", "bits", "flags")
    )


@given(rows)
def test_a_batch_comes_back_bit_by_bit(readings: list[tuple[int, int, int, int]]) -> None:
    """Any series, times, bits and flags."""
    batch = batch_of(readings)
    assert same(columns.decode(b"".join(columns.encode(batch)), readings=len(batch)), batch)


def test_series_with_two_flags_are_two_runs() -> None:
    """A series whose device times were taken and refused in turn keeps both."""
    batch = Batch.join(
        [Batch.of(7, [1, 2], np.array([1.5, 2.5])), Batch.of(7, [3], np.array([3.5]), flags=MONOTONIC)]
    ).sorted()
    assert same(columns.decode(b"".join(columns.encode(batch)), readings=3), batch)


@pytest.mark.parametrize(
    ("runs", "series", "flags", "counts", "says"),
    [
        (0, [], [], [], "0 runs cannot hold"),
        (4, [1] * 4, [0] * 4, [0] * 4, "4 runs cannot hold"),
        (1, [-1], [0], [2], "out of range"),
        (1, [2**32], [0], [2], "out of range"),
        (1, [1], [16], [2], "out of range"),
        (2, [1, 2], [0, 0], [0, 3], "do not hold the 3"),
        (2, [1, 2], [0, 0], [0, 2**64 - 1], "do not hold the 3"),
        (2, [1, 2], [0, 0], [0, 0], "do not hold the 3"),
    ],
)
def test_a_directory_that_cannot_be_is_refused(
    runs: int, series: list[int], flags: list[int], counts: list[int], says: str
) -> None:
    """Before anything of its size is made."""
    writer = Writer()
    writer.varint(runs)
    writer.signed(np.array(series, np.int64))
    writer.unsigned(np.array(flags, np.uint64))
    writer.unsigned(np.array(counts, np.uint64))
    with pytest.raises(SegmentError, match=says):
        columns.decode(b"".join(writer.parts), readings=3)


def test_bytes_behind_the_columns_are_refused() -> None:
    """What is not understood is not passed over."""
    batch = Batch.of(1, [1, 2, 3], np.array([1, 2, 3]))
    with pytest.raises(SegmentError, match="1 bytes are left behind"):
        columns.decode(b"".join(columns.encode(batch)) + b"\x00", readings=3)
