"""Series numbers as a table."""

from __future__ import annotations

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
    rows = [table.add_row() for _ in range(3)]
    assert rows == [0, 1, 2]
    assert table.many(1, np.array([2, 0, 2, 2])).tolist() == [12, 10, 12, 12]
    assert table.one(1, 2) == 12
    assert sorted(asked) == [(1, 0), (1, 2)]


def test_rows_grow_and_are_forgotten() -> None:
    """Their numbers with them."""
    table = SeriesTable(1, resolve=lambda _, row: row + 1)
    for _ in range(3 * ROWS_FIRST):
        table.add_row()
    everything = np.arange(3 * ROWS_FIRST)
    assert table.many(0, everything).tolist() == (everything + 1).tolist()
    table.forget()
    assert table.add_row() == 0
    assert table._numbers.shape == (1, ROWS_FIRST)


def test_where_no_series_is_left_it_is_asked_again() -> None:
    """With the next reading."""
    left: list[int | None] = [None, 7]
    table = SeriesTable(1, resolve=lambda *_: left.pop(0))
    table.add_row()
    assert table.one(0, 0) == UNRESOLVED
    assert table.one(0, 0) == 7


def test_readings_without_a_series_are_lost_and_the_rest_handed_over() -> None:
    """Kinds and times stay with their values."""
    table = SeriesTable(1, resolve=lambda _, row: None if row == 1 else row + 5)
    for _ in range(3):
        table.add_row()
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
        assert [(at, reason) for at, reason, _ in work.output.malformed] == [(7, "odd"), (8, "max_series")]
