"""A disk without room for all keeps the most important, and of that the newest."""

from __future__ import annotations

import sqlite3

import pytest

from gateway.core.contracts import Priority, Signal
from gateway.store.connection import DATABASE, PAGE_BYTES
from gateway.store.pagefile import PageFile
from gateway.store.records import STATE_ID, place, where_from
from gateway.store.triage import ROOM_LEFT_BYTES, ROOM_SHARE, ROW_BYTES, Triage


@pytest.fixture
def ranked(tmp_path):
    """Rank pages of a table of segments; return what `choose` and `kept` make of a room."""

    def rank(ids: dict[int, int], room_bytes: int, *, unsure: dict[int, int] | None = None) -> list[int]:
        path = tmp_path / DATABASE
        numbers = {}
        for is_sure, rows in ((True, ids), (False, unsure or {})):
            path.unlink(missing_ok=True)
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("CREATE TABLE shelf (id INTEGER PRIMARY KEY, done, body)")
            connection.executemany("INSERT INTO shelf VALUES (?, 0, zeroblob(?))", rows.items())
            connection.close()
            with PageFile(path) as pages:
                for number in range(2, pages.page_count + 1):
                    triage.rank(number + 1000 * (not is_sure), pages.page(number) or b"", pages.page, is_sure=is_sure)
                    for row_id, _ in pages.rows_at(number):
                        numbers[number + 1000 * (not is_sure)] = row_id
        is_all = triage.choose(room_bytes)
        asked = sorted(numbers)
        found = [numbers[asked[at]] for at in triage.kept([*asked, 1 << 20])]
        assert is_all == (len(found) == len(asked))
        return found

    triage = Triage()
    return rank


def row(priority: Priority, sequence: int) -> int:
    return place(priority, Signal.METRICS, sequence)


def told(ids: list[int]) -> list[tuple[Priority, int]]:
    """Return classes in their order, and the sequences of each by rising number."""
    pairs = [where_from(row_id)[::2] for row_id in ids]
    assert [priority for priority, _ in pairs] == sorted(priority for priority, _ in pairs)
    return sorted(pairs)


def room_for(rows: int) -> int:
    return int((rows * ROW + ROOM_LEFT_BYTES) / ROOM_SHARE) + 100


# One on each page.
VALUE = 400
ROW = VALUE + ROW_BYTES


def test_with_room_for_all_the_most_important_come_first(ranked) -> None:
    """A disk may turn out to be smaller than it said."""
    ids = {row(priority, sequence): VALUE for priority in Priority for sequence in (1, 2)}
    assert told(ranked(ids, room_for(6))) == [(priority, sequence) for priority in Priority for sequence in (1, 2)]


def test_what_is_least_important_or_oldest_is_left(ranked) -> None:
    """The newest of a class that has not room for all are kept."""
    ids = {row(priority, sequence): VALUE for priority in Priority for sequence in range(1, 10)}
    critical = [(Priority.CRITICAL, sequence) for sequence in range(1, 10)]
    assert told(ranked(ids, room_for(11))) == [*critical, (Priority.NORMAL, 8), (Priority.NORMAL, 9)]


def test_large_rows_take_pages_of_their_own(ranked) -> None:
    """Their heads say how many."""
    assert ranked({row(Priority.NORMAL, 1): 9_000}, room_for(19)) == []


def test_what_is_certain_goes_first_and_the_counters_always(ranked) -> None:
    """Of one class; what is no segment's row comes last."""
    ids = {row(Priority.NORMAL, 1): VALUE, STATE_ID: VALUE, 5: VALUE}
    found = ranked(ids, room_for(2), unsure={row(Priority.NORMAL, 9): VALUE})
    assert found == [STATE_ID, row(Priority.NORMAL, 1)]
