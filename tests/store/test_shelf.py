"""The reader of leases sees what is committed, oldest or newest first, and says when rows are not what they should be."""

from __future__ import annotations

import sqlite3

import pytest

from gateway.store.connection import DATABASE, open_reader
from gateway.store.records import STATE_ID
from gateway.store.shelf import ShelfReader


async def test_rows_and_bodies(shelves) -> None:
    """Only what the uplinks still need, as many as asked for."""
    store = await shelves.open(uplinks=("a", "b"))
    for _ in range(4):
        await shelves.put(store, 2)
    first = await shelves.lease(store, "a")
    store.ack(first)
    await store.append([])
    reader = store._desks["a"]._reader
    bit = store._committer.accounts.shares["a"].bit
    rows = await reader.rows(0, STATE_ID, lacking=bit, limit=10, newest=False)
    assert [row.id & 7 for row in rows] == [1, 2, 3]
    assert [row.id & 7 for row in await reader.rows(0, STATE_ID, lacking=bit, limit=1, newest=True)] == [3]
    assert len(await reader.rows(0, STATE_ID, lacking=8, limit=10, newest=True)) == 4
    bodies = await reader.bodies([rows[0].id, 5])
    assert list(bodies) == [rows[0].id]
    assert len(bodies[rows[0].id]) == rows[0].size_bytes


async def test_rows_of_odd_types_are_damage(shelves) -> None:
    """A flipped bit can make a text of a number."""
    store = await shelves.open()
    await shelves.put(store, 2)
    await shelves.close()
    with sqlite3.connect(shelves.state_dir / DATABASE) as connection:
        connection.execute("UPDATE shelf SET readings = 'two' WHERE id < ?", (STATE_ID,))
    connection.close()
    connection = await open_reader(shelves.state_dir / DATABASE)
    with pytest.raises(sqlite3.DatabaseError, match="other types"):
        await ShelfReader(connection).rows(0, STATE_ID, lacking=2, limit=10, newest=False)
    await connection.close()
