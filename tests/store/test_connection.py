"""The directory is one process's, the schema is the newest, and a newer one is left alone."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import sys
import weakref
from typing import TYPE_CHECKING

import pytest

from gateway.store import connection
from gateway.store.connection import (
    APPLICATION_ID,
    DATABASE,
    DirectoryLock,
    close_untouched,
    open_reader,
    open_writer,
    schemas,
    share_cache,
)
from gateway.store.records import StoreError

if TYPE_CHECKING:
    from pathlib import Path


async def opened(path):
    writer = await open_writer(path, log_bytes=1 << 20)
    values = {}
    pragmas = "journal_mode synchronous page_size user_version application_id secure_delete trusted_schema"
    for name in pragmas.split():
        ((values[name],),) = await writer.execute_fetchall(f"PRAGMA {name}")
    await writer.close()
    return values


async def test_a_new_database(tmp_path) -> None:
    """WAL, synchronous=FULL, small pages, the newest schema, our name; no schema's functions are trusted."""
    assert await opened(tmp_path / DATABASE) == {
        "journal_mode": "wal",
        "synchronous": 2,
        "page_size": connection.PAGE_BYTES,
        "user_version": len(schemas()),
        "application_id": APPLICATION_ID,
        "secure_delete": 0,
        "trusted_schema": 0,
    }


async def test_a_schema_is_taken_further(tmp_path, monkeypatch) -> None:
    """Only the files that it lacks are applied, in order; what is there stays."""
    first = schemas()
    await opened(tmp_path / DATABASE)
    monkeypatch.setattr(
        connection, "schemas", lambda: [*first, "CREATE TABLE second (a)", "INSERT INTO second VALUES (3)"]
    )
    assert (await opened(tmp_path / DATABASE))["user_version"] == len(first) + 2
    with sqlite3.connect(tmp_path / DATABASE) as look:
        assert look.execute("SELECT * FROM second").fetchall() == [(3,)]
    look.close()


async def test_a_schema_that_fails_leaves_the_old_one(tmp_path, monkeypatch) -> None:
    """Each file is a transaction of its own."""
    first = schemas()
    await opened(tmp_path / DATABASE)
    monkeypatch.setattr(connection, "schemas", lambda: [*first, "CREATE TABLE second (a); BROKEN"])
    with pytest.raises(sqlite3.OperationalError):
        await opened(tmp_path / DATABASE)
    monkeypatch.undo()
    assert (await opened(tmp_path / DATABASE))["user_version"] == len(first)


