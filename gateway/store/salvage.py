"""Salvage: a damaged database is moved aside, what can be read of it goes into a new one. Must not lose the old one.

SQLite itself stops at the first page that is wrong, so the file is read by hand (store/pages): as its trees lead to
its pages (store/survey), and where they don't, every leaf page of the database and its log. A segment is kept if its
own checksum is right (store/filling); the accounts come from the newest state row that can be found, and what they say
was held and is not there for certain goes to the ledger as `damaged` (store/reckoning). Something delivered may come
back this way: it is counted as possibly sent twice.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.core.clock import WALL_FLOOR_NS, BootTimes, Quality, Sample
from gateway.core.contracts import BootId
from gateway.core.words import plural
from gateway.net.files import sync_folder
from gateway.store.asides import DAMAGED_NAME, READY_NAME, aside_name, keep_few, make_room, move, remove
from gateway.store.connection import APPLICATION_ID, DATABASE, PAGE_BYTES, body_at, schemas
from gateway.store.disks import free_bytes
from gateway.store.filling import Filling
from gateway.store.lineage import beside, known_hash, next_carries
from gateway.store.names import is_of_another_branch, names_beside
from gateway.store.opening import LOST_BOOT
from gateway.store.pagefile import PageFile
from gateway.store.planning import encode_boot
from gateway.store.reached import read_reached
from gateway.store.reckoning import reckon
from gateway.store.records import STATE_ID, where_from
from gateway.store.segments import read_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.store.evidence import LogLoss
    from gateway.store.pages import Value
    from gateway.store.reckoning import Missing

log = logging.getLogger("tidegate.store")

# Looked at for a boot's clock: any will do whose times are all of that.
SAMPLES_MAX: Final = 256
ACCOUNTS_BYTES: Final = 32 << 10
NEW: Final = f"{DATABASE}.new"
BLOCK_BYTES: Final = 512  # stat(2), st_blocks


@dataclass(slots=True)
class Salvaged:
    """What was found."""

    segments: int = 0
    readings: int = 0
    damaged_segments: int = 0
    lost: dict[str, Missing] = field(default_factory=dict)  # by uplink
    aside: str = ""
    is_complete: bool = True  # whether all that was readable found room on the disk
    state_found: bool = False
    is_newest: bool = False  # whether the state that was found is that of the last commit
    loss: LogLoss | None = None  # what is missing after all that was found, where that is known

    def sentence(self, why: str) -> str:
        """Say what happened."""
        return self._say("was", why, "were salvaged", f"the damaged file is kept as {self.aside}")

    def outlook(self, why: str) -> str:
        """Say what would happen."""
        return self._say("is", why, "can be salvaged", "the gateway does that when it is started")

    def _say(self, tense: str, why: str, done: str, then: str) -> str:
        lost = ", ".join(f"{missing} for {name or 'nobody'}" for name, missing in self.lost.items() if missing.most)
        if not self.is_newest:
            lost = f"{lost or 'nothing that its counters know of'}, and what came last where that is missing"
        if not self.state_found:
            lost = "how much is not known, its counters are lost too"
        text = (
            f"{DATABASE} {tense} damaged ({why}): {plural(self.segments, 'segment')} with "
            f"{plural(self.readings, 'reading')} {done}, lost: {lost or 'nothing'}; {then}"
        )
        return text if self.is_complete else text + "; the disk has no room for the rest of what it holds"


def salvage(state_dir: Path, *, wall_ns: int) -> Salvaged:
    """Move the database in `state_dir` aside and put a new one in its place; raise OSError or sqlite3.Error."""
    path = state_dir / DATABASE
    new = state_dir / NEW
    remove(new)
    path.touch()
    make_room(state_dir, wanted_bytes=_bytes_on_disk(path))
    result = salvage_into(new, path)
    result.aside = aside_name(state_dir, wall_ns)
    ready = state_dir / result.aside.replace(DAMAGED_NAME, READY_NAME)
    new.replace(ready)
    sync_folder(state_dir)
    move(path, state_dir / result.aside)
    ready.replace(path)
    keep_few(state_dir, newest=result.aside)
    return result


def _bytes_on_disk(path: Path) -> int:
    """Return how much a database and its log take: what they only claim to hold is not copied."""
    found = [file.stat() for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
    return sum(min(of.st_size, of.st_blocks * BLOCK_BYTES) for of in found)


def salvage_into(new: Path, path: Path) -> Salvaged:
    """Put what can be read of the database at `path` into a new one; raise OSError or sqlite3.Error."""
    result = Salvaged()
    room_bytes = free_bytes(new.parent)
    is_short = room_bytes < _bytes_on_disk(path)
    with PageFile(path) as damaged, contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
        _make_tables(connection)
        filling = Filling(
            connection, damaged, reached=read_reached(path.parent), room_bytes=room_bytes if is_short else None
        )
        _fill(connection, filling, result, path.parent)
    return result


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA synchronous = FULL")
    # The new file is nobody's before it is renamed: a journal in memory is enough.
    connection.execute("PRAGMA journal_mode = MEMORY")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for number, text in enumerate(schemas(), start=1):
        connection.executescript(f"BEGIN;{text};PRAGMA user_version = {number};COMMIT;")
    # On a disk that turns out to be full there is room for the accounts all the same.
    connection.execute("INSERT INTO shelf VALUES (?, 0, 0, 0, 0, 0, 0, zeroblob(?))", (STATE_ID, ACCOUNTS_BYTES))


def _fill(connection: sqlite3.Connection, filling: Filling, result: Salvaged, state_dir: Path) -> None:
    known = filling.fill()
    _restore_names(connection, state_dir, names_id=b"" if known.state is None else known.state.names_id)
    connection.execute("DELETE FROM shelf WHERE id = ?", (STATE_ID,))
    _restore_boots(connection, filling.older_boots)
    reckoned = reckon(connection, known)
    result.segments, result.readings, result.lost = reckoned.segments, reckoned.readings, reckoned.lost
    result.damaged_segments, result.is_complete = filling.damaged_segments, filling.is_complete
    result.state_found, result.is_newest = known.state is not None and bool(known.state.shares), reckoned.is_newest
    result.loss = known.loss


def _restore_names(connection: sqlite3.Connection, state_dir: Path, *, names_id: bytes) -> None:
    """Give back the names that both tables have lost, from the file beside the database."""

    def body_of(number: int) -> bytes | None:
        row = connection.execute("SELECT body FROM series WHERE number = ?", (number,)).fetchone()
        return row[0] if row else None

    def is_there(sequence: int, own_hash: bytes) -> bool:
        for row_id in beside(sequence):
            body = body_at(connection, row_id)
            is_itself = where_from(row_id)[2] == sequence
            if body and own_hash == (next_carries(body) if is_itself else read_header(body).previous_hash):
                return True
        return False

    if is_of_another_branch(state_dir, partial(known_hash, partial(body_at, connection))):
        return
    names = names_beside(state_dir, names_id=names_id, body_of=body_of, is_there=is_there)
    try:
        connection.execute("BEGIN")
        for row in names:
            for table in ("series", "series_copy"):
                connection.execute(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", row)  # noqa: S608  our own two names
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        log.error("salvage of names stops: %s", error)  # noqa: TRY400  the sentence is enough
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")


def _restore_boots(connection: sqlite3.Connection, older: Mapping[int, tuple[Value, ...]]) -> None:
    """Give each boot that lost its row another, best one of `older`: without it nobody could tell its readings' times.

    A segment whose times are all of the boot's own clock tells the offset, since its row has the first as Unix time.
    """
    lost = connection.execute(
        "SELECT boot, max(stored_ns) FROM shelf WHERE id < ? AND boot NOT IN (SELECT number FROM boots) GROUP BY boot",
        (STATE_ID,),
    ).fetchall()
    for number, last_ns in lost:
        times = BootTimes(BootId(number), f"{LOST_BOOT}{number}", last_ns, _samples_of(connection, number))
        connection.execute("INSERT INTO boots VALUES (?, ?, ?)", older.get(number) or encode_boot(times))


def _samples_of(connection: sqlite3.Connection, boot: int) -> list[Sample]:
    rows = connection.execute(
        "SELECT stored_ns, first_ns, body FROM shelf WHERE id < ? AND boot = ? AND first_ns >= ?"
        " ORDER BY stored_ns DESC LIMIT ?",
        (STATE_ID, boot, WALL_FLOOR_NS, SAMPLES_MAX),
    )
    for stored_ns, first_ns, body in rows:
        header = read_header(body)
        if header.last_ns < WALL_FLOOR_NS:
            # How good that clock was went with the row.
            return [Sample(stored_ns, first_ns - header.first_ns, Quality.UNSYNCED)]
    return []
