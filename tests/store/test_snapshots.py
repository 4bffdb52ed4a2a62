"""A copy of a shelf in use is as of one moment, or there is none."""

from __future__ import annotations

import shutil
import sqlite3
from collections import namedtuple

import pytest

from gateway.store import snapshots
from gateway.store.connection import DATABASE
from gateway.store.records import StoreError
from gateway.store.snapshots import Snapshot


def rows_of(path) -> list:
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    rows = connection.execute("SELECT * FROM shelf ORDER BY id").fetchall()
    connection.close()
    return rows


async def test_a_closed_shelf_needs_no_copy(shelves) -> None:
    """It is read in its place."""
    await shelves.open()
    await shelves.close()
    assert Snapshot.of(shelves.state_dir / DATABASE) is None


async def test_commits_and_a_checkpoint_while_it_is_copied(shelves, monkeypatch) -> None:
    """The copy is what SQLite itself would have said."""
    store = await shelves.open()
    await shelves.put(store, 50)
    real, calls = shutil.copyfileobj, []

    def copy(*arguments: object) -> None:
        real(*arguments)
        if not calls:
            calls.append(1)
            store._connection._conn  # noqa: B018
            shelves.loop_hook()

    monkeypatch.setattr(snapshots.shutil, "copyfileobj", copy)
    shelves.loop_hook = lambda: None
    snapshot = Snapshot.of(shelves.state_dir / DATABASE)
    expected = await store._connection.execute_fetchall("SELECT * FROM shelf ORDER BY id")
    assert rows_of(snapshot.path) == list(expected)
    snapshot.close()
    assert not snapshot.path.exists()


async def test_a_log_that_began_anew_is_copied_again(shelves, monkeypatch) -> None:
    """And given up after some tries, with a sentence."""
    store = await shelves.open()
    await shelves.put(store, 5)
    logs = [b"a" * 40, b"a" * 40, b"b" * 40, b"b" * 40, b"b" * 50]
    monkeypatch.setattr(snapshots, "_read", lambda _: logs.pop(0) if len(logs) > 1 else logs[0])
    snapshot = Snapshot(shelves.state_dir / DATABASE)
    assert snapshot.path.exists()
    snapshot.close()
    numbers = iter(range(1000))
    monkeypatch.setattr(snapshots, "_read", lambda _: str(next(numbers)).encode() * 40)
    with pytest.raises(StoreError, match="changes faster than it can be copied"):
        Snapshot(shelves.state_dir / DATABASE)


async def test_no_room_for_a_copy(shelves, monkeypatch) -> None:
    """The sentence says what to do instead."""
    store = await shelves.open()
    await shelves.put(store, 5)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(snapshots.shutil, "disk_usage", lambda _: usage(1, 1, 1))
    with pytest.raises(StoreError, match="stop the gateway first"):
        Snapshot(shelves.state_dir / DATABASE)
