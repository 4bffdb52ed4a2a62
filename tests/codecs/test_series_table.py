"""Series numbers as a table."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from gateway.codecs.columns import Column
from gateway.codecs.device_time import Moment, Times
from gateway.codecs.routes import Owners
from gateway.codecs.routing import Work
from gateway.codecs.series_table import ROWS_FIRST, UNRESOLVED, SeriesTable
from gateway.core.contracts import Priority

if TYPE_CHECKING:
    import numpy.typing as npt


NOBODYS = Owners("s", ())


def one(table: SeriesTable, metric: int, row: int) -> int:
    return table.one(metric, row, position=0, owners=NOBODYS)


def many(table: SeriesTable, metric: int, rows: npt.NDArray[np.intp]) -> list[int]:
    return table.many(metric, rows, positions=np.zeros_like(rows), owners=NOBODYS).tolist()


def test_a_series_is_asked_for_once() -> None:
    """At its first reading."""
    asked: list[tuple[int, int, str]] = []

    def resolve(metric: int, row: int, owner: str) -> int:
        asked.append((metric, row, owner))
        return 10 * metric + row

    table = SeriesTable(2, resolve=resolve)
    assert many(table, 1, np.array([2, 0, 2, 2])) == [12, 10, 12, 12]
    assert one(table, 1, 2) == 12
    assert sorted(asked) == [(1, 0, "s"), (1, 2, "s")]


def test_who_brings_the_reading_is_asked_for() -> None:
    """Each who has one for the same row, in turn, until one gets the series; then all have it."""
    asked: list[tuple[int, str]] = []

    def resolve(_: int, row: int, owner: str) -> int | None:
        asked.append((row, owner))
        return None if owner == "s/a" else row + 5

    table = SeriesTable(1, resolve=resolve)
    owners = Owners("s", [(2, "a"), (2, "b"), (1, "a"), (1, "c")])
    found = table.many(0, np.array([3, 1, 3, 2, 0, 3]), positions=np.arange(6), owners=owners)
    assert found.tolist() == [8, UNRESOLVED, 8, 7, UNRESOLVED, 8]
    assert asked == [(0, "s/a"), (1, "s/a"), (2, "s/b"), (3, "s/a"), (3, "s/b")]
    assert table.one(0, 1, position=5, owners=owners) == 6
    assert asked[-1] == (1, "s/c")


def test_rows_grow_and_are_dropped() -> None:
    """Their numbers with them; the others stay as they are."""
    given = itertools.count(1)
    table = SeriesTable(1, resolve=lambda *_: next(given))
    table.cover(3 * ROWS_FIRST - 1)
    everything = np.arange(3 * ROWS_FIRST)
    assert many(table, 0, everything) == (everything + 1).tolist()
    table.drop([1, 3])
    assert many(table, 0, np.arange(4)) == [1, 3 * ROWS_FIRST + 1, 3, 3 * ROWS_FIRST + 2]


def test_a_forgotten_number_is_not_given_again() -> None:
    """Whose series it was is asked for anew; the others are not."""
    given = itertools.count(5)
    table = SeriesTable(2, resolve=lambda *_: next(given))
    assert [one(table, metric, row) for metric in range(2) for row in range(2)] == [5, 6, 7, 8]
    table.forget_series(np.array([4, 6, 7, 99], np.uint32))
    assert [one(table, metric, row) for metric in range(2) for row in range(2)] == [5, 9, 10, 8]
    table.forget_series(np.array([], np.uint32))
    assert one(table, 0, 0) == 5


def test_where_no_series_is_left_it_is_asked_again() -> None:
    """With the next reading."""
    left: list[int | None] = [None, 7]
    table = SeriesTable(1, resolve=lambda *_: left.pop(0))
    assert one(table, 0, 0) == UNRESOLVED
    assert one(table, 0, 0) == 7


def test_readings_without_a_series_are_lost_and_the_rest_handed_over() -> None:
    """Kinds and times stay with their values."""
    table = SeriesTable(1, resolve=lambda _, row, __: None if row == 1 else row + 5)
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
