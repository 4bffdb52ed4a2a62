"""A copy of a shelf in use is as of one moment, or there is none."""

from __future__ import annotations

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


async def test_a_shelf_in_use(shelves) -> None:
    """The copy is what SQLite itself would have said, and is gone when it is closed."""
    store = await shelves.open()
    for _ in range(5):
        await shelves.put(store, 50)
    await shelves.drain(store)
    await shelves.put(store, 50)
    snapshot = Snapshot.of(shelves.state_dir / DATABASE)
    expected = await store._connection.execute_fetchall("SELECT * FROM shelf ORDER BY id")
    assert rows_of(snapshot.path) == list(expected)
    snapshot.close()
    assert not snapshot.path.exists()


async def test_a_checkpoint_while_it_is_copied(shelves, monkeypatch) -> None:
    """Pages of before and after stand in the copied file; the log that only grew has the newest of all of them."""
    store = await shelves.open()
    await shelves.put(store, 400)
    connection = store._connection
    torn = []

    def copy(original, target, _) -> None:
        data = original.read()
        # Half of the file as it was before the checkpoint, half as it is after.
        target.write(torn[0][: len(data) // 2] + data[len(data) // 2 :])

    torn.append((shelves.state_dir / DATABASE).read_bytes())
    await shelves.put(store, 400)
    await connection.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")
    torn[0] = torn[0].ljust((shelves.state_dir / DATABASE).stat().st_size, b"\0")
    monkeypatch.setattr(snapshots.shutil, "copyfileobj", copy)
    snapshot = Snapshot.of(shelves.state_dir / DATABASE)
    expected = await connection.execute_fetchall("SELECT * FROM shelf ORDER BY id")
    assert rows_of(snapshot.path) == list(expected)
    snapshot.close()


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


async def test_a_gateway_that_comes_and_goes_while_it_is_copied(shelves, live, monkeypatch) -> None:
    """It leaves no log: not by that, but by the time of the file it is seen, and all is copied again."""
    source = shelves.state_dir / DATABASE
    await shelves.put(await shelves.open(), 400)
    await shelves.close()
    lives = [live]

    def copy(original, target, _) -> None:
        target.write(original.read(source.stat().st_size // 2))
        while lives:
            lives.pop()()
        target.write(original.read())

    monkeypatch.setattr(snapshots.shutil, "copyfileobj", copy)
    snapshot = Snapshot(source)
    assert not source.with_name(f"{DATABASE}-wal").exists()
    assert snapshot.path.read_bytes() == source.read_bytes()
    snapshot.close()


async def test_no_place_for_a_copy(shelves, monkeypatch) -> None:
    """On a box whose only disk is read-only."""
    store = await shelves.open()
    await shelves.put(store, 5)

    def refuse(**_: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(snapshots.tempfile, "mkdtemp", refuse)
    with pytest.raises(StoreError, match="No usable temporary directory found; set TMPDIR to a disk that can be"):
        Snapshot(shelves.state_dir / DATABASE)


async def test_no_room_for_a_copy(shelves, monkeypatch) -> None:
    """The sentence says what to do instead."""
    store = await shelves.open()
    await shelves.put(store, 5)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(snapshots.shutil, "disk_usage", lambda _: usage(1, 1, 1))
    with pytest.raises(StoreError, match="stop the gateway first"):
        Snapshot(shelves.state_dir / DATABASE)
