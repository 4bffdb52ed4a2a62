"""SQLite as the shelf uses it: directory lock, pragmas, numbered schema files. Must not know what the rows mean.

Flash is written by pages that a commit touches, so the page size is chosen by measuring (tests/perf/flash_bench.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import sqlite3
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

import aiosqlite

from gateway.net.files import create
from gateway.store import disks, files
from gateway.store.files import check_place
from gateway.store.records import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

DATABASE: Final = files.DATABASE
LOCK: Final = "lock"
APPLICATION_ID: Final = 0x54494445  # "TIDE"
PAGE_BYTES: Final = 512
# What both caches have together until the board's limit is known; the reader gets one part of it in READER_SHARE.
CACHE_BYTES: Final = 1 << 20
READER_SHARE: Final = 4
BUSY_S: Final = 10.0
COUNT_PAGES: Final = "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count"
# The largest value is a segment of logs (store/segments.py).
LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: 32 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_COLUMN: 64,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
}
# Steps of SQLite's machine: asked after so many, that many are always allowed, and so many for each block of 512
# bytes, which hold 16 rows at most.
STEPS: Final = 1_000_000
STEPS_MIN: Final = 20 * STEPS
STEPS_PER_BLOCK: Final = 1000


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


@functools.cache
def expected_schema(version: int) -> frozenset[tuple[str, str, str, str]]:
    """Return (type, name, table, sql) of all that a database of this schema version holds, to the letter."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for text in schemas()[:version]:
            connection.executescript(text)
        return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"))
    finally:
        connection.close()


def newer_schema(version: int) -> StoreError:
    """Return what is to be said of a database that a later version of this program wrote."""
    return StoreError(
        f"{DATABASE} was written by a newer tidegate (schema {version}, this one knows {len(schemas())}); "
        "install that version again, or give this one another state_dir. Nothing was changed."
    )


class Steps(str):
    """A transaction in one piece: given to `execute_fetchall` it costs one turn of the connection's thread in all.

    Each turn is a wake-up, and each wake-up of another thread keeps the event loop waiting for the interpreter. What
    comes back is `count_pages` as of then.
    """

    __slots__ = ("statements",)

    def __new__(cls) -> Self:
        """Begin one; as text it only says what it is."""
        return super().__new__(cls, "-- a transaction")

    def __init__(self) -> None:
        self.statements: list[tuple[str, Iterable[Any]]] = []

    def add(self, sql: str, *rows: Sequence[Any]) -> None:
        """Run `sql` for each of `rows`."""
        self.statements.append((sql, rows))


_connections: weakref.WeakSet[Transacting] = weakref.WeakSet()
_locks: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def leave_to_parent() -> None:
    """In a process that was forked off: leave every shelf that is open to the parent, whose it is; never undone.

    SQLite in the child believes to have locks that only the parent has: closing a connection here, which garbage
    collection would do, moves the parent's log under its feet. So they stay as they are for as long as this process
    lives. The lock on a directory is the parent's alone: as long as a child has it too it would outlive the parent.
    """
    for connection in list(_connections):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    for lock in list(_locks):
        lock.close()


class Transacting(sqlite3.Connection):
    """A connection that knows `Steps`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _connections.add(self)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run one statement, or all of a transaction; one that fails leaves nothing."""
        if not isinstance(sql, Steps):
            return super().execute(sql, parameters)
        self.execute("BEGIN IMMEDIATE")
        try:
            for statement, rows in sql.statements:
                self.executemany(statement, rows)
            pages = self.execute(COUNT_PAGES).fetchone()
            self.execute("COMMIT")
        except BaseException:
            if self.in_transaction:
                self.execute("ROLLBACK")
            raise
        return self.execute("SELECT ?, ?", pages)