async def test_a_newer_schema_is_left_alone(tmp_path) -> None:
    """The sentence says what to do, and not a byte is changed."""
    path = tmp_path / DATABASE
    await opened(path)
    with sqlite3.connect(path) as look:
        look.execute("PRAGMA user_version = 99")
    look.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer tidegate \(schema 99, this one knows"):
        await opened(path)
    assert path.read_bytes() == before


async def test_another_programs_database_gets_no_tables_of_ours(tmp_path) -> None:
    """It may have come there after the look that should have found it: it stays whose it was."""
    with sqlite3.connect(tmp_path / DATABASE) as look:
        look.execute("CREATE TABLE theirs (a)")
        look.execute("PRAGMA user_version = 7")
    look.close()
    with pytest.raises(sqlite3.DatabaseError, match=r"tidegate\.db is some other program's database"):
        await opened(tmp_path / DATABASE)
    with sqlite3.connect(tmp_path / DATABASE) as look:
        assert look.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
        assert look.execute("PRAGMA user_version").fetchall() == [(7,)]
        assert look.execute("PRAGMA application_id").fetchall() == [(0,)]
    look.close()


async def test_the_reader_cannot_write_nor_make(tmp_path) -> None:
    """It reads what the writer commits."""
    with pytest.raises(sqlite3.OperationalError):
        await open_reader(tmp_path / DATABASE)
    writer = await open_writer(tmp_path / DATABASE, log_bytes=1 << 20)
    reader = await open_reader(tmp_path / DATABASE)
    with pytest.raises(sqlite3.OperationalError):
        await reader.execute_fetchall("DELETE FROM shelf")
    await reader.close()
    await writer.close()


async def test_the_cache_is_shared_by_writer_and_reader(tmp_path) -> None:
    """A quarter for reading; never none at all, which SQLite would take for its default of two megabytes."""
    writer = await open_writer(tmp_path / DATABASE, log_bytes=1 << 20)
    reader = await open_reader(tmp_path / DATABASE)
    for cache_bytes, expected in ((4 << 20, (-3072, -1024)), (0, (-1, -1))):
        await share_cache(writer, reader, cache_bytes)
        sizes = [(await one.execute_fetchall("PRAGMA cache_size"))[0][0] for one in (writer, reader)]
        assert tuple(sizes) == expected
    await reader.close()
    await writer.close()


async def test_a_file_that_is_no_database_cannot_be_read(tmp_path) -> None:
    """The connection is closed behind the error."""
    (tmp_path / DATABASE).write_bytes(b"x" * 5000)
    reader = None
    with pytest.raises(sqlite3.DatabaseError):
        reader = await open_reader(tmp_path / DATABASE)
        await reader.execute_fetchall("SELECT * FROM shelf")
    if reader is not None:
        await reader.close()


@pytest.fixture
async def dead(tmp_path) -> Path:
    """Leave a database of which most is in the log, as a process that dies does."""
    (tmp_path / "alive").mkdir()
    writer = await open_writer(tmp_path / "alive" / DATABASE, log_bytes=1 << 20)
    await writer.execute_fetchall("PRAGMA wal_checkpoint(RESTART)")
    await writer.execute_fetchall("INSERT INTO series VALUES (1, zeroblob(5000))")
    copy = shutil.copytree(tmp_path / "alive", tmp_path / "dead")
    await writer.close()
    return copy / DATABASE


@pytest.mark.parametrize(
    ("offset", "bytes_there"),
    [(0, b""), (0, b"no database, this"), (18, b"\x07\x07"), (connection.PAGE_BYTES, b"\xff" * 1024)],
)
async def test_what_is_damaged_is_closed_untouched(dead, offset, bytes_there) -> None:
    """Whatever SQLite can still make of the file, the log stays what it is, and the file too."""
    data = dead.read_bytes()
    dead.write_bytes(data[:offset] + bytes_there + data[offset + len(bytes_there) :])
    before = {path.name: path.read_bytes() for path in dead.parent.iterdir()}
    assert len(before[f"{DATABASE}-wal"]) > 5000
    writer = await connection.connect(dead, mode="rwc")
    with contextlib.suppress(sqlite3.Error):
        await writer.execute_fetchall("SELECT * FROM series")
    await close_untouched(writer, dead)
    assert {path.name: path.read_bytes() for path in dead.parent.iterdir()} == before


async def test_an_opening_that_fails_leaves_the_log_to_who_looks_next(dead, monkeypatch) -> None:
    """Its own failures too."""
    before = {path.name: path.read_bytes() for path in dead.parent.iterdir()}

    async def fail(_: object) -> None:
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr(connection, "migrate", fail)
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        await open_writer(dead, log_bytes=1 << 20)
    assert {path.name: path.read_bytes() for path in dead.parent.iterdir()} == before


async def test_what_is_gone_from_its_place_is_closed_all_the_same(dead) -> None:
    """Nothing is there that SQLite could move the log into."""
    log = dead.with_name(f"{DATABASE}-wal")
    before = log.read_bytes()
    writer = await connection.connect(dead, mode="rwc")
    await writer.execute_fetchall("SELECT * FROM series")
    dead.unlink()
    await close_untouched(writer, dead)
    assert not dead.exists()
    assert log.read_bytes() == before


def test_the_lock_names_its_owner_and_can_be_passed_on(tmp_path) -> None:
    """It is gone with its process, whatever is written in it."""
    lock = DirectoryLock(tmp_path / "state")
    with pytest.raises(StoreError, match=rf"pid {os.getpid()}\) uses"):
        DirectoryLock(tmp_path / "state")
    lock.close()
    DirectoryLock(tmp_path / "state").close()


def test_a_lock_that_cannot_be_written_is_held_all_the_same(tmp_path, monkeypatch) -> None:
    """Read-only, or the directory itself where there is no lock: there are never two that send the same backlog."""
    real = connection.create

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(connection, "create", refuse)
    for _ in range(2):
        lock = DirectoryLock(tmp_path)
        assert lock.is_read_only
        with pytest.raises(StoreError, match="another gateway"):
            DirectoryLock(tmp_path)
        lock.close()
        (tmp_path / "lock").touch()
    monkeypatch.setattr(connection, "create", real)
    lock = DirectoryLock(tmp_path)
    monkeypatch.setattr(connection, "create", refuse)
    with pytest.raises(StoreError, match=rf"another gateway \(pid {os.getpid()}\)"):
        DirectoryLock(tmp_path)
    lock.close()


def test_a_lock_that_cannot_be_opened_for_another_reason(tmp_path, monkeypatch) -> None:
    """It is said as it is."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(connection, "create", refuse)
    with pytest.raises(StoreError, match="cannot write to .*Input/output error"):
        DirectoryLock(tmp_path)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "give it to the user"), (errno.EROFS, "the disk is read-only")],
)
def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch, code, sentence) -> None:
    """The sentence says what to do."""

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=sentence):
        DirectoryLock(tmp_path)


async def test_a_process_that_was_forked_off_leaves_all_of_it_to_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets go of the lock, which would else outlive the parent, and never of a connection, which would be closed."""
    monkeypatch.setattr(connection, "_connections", weakref.WeakSet())
    monkeypatch.setattr(connection, "_locks", weakref.WeakSet())
    lock = connection.DirectoryLock(tmp_path)
    opened = connection.Transacting(":memory:")
    before = sys.getrefcount(opened)
    connection.leave_to_parent()
    assert sys.getrefcount(opened) == before + 1
    opened.execute("SELECT 1")
    again = connection.DirectoryLock(tmp_path)
    assert lock not in connection._locks
    again.close()
    connection.leave_to_parent()
    opened.close()
