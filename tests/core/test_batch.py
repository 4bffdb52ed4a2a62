"""Columns: what fits together, order, runs, bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.batch import (
    DEVICE_TIME_REJECTED,
    MONOTONIC,
    Batch,
    LogRecords,
    ResourceRecords,
    Series,
    ValueKind,
    to_bits,
)
from gateway.core.contracts import Signal


def test_the_dtype_of_the_values_gives_their_kind() -> None:
    """Doubles, integers and truth values each keep theirs."""
    kinds = [Batch.of(1, [5], np.array([value])).flags[0] for value in (1.5, 7, True)]
    assert kinds == [ValueKind.DOUBLE, ValueKind.INT, ValueKind.BOOL]


def test_series_and_time_are_spread_over_all_values() -> None:
    """One series, one time, many values; flags are joined with the kind."""
    batch = Batch.of(7, 99, np.array([1, 2]), flags=MONOTONIC | DEVICE_TIME_REJECTED)
    assert batch.series.tolist() == [7, 7]
    assert batch.time_ns.tolist() == [99, 99]
    assert batch.flags.tolist() == [0b1101, 0b1101]
    assert len(batch) == 2


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([0.1, -0.0, np.inf]), ValueKind.DOUBLE),
        (np.array([1.5], np.float32), ValueKind.DOUBLE),
        (np.array([-(2**63), 2**63 - 1]), ValueKind.INT),
        (np.array([255], np.uint8), ValueKind.INT),
        (np.array([True, False]), ValueKind.BOOL),
    ],
)
def test_bits_hold_each_value_exactly(values: np.ndarray, kind: ValueKind) -> None:
    """What goes in comes out, whatever its width."""
    found, bits = to_bits(values)
    assert found is kind
    back = bits.view(np.float64) if kind is ValueKind.DOUBLE else bits
    assert back.tolist() == values.tolist()


def test_a_nan_keeps_its_payload() -> None:
    """Bits are bits."""
    odd = np.array([0x7FF8_0000_0000_0123], np.int64).view(np.float64)
    assert to_bits(odd)[1].tolist() == [0x7FF8_0000_0000_0123]


def test_values_are_doubles_for_those_who_watch() -> None:
    """Mixed kinds become numbers; a batch of doubles is not copied."""
    doubles = Batch.of(1, [1], np.array([1.5]))
    assert np.shares_memory(doubles.values(), doubles.bits)
    mixed = Batch.join([doubles, Batch.of(1, [2], np.array([7])), Batch.of(1, [3], np.array([True]))])
    assert mixed.values().tolist() == [1.5, 7.0, 1.0]


def test_joining() -> None:
    """None is empty, one is itself, many keep their order."""
    one = Batch.of(1, [1], np.array([1.0]))
    assert len(Batch.join([])) == 0
    assert Batch.join([one]) is one
    assert Batch.join([one, Batch.of(2, [2], np.array([2.0]))]).series.tolist() == [1, 2]


def test_an_empty_batch_has_no_runs() -> None:
    """Nothing is sorted, and has no runs."""
    empty = Batch.empty()
    assert len(empty.sorted()) == 0
    assert empty.run_starts().tolist() == []


def test_a_sorted_batch_is_not_sorted_again() -> None:
    """It is returned as it is, also where times are equal or series change."""
    batch = Batch.of([1, 1, 2], [5, 5, 1], np.array([1, 2, 3]))
    assert batch.sorted() is batch


readings = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5), st.sampled_from([0, 4, 12])), max_size=30)


@given(readings)
def test_sorting_is_by_series_flags_and_time_and_stable(rows: list[tuple[int, int, int]]) -> None:
    """As Python's own stable sort does it; runs begin where series or flags change."""
    parts = [Batch.of(series, [at], np.array([number]), flags=flags) for number, (series, at, flags) in enumerate(rows)]
    batch = Batch.join(parts).sorted()
    expected = sorted(range(len(rows)), key=lambda k: (rows[k][0], rows[k][2], rows[k][1]))
    assert batch.bits.tolist() == expected
    keys = [(rows[k][0], rows[k][2]) for k in expected]
    assert batch.run_starts().tolist() == [k for k in range(len(keys)) if k == 0 or keys[k] != keys[k - 1]]


