"""Starting, whatever the last power cut left behind: salvage a shelf that is not whole, say why it cannot be opened.

What is checked at each start is cheap: sizes, header, log, the small tables, and SQLite's own quick_check where the
file is small enough (larger after an unclean end). Damage that shows later leaves a mark (`mark_suspect`), so that
the next start salvages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.net.files import write_file
from gateway.store import disks
from gateway.store.accounts import DamagedStateError
from gateway.store.asides import set_log_aside, take_back
from gateway.store.connection import (
    DATABASE,
    PAGE_BYTES,
    close_keeping_log,
    close_untouched,
    count_pages,
    open_reader,
    open_writer,
)
from gateway.store.evidence import SUSPECT, DamagedError, look
from gateway.store.opening import check_rows, fetch, note_closed, read_shelf, read_state
from gateway.store.pages import TreeError
from gateway.store.planning import DAMAGED
from gateway.store.reached import forget_reached
from gateway.store.records import StoreError
from gateway.store.shelf import ShelfReader
from gateway.store.unwritten import forget, write_down

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import aiosqlite

    from gateway.core.clock import Clock
    from gateway.store.evidence import LogLoss
    from gateway.store.frozen import Frozen
    from gateway.store.opening import Opened
    from gateway.store.room import Room
    from gateway.store.rows import Reader

log = logging.getLogger("tidegate.store")

# Reading this much takes a second or two from a slow card; the small one is looked through at every start.
QUICK_CHECK_BYTES_MAX: Final = 64 << 20
SMALL_BYTES_MAX: Final = 4 << 20
ATTEMPTS_MAX: Final = 3
# SQLite's words for "the file is wrong", as opposed to "the disk, or somebody else, is in the way".
_DAMAGE: Final = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_FORMAT,
    # A value that is larger than ours are, a row where none should be, a table that leads in circles.
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_INTERRUPT,
}
# What Python itself says of a text that is none; SQLite does not look.
_NO_TEXT: Final = "Could not decode to UTF-8"


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is wrong."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return not isinstance(error, sqlite3.OperationalError) or str(error).startswith(_NO_TEXT)
    return code & 0xFF in _DAMAGE


def mark_suspect(state_dir: Path, why: str) -> None:
    """Ask the next start to salvage."""
    with contextlib.suppress(OSError):
        write_file(state_dir / SUSPECT, why.encode())


@dataclass(slots=True)
class Started:
    """An open shelf: connections that write and read, what it holds, and if it cannot be written, why not."""

    writer: aiosqlite.Connection
    reading: aiosqlite.Connection
    reader: Reader
    opened: Opened
    frozen: Frozen | None = None
    closed: str = ""

    async def close(self) -> None:
        """Let go of the files, and leave the log for the next start."""
        await close_keeping_log(self.writer, self.reading)
        if self.frozen is not None:
            await self.frozen.close()


class Starter:
    """Opens one shelf, however often it takes. `grace_s` is how long what uplinks that are gone left is kept.

    At `note_path` may be noted what the process before could not write down.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        uplinks: Sequence[str],
        clock: Clock,
        room: Room,
        grace_s: float,
        note_path: Path | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._path = state_dir / DATABASE
        self._uplinks = uplinks
        self._clock = clock
        self._room = room
        self._grace_s = grace_s
        self._note_path = note_path
        self._events: list[str] = []
        self._lost: dict[tuple[str, str], int] = {}
        self._loss: LogLoss | None = None
        self._aside = ""

    async def start(self) -> Started:
        """Return the open shelf; raise StoreError that says what to do."""
        try:
            take_back(self._state_dir)
        except OSError as error:
            why = disks.why(error, self._path)
            raise StoreError(
                f"{self._path} was being salvaged, and what was moved cannot be moved back: {why}"
            ) from error
        started = await self._look_and_open()
        opened = started.opened
        if self._loss is not None:
            self._events.append(self._loss.sentence(opened.timeline, self._clock.monotonic_ns(), aside=self._aside))
        opened.events[:0] = self._events
        opened.was_mended = bool(self._events)
        opened.lost |= self._lost
        return started

    async def _look_and_open(self) -> Started:
        failures = 0
        has_looked = False
        is_new = not os.access(self._path, os.F_OK)
        while True:
            try:
                loss = look(self._path)
                if not has_looked:
                    # Later looks don't tell what was left behind: whoever opened the file may have closed it since.
                    self._loss, has_looked = self._loss or loss, True
                    await self._leave_stale_log()
                disks.check_may_write(self._path)
                return await self._open()
            except DamagedError as error:
                await self._salvage(str(error))
            except (sqlite3.Error, OSError) as error:
                failures += 1
                if is_new:
                    self._unmake()
                if failures == ATTEMPTS_MAX:
                    return await self._freeze(error)
                # A disk with no room left cannot even be read through SQLite, which needs a page of its own.
                self._room.drop_ballast()

    def _unmake(self) -> None:
        """Remove a new database that could not even be begun: the next look would take it for one that was emptied."""
        with contextlib.suppress(OSError):
            if not self._path.stat().st_size:
                for suffix in ("", "-wal"):
                    self._path.with_name(f"{DATABASE}{suffix}").unlink(missing_ok=True)

    async def _leave_stale_log(self) -> None:
        if self._loss is not None and self._loss.is_stale:
            self._aside = await asyncio.to_thread(set_log_aside, self._state_dir, wall_ns=self._clock.wall_ns())

    async def _salvage(self, why: str) -> None:
        if self._events:
            raise StoreError(f"{self._path} cannot be salvaged ({why}); move it elsewhere and start again")
        from gateway.store.salvage import salvage  # noqa: PLC0415  a third of a megabyte, hardly ever needed

        log.error("%s is damaged (%s); salvaging it", self._path, why)
        self._room.drop_ballast()
        try:
            salvaged = await asyncio.to_thread(salvage, self._state_dir, wall_ns=self._clock.wall_ns())
            (self._state_dir / SUSPECT).unlink(missing_ok=True)
            forget_reached(self._state_dir)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"{self._path} is damaged ({why}), and salvaging it failed: {disks.why(error, self._state_dir)}"
            ) from error
        self._loss = self._loss or salvaged.loss
        self._events.append(salvaged.sentence(why))
        self._lost = {(name, DAMAGED): lost.most for name, lost in salvaged.lost.items() if lost.most}

    async def _open(self) -> Started:
        try:
            writer = await open_writer(self._path, log_bytes=self._room.log_bytes)
            try:
                await write_down(writer, self._note_path)
                opened = await self._read(writer, is_thorough=True)
                reading = await open_reader(self._path)
            except StoreError:
                await writer.close()
                raise
            except BaseException:
                # The salvage reads file and log as they were found.
                await close_untouched(writer, self._path)
                raise
        except sqlite3.Error as error:
            if is_damage(error):
                raise DamagedError(str(error)) from error
            raise
        forget(self._note_path)
        return Started(writer, reading, ShelfReader(reading), opened)

    async def _read(self, connection: aiosqlite.Connection, *, is_thorough: bool) -> Opened:
        try:
            if is_thorough:
                await _check(connection)
            return await read_shelf(
                connection, self._state_dir, uplinks=self._uplinks, clock=self._clock, grace_s=self._grace_s
            )
        except (DamagedStateError, msgspec.MsgspecError, ValueError, TypeError) as error:
            # Whatever a damaged row made of itself.
            raise DamagedError(str(error)) from error
        except StoreError:
            await note_closed(connection)
            raise

    async def _freeze(self, error: sqlite3.Error | OSError) -> Started:
        """Open a shelf that cannot be written, so that what it holds can be sent at least."""
        why = disks.why(error, self._path)
        if not disks.keeps_from_writing(error) or not os.access(self._path, os.F_OK):
            raise StoreError(f"cannot open {self._path}: {why}") from error
        try:
            started = await self._open_frozen()
        except (DamagedError, TreeError, sqlite3.Error) as damage:
            raise StoreError(f"{self._path} is damaged ({damage}), and it cannot be salvaged: {why}") from error
        except OSError as failure:
            raise StoreError(f"cannot read {self._path}: {disks.why(failure, self._path)}") from failure
        started.closed = f"nothing can be written: {why}. What is held is sent, nothing new is taken until then"
        if started.frozen is not None and (left_out := started.frozen.left_out):
            started.closed += f", and {left_out} segments wait for the next start"
        started.opened.events.append(started.closed)
        return started

    async def _open_frozen(self) -> Started:
        from gateway.store.frozen import Frozen, FrozenReader  # noqa: PLC0415  hardly ever needed

        if self._loss is not None and self._loss.is_stale:
            raise DamagedError("its log is of an earlier time")
        frozen = await Frozen.open(self._path)
        try:
            await write_down(frozen.memory, self._note_path)
            opened = await self._read(frozen.memory, is_thorough=False)
        except BaseException:
            await frozen.close()
            raise
        return Started(frozen.memory, frozen.memory, FrozenReader(frozen), opened, frozen)


async def _check(connection: aiosqlite.Connection) -> None:
    """Look the file through where that takes no more than a second or two."""
    state = await read_state(connection)
    pages, _ = await count_pages(connection)
    if pages * PAGE_BYTES <= (SMALL_BYTES_MAX if state.clean else QUICK_CHECK_BYTES_MAX):
        await _quick_check(connection)
        await check_rows(connection, state)


async def _quick_check(connection: aiosqlite.Connection) -> None:
    rows = await fetch(connection, "PRAGMA quick_check(1)")
    if rows != [("ok",)]:
        raise DamagedError(str(rows[0][0]) if rows else "quick_check says nothing")
