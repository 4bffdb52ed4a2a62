"""A store that is closed says what is forgotten with its process."""

from __future__ import annotations

import logging
import sqlite3

from gateway.store import closing
from gateway.store.connection import DATABASE


async def test_nothing_is_said_where_all_is_written(shelves, caplog) -> None:
    """What was sent is known to be."""
    store = await shelves.open()
    await shelves.put(store, 3)
    await shelves.drain(store)
    with caplog.at_level(logging.WARNING):
        await shelves.close()
    assert caplog.text == ""


async def test_what_cannot_be_written_down_is_said(shelves, failing, caplog) -> None:
    """It is sent again, or noted for the next start where there is a place for that."""
    store = await shelves.open()
    await shelves.put(store, 3)
    await shelves.drain(store)
    failing.errors = [sqlite3.OperationalError("no")] * 9
    with caplog.at_level(logging.WARNING):
        await shelves.close()
    assert "3 readings were sent and that could not be written down: they are sent again" in caplog.text


async def test_most_is_held_for_the_slowest(shelves) -> None:
    """That is what goes with a file that is taken away."""
    store = await shelves.open(uplinks=("fast", "slow"))
    await shelves.put(store, 3)
    await shelves.drain(store, "fast")
    assert closing.held_by(store._committer) == 3


async def test_a_file_that_turned_out_to_be_damaged_keeps_its_log(shelves) -> None:
    """The next start salvages from both, whether or not the last commit went well."""
    store = await shelves.open()
    put = await shelves.put(store, 3)
    await store._committer.met_damage(sqlite3.DatabaseError("malformed"))
    await shelves.close()
    assert (shelves.state_dir / f"{DATABASE}-wal").stat().st_size > 0
    store = await shelves.open()
    assert "was damaged (malformed)" in store.events[0]
    assert "lost: nothing;" in store.events[0]
    assert await shelves.drain(store) == put
    shelves.check(store)
