"""A shelf that cannot be written: what is held is read and sent, what was sent is remembered in memory.

SQLite opens a database with a log only where it can write beside it; as `immutable` it passes the log over, and what
was committed last would be missing. So the files are read by hand (store/pagefile). All but the bodies of segments
goes into a database in memory whose rows say where their bodies stand, and on that one leases, acks and commits work
as ever. Nothing new is taken. When the disk can be written again, what has changed is written down.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import struct
from typing import TYPE_CHECKING, Any, Final

import aiosqlite

from gateway.net.files import create
from gateway.store import disks
from gateway.store.accounts import decode_state, encode_state
from gateway.store.connection import LOCK, Steps, Transacting, close_untouched, open_writer, schemas, transact
from gateway.store.evidence import DamagedError, look
from gateway.store.opening import as_closed, fetch, note_closed, read_ledger
from gateway.store.pagefile import PageFile
from gateway.store.pages import heads_of, last_value, leaves_of, rows_of
from gateway.store.recent import Row
from gateway.store.records import SEQUENCE_END, SHELVES, STATE_ID, StoreError, place
from gateway.store.rows import origin_in
from gateway.store.starting import is_damage
from gateway.store.unwritten import note_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from gateway.store.accounts import State
    from gateway.store.room import Room
    from gateway.store.unwritten import Unwritten

# Segments that can be sent before a new start, the most important and oldest first: about 70 bytes of memory each.
ROWS_MAX: Final = 200_000
BATCH_ROWS: Final = 2048
# The leaf page of a row, its offset there, the size of its body.
_PLACE: Final = struct.Struct(">IHI")
_SMALL: Final = ("series", "series_copy", "ledger", "boots")
_CHANGES: Final = """
CREATE TABLE gone (id INTEGER PRIMARY KEY);
CREATE TABLE settled (id INTEGER PRIMARY KEY);
CREATE TRIGGER goes AFTER DELETE ON shelf BEGIN INSERT OR IGNORE INTO gone VALUES (old.id); END;
CREATE TRIGGER settles AFTER UPDATE OF done ON shelf BEGIN INSERT OR IGNORE INTO settled VALUES (old.id); END;
"""


class Frozen:
    """What is known of a shelf that cannot be written. Made by `open`; `memory` is the database to work on."""

    def __init__(self, path: Path, pages: PageFile, memory: aiosqlite.Connection) -> None:
        self.memory = memory
        self.left_out = 0  # segments that found no room in memory
        self.sent: dict[str, int] = {}  # readings that only this process knows to be sent
        self._path = path
        self._pages = pages
        self._state = b""

    @classmethod
    async def open(cls, path: Path) -> Frozen:
        """Read the database at `path` and its log; raise OSError, sqlite3.Error, TreeError or DamagedError."""
        memory = await aiosqlite.connect(":memory:", isolation_level=None, factory=Transacting)
        pages = None
        try:
            pages = await asyncio.to_thread(PageFile, path)
            found = cls(path, pages, memory)
            await found._fill()
        except BaseException:
            await memory.close()
            if pages is not None:
                pages.close()
            raise
        return found

    async def close(self) -> None:
        """Forget all of it."""
        await self.memory.close()
        self._pages.close()

    async def _fill(self) -> None:
        for text in schemas():
            await self.memory.executescript(text)
        batches = self._batches()
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            await self.memory.executemany(*batch)
        if not self._state:
            raise DamagedError("the state row is gone")
        await self.memory.executescript(_CHANGES)

    def _batches(self) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
        """Return statements and the rows to run them with."""
        roots = self._pages.roots()
        for table in _SMALL:
            rows = ((row_id, *values[1:]) for row_id, values in self._pages.table(roots[table]))
            yield from _insert(table, rows)
        yield from _insert("shelf", itertools.chain(self._state_row(roots["shelf"]), self._segments(roots["shelf"])))

    def _state_row(self, root: int) -> Iterator[tuple[object, ...]]:
        for leaf in leaves_of(self._pages.page, root, first=STATE_ID, last=STATE_ID):
            for row_id, values in rows_of(self._pages.page(leaf) or b"", leaf, self._pages.page):
                if row_id == STATE_ID and isinstance(values[-1], bytes):
                    self._state = values[-1]
                    yield (row_id, *values[1:])

    def _segments(self, root: int) -> Iterator[tuple[object, ...]]:
        count = 0
        for shelf in sorted(SHELVES, key=lambda shelf: shelf[0]):
            first, last = place(*shelf, 0), place(*shelf, SEQUENCE_END) - 1
            for leaf in leaves_of(self._pages.page, root, first=first, last=last):
                for head in heads_of(self._pages.page(leaf) or b"", self._pages.page):
                    if first <= head.row_id <= last and (count := count + 1) <= ROWS_MAX:
                        where = _PLACE.pack(leaf, head.offset, head.last_bytes)
                        yield (head.row_id, *head.values[1:], where)
        self.left_out = max(count - ROWS_MAX, 0)

    def body(self, where: bytes) -> bytes | None:
        """Return the body of a segment that stands there, None where it cannot be read."""
        leaf, offset, _ = _PLACE.unpack(where)
        page = self._pages.page(leaf)
        body = None if page is None else last_value(page, offset, self._pages.page)
        return body if isinstance(body, bytes) else None

    # The way back.

    def can_be_written(self, room: Room) -> bool:
        """Whether the disk has room and takes what is written, as far as a small write tells. May take a while."""
        folder = self._path.parent
        if disks.free_bytes(folder) <= 2 * room.ballast_bytes:
            return False
        try:
            file = create(folder / LOCK, os.O_RDWR)
            try:
                os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
                os.fsync(file)
            finally:
                os.close(file)
            disks.check_may_write(self._path)
        except OSError:
            return False
        return os.access(folder, os.W_OK | os.X_OK)

    async def write_down(self, room: Room) -> str:
        """Bring the database on the disk in line with the one in memory; return why that cannot be, "" if it was."""
        try:
            look(self._path)
            writer = await open_writer(self._path, log_bytes=room.log_bytes)
            is_damaged = False
            try:
                await self._write_down(writer)
            except BaseException as error:
                is_damaged = isinstance(error, sqlite3.Error) and is_damage(error)
                if not is_damaged:
                    await note_closed(writer)
                raise
            finally:
                # The salvage reads file and log as they were found.
                await (close_untouched(writer, self._path) if is_damaged else writer.close())
        except (sqlite3.Error, OSError) as error:
            return disks.why(error, self._path)
        except (StoreError, DamagedError) as error:
            return str(error)
        return ""

    async def _write_down(self, disk: aiosqlite.Connection) -> None:
        if await fetch(disk, "SELECT body FROM shelf WHERE id = ?", (STATE_ID,)) != [(self._state,)]:
            raise StoreError("somebody else has written to it meanwhile")
        state = await self._true_state()
        # On the disk all of it is one commit: a gap would look like a log that lost the others (store/evidence).
        state.commit = decode_state(self._state).commit + 1
        steps = Steps()
        await self._copy_all(steps)
        steps.add("UPDATE shelf SET body = ? WHERE id = ?", (encode_state(state), STATE_ID))
        await transact(disk, steps)

    async def _true_state(self) -> State:
        """Return the state as it is where what was sent is known: then it is sent once."""
        ((body,),) = await fetch(self.memory, "SELECT body FROM shelf WHERE id = ?", (STATE_ID,))
        state = decode_state(body)
        for share in state.shares:
            share.maybe_twice -= min(share.maybe_twice, self.sent.get(share.name, 0))
        return state

    async def unwritten(self) -> list[Unwritten]:
        """Return what to note of what the disk does not know, for each state that it may have after `write_down`."""
        state = await self._true_state()
        done = dict(await fetch(self.memory, "SELECT id, done FROM shelf WHERE id IN settled"))
        removed = [row_id for (row_id,) in await fetch(self.memory, "SELECT id FROM gone")]
        ledger = await read_ledger(self.memory, state)
        return [
            note_of(before, state.shares, done=done, removed=removed, ledger=ledger)
            for before in dict.fromkeys((self._state, as_closed(self._state)))
        ]

    async def _copy_all(self, steps: Steps) -> None:
        await self._copy(steps, "SELECT id FROM gone", "DELETE FROM shelf WHERE id = ?")
        await self._copy(
            steps, "SELECT done, id FROM shelf WHERE id IN settled", "UPDATE shelf SET done = ? WHERE id = ?"
        )
        for table in ("series", "series_copy"):
            await self._copy(steps, f"SELECT * FROM {table}", f"INSERT OR IGNORE INTO {table} VALUES (?, ?)")  # noqa: S608  our own names
        await self._copy(steps, "SELECT * FROM boots", "INSERT OR REPLACE INTO boots VALUES (?, ?, ?)")
        steps.add("DELETE FROM ledger", ())
        await self._copy(steps, "SELECT * FROM ledger", "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
        await self._copy(
            steps,
            "SELECT at_ns, uplink, reason, message, readings, body FROM refused",
            "INSERT INTO refused VALUES (NULL, ?, ?, ?, ?, ?, ?)",
        )

    async def _copy(self, steps: Steps, select: str, insert: str) -> None:
        steps.add(insert, *await fetch(self.memory, select))


def _insert(table: str, rows: Iterator[tuple[object, ...]]) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        marks = ", ".join("?" * len(batch[0]))
        yield f"INSERT OR IGNORE INTO {table} VALUES ({marks})", batch  # noqa: S608  our own names


class FrozenReader:
    """The `Reader` of store/leases on a shelf that cannot be written."""

    def __init__(self, frozen: Frozen) -> None:
        self._frozen = frozen

    async def rows(self, start: int, end: int, *, lacking: int, limit: int, newest: bool) -> list[Row]:
        """Return up to `limit` rows of a range that these uplinks still need, oldest or newest first."""
        order = "DESC" if newest else "ASC"
        rows = await self._frozen.memory.execute_fetchall(
            "SELECT id, readings, boot, body FROM shelf"  # noqa: S608  one of two words of our own
            f" WHERE id >= ? AND id < ? AND done & ? = 0 ORDER BY id {order} LIMIT ?",
            (start, end, lacking, limit),
        )
        return [Row(row_id, readings, boot, _PLACE.unpack(where)[2]) for row_id, readings, boot, where in rows]

    async def bodies(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies of those of `ids` that are there."""
        marks = ",".join("?" * len(ids))
        rows = await self._frozen.memory.execute_fetchall(
            f"SELECT id, body FROM shelf WHERE id IN ({marks})",  # noqa: S608  question marks only
            list(ids),
        )
        return await asyncio.to_thread(self._bodies, rows)

    async def origins(self, ids: Sequence[int]) -> dict[int, int]:
        """Return what each segment's header says of what made it."""
        return {row_id: origin_in(body) for row_id, body in (await self.bodies(ids)).items()}

    def _bodies(self, rows: Iterable[Any]) -> dict[int, bytes]:
        bodies = ((row_id, self._frozen.body(where)) for row_id, where in rows)
        return {row_id: body for row_id, body in bodies if body is not None}
