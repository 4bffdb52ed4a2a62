"""SQLite as the shelf uses it: directory lock, pragmas, numbered schema files. Must not know what the rows mean.

Flash is written by pages that a commit touches, so the page size is chosen by measuring (tests/perf/flash_bench.py).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import aiosqlite

from gateway.store.records import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

DATABASE: Final = "tidegate.db"
LOCK: Final = "lock"
APPLICATION_ID: Final = 0x54494445  # "TIDE"
PAGE_BYTES: Final = 512
# What both caches have together until the board's limit is known; the reader gets one part of it in READER_SHARE.
CACHE_BYTES: Final = 1 << 20
READER_SHARE: Final = 4
BUSY_S: Final = 10.0


def uri(path: Path, *, mode: str) -> str:
    """Return SQLite's name of a file for this process alone; `mode` is ro, rw or rwc.

    The VFS "unix-excl" keeps the index of the log in this process's memory. As the file that it is elsewhere
    (`-shm`) it costs another 0.7 to 2.4 KB of flash for each commit, and can be damaged.
    """
    return f"file:{quote(str(path.absolute()))}?mode={mode}&vfs=unix-excl"


def schemas() -> list[str]:
    """Return the numbered schema files, oldest first."""
    folder = Path(__file__).parent / "schema"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    assert [int(file.name[:3]) for file in files] == list(range(1, len(files) + 1))
    return [file.read_text(encoding="utf-8") for file in files]


class DirectoryLock:
    """`state_dir/lock`, held by this process for as long as the object is not closed."""

    def __init__(self, state_dir: Path) -> None:
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            self._file = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise _unwritable(state_dir, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise StoreError(
                f"another gateway (pid {owner}) uses {state_dir}; stop it or give this one a state_dir of its own"
            ) from None
        # The pid is a help for people: on a full disk the lock is as good without it.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let the next one in."""
        os.close(self._file)


def _unwritable(state_dir: Path, error: OSError) -> StoreError:
    if error.errno == errno.ENOSPC:
        return StoreError(f"no room for {state_dir}: the disk is full; free some and start again")
    return StoreError(
        f"cannot write to {state_dir} ({error.strerror}); create it, or give it to the user that runs the gateway"
    )


async def open_writer(path: Path, *, log_bytes: int) -> aiosqlite.Connection:
    """Open the one connection that writes, with the newest schema; raise sqlite3.Error or StoreError.

    When the log has `log_bytes`, what it holds moves into the database and it begins anew.
    """
    connection = await aiosqlite.connect(uri(path, mode="rwc"), uri=True, isolation_level=None, timeout=BUSY_S)
    try:
        await _run(
            connection,
            [
                f"PRAGMA page_size = {PAGE_BYTES}",
                "PRAGMA auto_vacuum = NONE",
                "PRAGMA journal_mode = WAL",
                # FULL: a commit that came back is on the medium. NORMAL loses what a power cut finds in the log.
                "PRAGMA synchronous = FULL",
                f"PRAGMA wal_autocheckpoint = {log_bytes // PAGE_BYTES}",
                _cache_size(CACHE_BYTES - CACHE_BYTES // READER_SHARE),
                "PRAGMA temp_store = MEMORY",
                "PRAGMA trusted_schema = OFF",
                # Some builds (Debian's) overwrite what is deleted by zeros: every byte would be written twice.
                "PRAGMA secure_delete = OFF",
                "PRAGMA cell_size_check = ON",
            ],
        )
        await migrate(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


async def open_reader(path: Path) -> aiosqlite.Connection:
    """Open the connection that leases read by; raise sqlite3.Error."""
    connection = await aiosqlite.connect(uri(path, mode="ro"), uri=True, isolation_level=None, timeout=BUSY_S)
    try:
        await _run(connection, [_cache_size(CACHE_BYTES // READER_SHARE), "PRAGMA query_only = ON"])
    except BaseException:
        await connection.close()
        raise
    return connection


async def share_cache(writer: aiosqlite.Connection, reader: aiosqlite.Connection, cache_bytes: int) -> None:
    """Give both connections their part of `cache_bytes`. More than a few hundred KiB is not seen in flash or time."""
    await writer.execute_fetchall(_cache_size(cache_bytes - cache_bytes // READER_SHARE))
    await reader.execute_fetchall(_cache_size(cache_bytes // READER_SHARE))


def _cache_size(size_bytes: int) -> str:
    return f"PRAGMA cache_size = -{max(size_bytes >> 10, 1)}"


async def migrate(connection: aiosqlite.Connection) -> None:
    """Apply the schema files that this database lacks, each in a transaction of its own."""
    ((owner,),) = await connection.execute_fetchall("PRAGMA application_id")
    ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
    ((tables,),) = await connection.execute_fetchall("SELECT count(*) FROM sqlite_schema")
    files = schemas()
    if owner == APPLICATION_ID and version > len(files):
        raise StoreError(
            f"{DATABASE} was written by a newer tidegate (schema {version}, this one knows {len(files)}); "
            "install that version again, or give this one another state_dir. Nothing was changed."
        )
    if owner != APPLICATION_ID and tables:
        raise sqlite3.DatabaseError(f"{DATABASE} is some other program's database")
    for number, text in enumerate(files[version:], start=version + 1):
        await connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID};\n{text};\n"
            f"PRAGMA user_version = {number}; COMMIT;"
        )


async def _run(connection: aiosqlite.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        await connection.execute_fetchall(statement)


async def count_pages(connection: aiosqlite.Connection) -> tuple[int, int]:
    """Return how many pages the file has, and how many of them are free."""
    ((pages, free),) = await connection.execute_fetchall(
        "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count"
    )
    return pages, free
