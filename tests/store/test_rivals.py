"""Of a segment that was written anew and what it stands for one stays, whichever pages were lost."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.batch import Batch
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store.connection import schemas
from gateway.store.reckoning import UNSURE
from gateway.store.records import STATE_ID, place, where_from
from gateway.store.rivals import drop_rivals
from gateway.store.segments import FIRST_HASH, Ancestors, press_metrics

ORIGIN = 7


@pytest.fixture
def connection():
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for text in schemas():
            connection.executescript(text)
        connection.execute("INSERT INTO shelf VALUES (?, 0, 0, 0, 0, 0, 0, x'00')", (STATE_ID,))
        yield connection


def put(connection, sequence: int, last: int = 0, *, sure: bool, priority=Priority.NORMAL, origin=ORIGIN) -> None:
    """A segment of three readings; with `last` one that was written anew for all up to that sequence."""
    ancestors = Ancestors(FIRST_HASH, FIRST_HASH, 1, last, 9, 10) if last else None
    batch = Batch.of(1, np.arange(3) * 10**9, np.arange(3.0))
    body = press_metrics(replace(batch, origin=origin)).seal(
        sequence=sequence, boot=BootId(1), previous_hash=FIRST_HASH, ancestors=ancestors
    )
    row = place(priority, Signal.METRICS, sequence), 0 if sure else UNSURE, 3, 1, 0, 0, 0, body
    connection.execute("INSERT INTO shelf VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def left_in(connection) -> list[int]:
    rows = connection.execute("SELECT id FROM shelf WHERE id < ?", (STATE_ID,)).fetchall()
    return sorted(where_from(row_id)[2] for (row_id,) in rows)


@pytest.mark.parametrize("is_doubtful", [False, True])
@pytest.mark.parametrize("sure", [(False, False), (True, False), (True, True)])
def test_the_one_that_was_written_anew_stays(connection, sure, is_doubtful) -> None:
    """Wherever it was found, unless what it stands for was found where it belongs, and it was not."""
    put(connection, 2, 5, sure=sure[0])
    put(connection, 4, sure=sure[1])
    put(connection, 5, sure=sure[1])
    put(connection, 6, sure=sure[1])
    assert drop_rivals(connection, is_doubtful=is_doubtful) == 2
    assert left_in(connection) == [2, 6]
    assert drop_rivals(connection, is_doubtful=is_doubtful) == 0


def test_one_of_no_commit_goes(connection) -> None:
    """A page that is certainly the last one still has what it would stand for: so has all else that it would."""
    put(connection, 2, 5, sure=False)
    put(connection, 3, sure=False)
    put(connection, 4, sure=True)
    put(connection, 5, sure=True)
    assert drop_rivals(connection, is_doubtful=False) == 1
    assert left_in(connection) == [3, 4, 5]


def test_where_pages_may_be_outdated_what_is_certain_is_not(connection) -> None:
    """What was written anew holds more, and what it stands for is only found in an older version of a page."""
    put(connection, 2, 5, sure=False)
    put(connection, 4, sure=True)
    assert drop_rivals(connection, is_doubtful=True) == 1
    assert left_in(connection) == [2]


def test_what_others_made_lies_between(connection) -> None:
    """Of another mapping or class, it is no part of that."""
    put(connection, 2, 5, sure=True)
    put(connection, 3, sure=False, origin=8)
    put(connection, 4, sure=False, priority=Priority.BULK)
    assert drop_rivals(connection, is_doubtful=True) == 0
    assert left_in(connection) == [2, 3, 4]


def test_one_that_was_written_anew_may_be_part_of_another(connection) -> None:
    """An earlier state of the same, of which only the last counts."""
    put(connection, 2, 9, sure=False)
    put(connection, 4, 6, sure=False)
    put(connection, 7, sure=False)
    assert drop_rivals(connection, is_doubtful=False) == 2
    assert left_in(connection) == [2]


def test_what_stays_as_one_goes_has_rivals_of_its_own(connection) -> None:
    """An older state of what is of no commit, which is of none either, or stands for what is not certain."""
    put(connection, 2, 9, sure=False)
    put(connection, 3, 5, sure=False)
    put(connection, 4, sure=False)
    put(connection, 8, sure=True)
    assert drop_rivals(connection, is_doubtful=False) == 2
    assert left_in(connection) == [3, 8]
