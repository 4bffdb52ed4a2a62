"""A few readings number by number: what store/columns reads is what was written, in no more bytes than it would take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.batch import MONOTONIC, Batch
from gateway.store import columns, handful
from gateway.store.segments import decode_metrics, press_metrics

BOUNDS = [-(2**63), -(2**63) + 1, -1, 0, 1, 2**53, 2**62, 2**63 - 1]
int64 = st.one_of(st.sampled_from(BOUNDS), st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9))
decimals = st.builds(lambda whole, digits: whole / 10**digits, st.integers(-(10**6), 10**6), st.integers(0, 6))
odd = st.sampled_from([0.1 + 0.2, -0.0, float("nan"), float("inf"), 1e300, 2.0**53, 2.0**47, 5e-324, 0.5])
doubles = st.one_of(decimals, decimals, decimals, st.floats(), odd).map(
    lambda value: int(np.float64(value).view(np.int64))
)
rows = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([0, 1, 2, 2**32 - 1]), int64, int64, st.sampled_from([1, 2, 5, 13])),
        st.tuples(st.sampled_from([0, 1, 2, 2**32 - 1]), int64, doubles, st.sampled_from([0, 4, 8, 12])),
    ),
    min_size=1,
    max_size=handful.READINGS_MAX,
)


def batch_of(readings: list[tuple[int, int, int, int]]) -> Batch:
    """Return rows as a batch, in their order."""
    dtypes = (np.uint32, np.int64, np.int64, np.uint8)
    return Batch(*(np.array(c, d) for c, d in zip(zip(*readings, strict=True), dtypes, strict=True)))


def is_same(one: Batch, other: Batch) -> bool:
    """Return whether two batches are equal, bit by bit."""
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("series", "time_ns", "bits", "flags")
    )


@given(rows)
def test_whatever_is_written_is_read(readings) -> None:
    """In the order of `Batch.sorted`, bit by bit; and a segment of it too, whoever wrote it."""
    batch = batch_of(readings)
    ordered = batch.sorted()
    found = handful.encode(batch)
    if found is not None:
        assert is_same(columns.decode(found.content, readings=len(batch)), ordered)
        assert (found.first_ns, found.last_ns) == (batch.time_ns.min(), batch.time_ns.max())
        assert found.series == sorted(set(batch.series.tolist()))
    pressed = press_metrics(batch)
    assert is_same(decode_metrics(pressed.seal(sequence=1, boot=1, previous_hash=bytes(16))), ordered)
    assert (pressed.readable is None) == (found is None)
    assert pressed.readable is None or is_same(pressed.readable, ordered)


@given(rows.map(lambda found: [row for row in found if row[3] & 3] or [(1, 2, 3, 1)]))
def test_integers_are_always_for_it(readings) -> None:
    """Whatever they are."""
    assert handful.encode(batch_of(readings)) is not None


def sensors(series: int, count: int, step_ns: int = 20_000_000, walk: float = 0.05) -> Batch:
    """Some sensors of two decimals on one beat."""
    rng = np.random.default_rng(series * 1000 + count)
    times = 1_790_000_000 * 10**9 + np.arange(count) * step_ns
    return Batch.join(
        [Batch.of(k + 1, times, np.round(20 + np.cumsum(rng.normal(0, walk, count)), 2)) for k in range(series)]
    )


@pytest.mark.parametrize(("series", "count"), [(1, 1), (1, 100), (2, 50), (10, 2), (20, 1), (100, 1), (3, 40), (25, 4)])
def test_it_takes_no_more_bytes(series: int, count: int) -> None:
    """Than columns written for many do, but for a hundredth."""
    batch = sensors(series, count)
    found = handful.encode(batch)
    assert len(found.content) <= 1.01 * len(b"".join(columns.encode(batch.sorted()))) + 1


def test_many_series_of_few_moments_keep_ranks() -> None:
    """Messages of a socket buffer have one time: of a hundred readings there are five."""
    rng = np.random.default_rng(1)
    times = 1_790_000_000 * 10**9 + rng.integers(0, 2**40, 5)[rng.integers(0, 5, 100)]
    batch = Batch.join([Batch.of(k, [times[k]], np.array([k % 7]), flags=MONOTONIC) for k in range(100)])
    found = handful.encode(batch)
    assert is_same(columns.decode(found.content, readings=100), batch.sorted())
    assert len(found.content) <= 1.05 * len(b"".join(columns.encode(batch.sorted())))


@pytest.mark.parametrize("value", [-0.0, 0.1 + 0.2, float("nan"), float("-inf"), 1e300, 2.0**53, 2.0**50 + 0.5])
def test_what_is_no_decimal_is_not_for_it(value: float) -> None:
    """Somebody else knows exceptions and bits."""
    assert handful.encode(Batch.of(1, [1, 2], np.array([20.5, value]))) is None


def test_a_decimal_that_only_looked_like_one_is_not_for_it() -> None:
    """More digits for a later value may leave an earlier one without a place of its own."""
    assert handful.encode(Batch.of(1, [1, 2], np.array([float(2**46), 0.25]))) is None
    assert handful.encode(Batch.of(1, [1], np.array([float(2**52)]))) is not None


def comes_back(batch: Batch) -> bytes:
    """Return the columns of a batch that is for this module, after reading them."""
    found = handful.encode(batch)
    assert is_same(columns.decode(found.content, readings=len(batch)), batch.sorted())
    return found.content


def test_noise_is_kept_as_offsets_and_a_walk_as_steps() -> None:
    """Of long runs, whichever is shorter; the lowest integer and the highest of one run have no offset."""
    rng = np.random.default_rng(2)
    noise = Batch.of(1, np.arange(64), np.round(rng.normal(20, 1, 64), 1))
    walk = Batch.of(2, np.arange(64), np.cumsum(rng.integers(0, 9, 64)) * 7)
    assert len(comes_back(Batch.join([noise, walk]))) < 190
    comes_back(Batch.of(1, np.arange(40), np.array([-(2**63), 2**63 - 1] * 20)))


def test_many_moments_have_no_ranks() -> None:
    """Series that speak in turn, each at a time of its own."""
    times = 1_790_000_000 * 10**9 + np.arange(100) * 1_000_003
    comes_back(Batch.join([Batch.of(k % 50, [times[k]], np.array([k])) for k in range(100)]).sorted())


def test_short_runs_take_the_exponent_of_most() -> None:
    """If there is one: 20.5 among 20.51s is 2050; of all kinds none is, and a large one keeps its own."""
    values = [20.51, 20.5, 21.0, 20.52, 20.53, 20.54, float(2**46)]
    alike = Batch.join([Batch.of(k, [0], np.array([value])) for k, value in enumerate(values)])
    assert len(comes_back(alike)) <= len(b"".join(columns.encode(alike)))
    unlike = [1.0, 20.5, 20.51, 20.512, 20.5123, 1.5, 2.0]
    comes_back(Batch.join([Batch.of(k, [0], np.array([value])) for k, value in enumerate(unlike)]))
    comes_back(Batch.of(1, np.arange(9), np.round(np.arange(9) / 4, 2)))


def test_a_number_of_too_many_digits_is_not_for_it() -> None:
    """A decimal of seventeen digits is no shorter than its bits."""
    assert handful.encode(Batch.of(1, [1], np.array([float(2**47) + 0.5]))) is None


def test_a_decimal_that_more_digits_spoil_is_not_for_it() -> None:
    """Times 10^12 this one is rounded to something else; another of the run has twelve digits."""
    assert handful.encode(Batch.of(1, [1, 2], np.array([88809777878.45, 0.000000000001]))) is None
