"""Checks for the time column."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.integers import Reader, SegmentError, Writer
from gateway.store.runs import Runs
from gateway.store.times import read_times, write_times

T0 = 1_790_000_000 * 10**9
few_times = st.sampled_from([0, 3, 10**6, 2 * 10**6, T0, T0 + 10**9, -(2**63), 2**63 - 1])
rows_of_times = st.lists(
    st.lists(st.one_of(few_times, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=8).map(sorted),
    min_size=1,
    max_size=20,
)


def written(counts: list[int], times: np.ndarray) -> bytes:
    """Return a time column."""
    writer = Writer()
    write_times(writer, Runs.of_counts(np.array(counts)), times.astype(np.int64))
    return b"".join(writer.parts)


def read(counts: list[int], data: bytes) -> list[int]:
    """Return the times of a column that is read to its end."""
    reader = Reader(data)
    times = read_times(reader, Runs.of_counts(np.array(counts)))
    reader.close()
    return times.tolist()


@given(rows_of_times, st.booleans())
def test_times_come_back(rows: list[list[int]], twice: bool) -> None:
    """Shared, ranked or neither."""
    rows = [row for row in rows for _ in range(1 + twice)]
    counts, times = [len(row) for row in rows], np.array([time for row in rows for time in row])
    assert read(counts, written(counts, times)) == times.tolist()


def test_runs_on_one_beat_cost_one_run() -> None:
    """A hundred series with the same times take a few bytes more than one of them."""
    beat = np.sort(np.random.default_rng(1).integers(0, 10**9, 30))
    assert len(written([30] * 100, np.tile(beat, 100))) - len(written([30], beat)) < 20
    assert read([30] * 100, written([30] * 100, np.tile(beat, 100))) == np.tile(beat, 100).tolist()


def test_a_beat_that_differs_inside_is_not_shared() -> None:
    """The same ends and length are not enough."""
    times = np.array([0, 5, 9, 0, 6, 9])
    assert read([3, 3], written([3, 3], times)) == times.tolist()


def test_few_distinct_times_are_ranked() -> None:
    """A thousand series with one time each out of twenty cost about a byte each."""
    random = np.random.default_rng(2)
    times = T0 + random.choice(random.integers(0, 10**9, 20), 1000)
    data = written([1] * 1000, times)
    assert len(data) < 1400
    assert read([1] * 1000, data) == times.tolist()


def test_scattered_times_are_not_ranked() -> None:
    """Three runs out of step, each nearly even, are shorter as they are."""
    random = np.random.default_rng(3)
    times = np.arange(1000) * 10**9 + random.integers(0, 10**9, (3, 1)) + random.integers(0, 300, (3, 1000))
    data = written([1000] * 3, times.ravel())
    assert data[1] == 0
    assert read([1000] * 3, data) == times.ravel().tolist()


@pytest.mark.parametrize(
    ("counts", "data", "says"),
    [
        ([2], b"\x80", "first run cannot share"),
        ([2, 3], b"\x40", "differ in length"),
        ([1], b"\x00\x02", "more distinct times"),
        # One distinct time; then ranks 1 for it, which would be the second.
        ([1], b"\x00\x01" + b"\x00\x00\x00" + b"\x00\x02\x00", "rank is out of range"),
        ([1], b"\x00\x01" + b"\x00\x00\x00" + b"\x00\x01\x00", "rank is out of range"),
    ],
)
def test_times_that_cannot_be_are_refused(counts: list[int], data: bytes, says: str) -> None:
    """Whatever does not fit raises SegmentError."""
    with pytest.raises(SegmentError, match=says):
        read(counts, data)
