"""Series numbers as a table."""

from __future__ import annotations

import itertools

import numpy as np

from gateway.codecs.columns import Column
from gateway.codecs.device_time import Moment, Times
from gateway.codecs.routing import Work
from gateway.codecs.series_table import ROWS_FIRST, UNRESOLVED, SeriesTable
from gateway.core.contracts import Priority


def test_a_series_is_asked_for_once() -> None:
    """At its first reading."""
    asked: list[tuple[int, int]] = []

    def resolve(metric: int, row: int) -> int:
        asked.append((metric, row))
        return 10 * metric + row

    table = SeriesTable(2, resolve=resolve)
    assert table.many(1, np.array([2, 0, 2, 2])).tolist() == [12, 10, 12, 12]
    assert table.one(1, 2) == 12
    assert sorted(asked) == [(1, 0), (1, 2)]


def test_rows_grow_and_are_dropped() -> None:
    """Their numbers with them; the others stay as they are."""
    given = itertools.count(1)
    table = SeriesTable(1, resolve=lambda *_: next(given))
    table.cover(3 * ROWS_FIRST - 1)
    everything = np.arange(3 * ROWS_FIRST)
    assert table.many(0, everything).tolist() == (everything + 1).tolist()
    table.drop([1, 3])
    assert table.many(0, np.arange(4)).tolist() == [1, 3 * ROWS_FIRST + 1, 3, 3 * ROWS_FIRST + 2]


def test_a_forgotten_number_is_not_given_again() -> None:
    """Whose series it was is asked for anew; the others are not."""
    given = itertools.count(5)
    table = SeriesTable(2, resolve=lambda *_: next(given))
    assert [table.one(metric, row) for metric in range(2) for row in range(2)] == [5, 6, 7, 8]
    table.forget_series(np.array([4, 6, 7, 99], np.uint32))
    assert [table.one(metric, row) for metric in range(2) for row in range(2)] == [5, 9, 10, 8]
    table.forget_series(np.array([], np.uint32))
    assert table.one(0, 0) == 5


def test_where_no_series_is_left_it_is_asked_again() -> None:
    """With the next reading."""
    left: list[int | None] = [None, 7]
    table = SeriesTable(1, resolve=lambda *_: left.pop(0))
    assert table.one(0, 0) == UNRESOLVED
    assert table.one(0, 0) == 7


def test_readings_without_a_series_are_lost_and_the_rest_handed_over() -> None:
    """Kinds and times stay with their values."""
    table = SeriesTable(1, resolve=lambda _, row: None if row == 1 else row + 5)
    positions = np.array([7, 8, 9])
    for kinds in (1, np.array([0, 1, 2], np.uint8)):
        work = Work([], positions, positions, Moment(0, 0, 0))
        column = Column(np.array([1, 2, 3]), kinds, None, [(0, "odd", "why")])
        times = Times(np.array([10, 20, 30]), 4)
        table.hand_over(
            0, column, work, priority=Priority.BULK, rows=np.array([0, 1, 2]), positions=positions, times=times
        )
        ((priority, batch),) = work.output.pieces()
        assert priority is Priority.BULK
        assert (batch.series.tolist(), batch.time_ns.tolist(), batch.bits.tolist()) == ([5, 7], [10, 30], [1, 3])
        assert batch.flags.tolist() == ([5, 5] if isinstance(kinds, int) else [4, 6])
        assert [(at, reason) for at, reason, *_ in work.output.malformed] == [(7, "odd"), (8, "max_series")]