@pytest.mark.parametrize("length", [8, 200])
def test_pieces_of_many_readings_are_put_in_order(length: int) -> None:
    """Messages of two series that took turns come out as two runs, also where one message came late."""
    pieces = [
        Batch.of(series, np.arange(at, at + length), np.zeros(length))
        for series, at in ((2, 0), (1, 0), (2, length), (1, length))
    ]
    for order, late in ((pieces, False), (pieces[::-1], True)):
        batch = Batch.join(order).sorted()
        assert batch.series.tolist() == [1] * 2 * length + [2] * 2 * length
        assert batch.time_ns.tolist() == [*range(2 * length)] * 2, late


def test_pieces_that_stay_side_by_side_are_moved_together() -> None:
    """What comes out is the same, with its origin."""
    numbers = [3, 4, 5, 1, 2, 9]
    batch = replace(Batch.of(np.repeat(numbers, 500), np.arange(3000), np.arange(3000)), origin=7).sorted()
    assert batch.series.tolist() == np.repeat(sorted(numbers), 500).tolist()
    assert batch.time_ns.tolist() == batch.bits.tolist() == [*range(1500, 2500), *range(1500), *range(2500, 3000)]
    assert batch.origin == 7


@pytest.mark.parametrize("column", ["series", "time_ns", "bits", "flags"])
def test_columns_that_do_not_belong_together_are_our_mistake(column: str) -> None:
    """A short column or one of another dtype trips an assertion."""
    good = Batch.of([1, 2], [1, 2], np.array([1.0, 2.0]))
    columns = {name: getattr(good, name) for name in ("series", "time_ns", "bits", "flags")}
    with pytest.raises(AssertionError):
        Batch(**columns | {column: columns[column][:1]})
    with pytest.raises(AssertionError):
        Batch(**columns | {column: columns[column].astype(np.int16)})


@pytest.mark.parametrize("values", [np.array([2**64 - 1], np.uint64), np.array(["a"])])
def test_values_that_do_not_fit_are_our_mistake(values: np.ndarray) -> None:
    """What does not fit 64 signed bits is turned into doubles before it gets here."""
    with pytest.raises(AssertionError):
        to_bits(values)


def test_a_series_can_be_a_key() -> None:
    """Equal series are one."""
    assert len({Series((("a", 1),), "t"), Series((("a", 1),), "t"), Series((), "t")}) == 2


def test_log_records_are_joined_in_order() -> None:
    """None is empty; columns of different lengths are our mistake."""
    one = LogRecords(np.array([1], np.uint32), np.array([5]), (b"a",))
    two = LogRecords(np.array([2], np.uint32), np.array([6]), (b"b",))
    joined = LogRecords.join([one, two])
    assert (joined.series.tolist(), joined.time_ns.tolist(), joined.bodies) == ([1, 2], [5, 6], (b"a", b"b"))
    assert len(LogRecords.join([])) == 0
    with pytest.raises(AssertionError):
        LogRecords(one.series, one.time_ns, ())


def test_what_came_as_otlp_counts_what_stands_in_it() -> None:
    """Not the messages; columns of different lengths, and two signals together, are our mistake."""
    one = ResourceRecords(Signal.LOGS, np.array([2, 3]), np.array([5, 6]), (b"ab", b"c"))
    joined = ResourceRecords.join([one, one.take(slice(1, None))])
    assert (len(joined), joined.bodies, joined.size_bytes) == (8, (b"ab", b"c", b"c"), 4)
    assert (joined.time_ns.tolist(), joined.series.tolist()) == ([5, 6, 6], [])
    with pytest.raises(AssertionError):
        ResourceRecords(Signal.LOGS, one.counts, one.time_ns, ())
    with pytest.raises(AssertionError):
        ResourceRecords.join([one, ResourceRecords(Signal.TRACES, one.counts, one.time_ns, one.bodies)])