class Guarded(Transacting):
    """A connection whose statements end, whatever the file makes of them.

    No value is larger than ours are, nothing is attached, and a statement may take so many steps of SQLite's machine
    as reading all of the file takes; one that goes on raises OperationalError (SQLITE_INTERRUPT).
    """

    def __init__(self, database: str, *args: Any, **options: Any) -> None:
        super().__init__(database, *args, **options)
        for limit, most in LIMITS.items():
            self.setlimit(limit, most)
        self._meter = _Meter(Path(unquote(database.removeprefix("file:").partition("?")[0])))
        self.set_progress_handler(self._meter, STEPS)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run one statement or transaction."""
        self._meter.steps = 0
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        """Run one statement several times."""
        self._meter.steps = 0
        return super().executemany(sql, parameters)


class _Meter:
    """Counts the steps of a statement; true when they are too many."""

    def __init__(self, path: Path) -> None:
        self.steps = 0
        self._path = path

    def __call__(self) -> bool:
        self.steps += STEPS
        return self.steps > STEPS_MIN and self.steps > STEPS_MIN + STEPS_PER_BLOCK * self._blocks()

    def _blocks(self) -> int:
        """Return how much of the disk the file and its log have: what they only claim to have is not read."""
        blocks = 0
        for path in (self._path, self._path.with_name(self._path.name + "-wal")):
            with contextlib.suppress(OSError):
                blocks += path.stat().st_blocks
        return blocks


class DirectoryLock:
    """`state_dir/lock`, held by this process for as long as the object is not closed.

    Where nothing can be written it is held all the same, as far as it is there to be held: two that send the same
    backlog are one too many. `is_read_only` says so.
    """

    def __init__(self, state_dir: Path) -> None:
        self.is_read_only = False
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            check_place(state_dir)
            self._file = self._open(state_dir)
        except OSError as error:
            raise StoreError(f"cannot write to {state_dir}: {disks.why(error, state_dir)}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = "unknown"
            with contextlib.suppress(OSError):
                owner = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or owner
            os.close(self._file)
            raise StoreError(
                f"another gateway (pid {owner}) uses {state_dir}; stop it or give this one a state_dir of its own"
            ) from None
        # The pid is a help for people: on a full disk the lock is as good without it.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        _locks.add(self)

    def _open(self, state_dir: Path) -> int:
        try:
            return create(state_dir / LOCK, os.O_RDWR)
        except OSError as error:
            if not disks.is_unwritable(error) and not disks.is_full(error):
                raise
        self.is_read_only = True
        try:
            return os.open(state_dir / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let the next one in."""
        _locks.discard(self)
        os.close(self._file)


def body_at(connection: sqlite3.Connection, row_id: int) -> Any:
    """Return what stands under a row id of the shelf, None where nothing does."""
    row = connection.execute("SELECT body FROM shelf WHERE id = ?", (row_id,)).fetchone()
    return row[0] if row else None


async def connect(path: Path, *, mode: str) -> aiosqlite.Connection:
    """Open a connection in a thread of its own; raise sqlite3.Error."""
    return await aiosqlite.connect(
        uri(path, mode=mode), uri=True, isolation_level=None, timeout=BUSY_S, factory=Guarded
    )


async def open_writer(path: Path, *, log_bytes: int) -> aiosqlite.Connection:
    """Open the one connection that writes, with the newest schema; raise sqlite3.Error or StoreError.

    When the log has `log_bytes`, what it holds moves into the database and it begins anew.
    """
    connection = await connect(path, mode="rwc")
    try:
        await _run(
            connection,
            [
                "PRAGMA trusted_schema = OFF",
                f"PRAGMA page_size = {PAGE_BYTES}",
                "PRAGMA auto_vacuum = NONE",
                "PRAGMA journal_mode = WAL",
                # FULL: a commit that came back is on the medium. NORMAL loses what a power cut finds in the log.
                "PRAGMA synchronous = FULL",
                f"PRAGMA wal_autocheckpoint = {log_bytes // PAGE_BYTES}",
                _cache_size(CACHE_BYTES - CACHE_BYTES // READER_SHARE),
                "PRAGMA temp_store = MEMORY",
                # Some builds (Debian's) overwrite what is deleted by zeros: every byte would be written twice.
                "PRAGMA secure_delete = OFF",
                "PRAGMA cell_size_check = ON",
            ],
        )
        await migrate(connection)
    except BaseException:
        await close_untouched(connection, path)
        raise
    return connection


async def open_reader(path: Path) -> aiosqlite.Connection:
    """Open the connection that leases read by; raise sqlite3.Error."""
    connection = await connect(path, mode="ro")
    try:
        await _run(
            connection,
            [_cache_size(CACHE_BYTES // READER_SHARE), "PRAGMA query_only = ON", "PRAGMA trusted_schema = OFF"],
        )
    except BaseException:
        await connection.close()
        raise
    return connection


async def close_keeping_log(writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
    """Close both without moving the log into the file: the last one may only read, so that SQLite leaves it alone."""
    try:
        await writer.close()
    finally:
        await reader.close()


async def close_untouched(writer: aiosqlite.Connection, path: Path) -> None:
    """Close the only connection and leave both files as they are: damage must not take in what the log still knows.

    Another one that may only read goes last. It has the log open once it has tried to read, whatever it found. Where
    there is no other to be had (the file is gone from its place) SQLite has nothing to move the log into either.
    """
    async with contextlib.AsyncExitStack() as last:
        with contextlib.suppress(sqlite3.Error):
            reader = await connect(path, mode="ro")
            last.push_async_callback(reader.close)
            await reader.execute_fetchall("PRAGMA user_version")
        await writer.close()


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
        raise newer_schema(version)
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
    ((pages, free),) = await connection.execute_fetchall(COUNT_PAGES)
    return pages, free


async def transact(connection: aiosqlite.Connection, steps: Steps) -> tuple[int, int]:
    """Run a transaction of one of our connections and return when it is on the medium, with `count_pages` then."""
    ((pages, free),) = await connection.execute_fetchall(steps)
    return pages, free
