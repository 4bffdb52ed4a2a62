"""Starting, whatever the last power cut left behind: salvage a shelf that is not whole, say why it cannot be opened.

What is checked at each start is cheap: sizes, header, log, the small tables, and SQLite's own quick_check where the
file is small enough (larger after an unclean end). Damage that shows later leaves a mark (`mark_suspect`), so that
the next start salvages.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.store.accounts import DamagedStateError
from gateway.store.connection import DATABASE, PAGE_BYTES, count_pages, open_reader, open_writer
from gateway.store.opening import Opened, fetch, read_shelf
from gateway.store.records import StoreError
from gateway.store.salvage import log_is_broken, salvage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import aiosqlite

    from gateway.core.clock import Clock
    from gateway.store.room import Room

log = logging.getLogger("tidegate.store")

SUSPECT: Final = f"{DATABASE}.suspect"
SQLITE_MAGIC: Final = b"SQLite format 3\0"
# Reading this much takes a second or two from a slow card; the small one is looked through at every start.
QUICK_CHECK_BYTES_MAX: Final = 64 << 20
SMALL_BYTES_MAX: Final = 4 << 20
ATTEMPTS_MAX: Final = 3
# SQLite's words for "the file is wrong", as opposed to "the disk, or somebody else, is in the way".
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}


class DamagedError(Exception):
    """The database is not whole; the message says what is wrong, in a few words."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is wrong."""
    code = getattr(error, "sqlite_errorcode", None)
    return not isinstance(error, sqlite3.OperationalError) if code is None else code & 0xFF in _DAMAGE


def mark_suspect(state_dir: Path, why: str) -> None:
    """Ask the next start to salvage."""
    with contextlib.suppress(OSError):
        (state_dir / SUSPECT).write_text(why, encoding="utf-8")


def look(path: Path) -> None:
    """Look at the file from outside; raise DamagedError where SQLite would not notice, or only later."""
    suspect = path.with_name(SUSPECT)
    if suspect.exists():
        raise DamagedError(suspect.read_text(encoding="utf-8", errors="replace") or "it failed while it was used")
    log_path = path.with_name(f"{DATABASE}-wal")
    log_bytes = log_path.stat().st_size if log_path.exists() else 0
    if not path.exists() or not path.stat().st_size:
        if path.exists() or log_bytes:
            raise DamagedError("the file is empty")
        return
    with path.open("rb") as file:
        head = file.read(100)
    if not head.startswith(SQLITE_MAGIC):
        raise DamagedError("this is no SQLite database")
    page_bytes = int.from_bytes(head[16:18], "big")
    if not log_bytes and path.stat().st_size < int.from_bytes(head[28:32], "big") * page_bytes:
        raise DamagedError("the file is cut short")
    if log_is_broken(path):
        raise DamagedError("the write-ahead log is damaged before its end")


async def start(
    state_dir: Path, *, uplinks: Sequence[str], clock: Clock, room: Room
) -> tuple[aiosqlite.Connection, aiosqlite.Connection, Opened]:
    """Return the connections that write and read, and what the shelf holds; raise StoreError that says what to do."""
    path = state_dir / DATABASE
    events: list[str] = []
    attempt = 0
    while True:
        attempt += 1
        try:
            look(path)
            writer, reader, opened = await _open(path, uplinks=uplinks, clock=clock, log_bytes=room.log_bytes)
        except DamagedError as error:
            if events:
                raise StoreError(f"{path} cannot be salvaged ({error}); move it elsewhere and start again") from error
            log.error("%s is damaged (%s); salvaging it", path, error)  # noqa: TRY400  the sentence is enough
            events.append(await _salvage(state_dir, str(error), room, wall_ns=clock.wall_ns()))
        except (sqlite3.Error, OSError) as error:
            if attempt == ATTEMPTS_MAX:
                raise StoreError(_why_not(path, error)) from error
            # A disk with no room left cannot even be read through SQLite, which needs a page of its own.
            room.drop_ballast()
        else:
            opened.events[:0] = events
            return writer, reader, opened


async def _salvage(state_dir: Path, why: str, room: Room, *, wall_ns: int) -> str:
    room.drop_ballast()
    try:
        salvaged = await asyncio.to_thread(salvage, state_dir, wall_ns=wall_ns)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"{state_dir / DATABASE} is damaged ({why}), and salvaging it failed: {error}; "
            "free some room on the disk and start again"
        ) from error
    (state_dir / SUSPECT).unlink(missing_ok=True)
    return salvaged.sentence(why)


async def _open(
    path: Path, *, uplinks: Sequence[str], clock: Clock, log_bytes: int
) -> tuple[aiosqlite.Connection, aiosqlite.Connection, Opened]:
    async with contextlib.AsyncExitStack() as undo:
        try:
            writer = await open_writer(path, log_bytes=log_bytes)
            undo.push_async_callback(writer.close)
            opened = await read_shelf(writer, uplinks=uplinks, clock=clock)
            pages, _ = await count_pages(writer)
            if pages * PAGE_BYTES <= (SMALL_BYTES_MAX if opened.was_clean else QUICK_CHECK_BYTES_MAX):
                await _quick_check(writer)
            reader = await open_reader(path)
        except sqlite3.Error as error:
            if is_damage(error):
                raise DamagedError(str(error)) from error
            raise
        except (DamagedStateError, msgspec.MsgspecError, ValueError, TypeError) as error:
            # Whatever a damaged row made of itself.
            raise DamagedError(str(error)) from error
        undo.pop_all()
        return writer, reader, opened


async def _quick_check(connection: aiosqlite.Connection) -> None:
    rows = await fetch(connection, "PRAGMA quick_check(1)")
    if rows != [("ok",)]:
        raise DamagedError(str(rows[0][0]) if rows else "quick_check says nothing")


def _why_not(path: Path, error: sqlite3.Error | OSError) -> str:
    code = getattr(error, "sqlite_errorname", "")
    if "FULL" in code or "SHMSIZE" in code or getattr(error, "errno", 0) == errno.ENOSPC:
        return f"cannot open {path}: the disk is full; free some room and start again"
    if "READONLY" in code or "CANTOPEN" in code or getattr(error, "errno", 0) in {errno.EROFS, errno.EACCES}:
        return f"cannot write to {path}; is the disk read-only, or does the directory belong to another user?"
    return f"cannot open {path}: {error} {code}".rstrip()
