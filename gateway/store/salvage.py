"""Salvage: a damaged database is moved aside, what can be read of it goes into a new one. Must not lose the old one.

SQLite itself stops at the first page that is wrong, so the file is read by hand (store/pages): every leaf page of
the database and its log, whatever leads to it. A segment is kept if its own checksum is right; the accounts come
from the newest state row that can be found, and what they say was held and is not there goes to the ledger as
`damaged`. Something delivered may come back this way: it is counted as possibly sent twice.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.clock import WALL_FLOOR_NS, BootTimes, Quality, Sample
from gateway.core.contracts import BootId
from gateway.core.words import plural
from gateway.net.files import sync_folder
from gateway.store.accounts import (
    BOOT_MAX,
    SERIES_MAX,
    Accounts,
    DamagedStateError,
    Entry,
    Share,
    State,
    decode_state,
    encode_state,
)
from gateway.store.asides import DAMAGED_NAME, READY_NAME, aside_name, keep_few, make_room, remove
from gateway.store.connection import APPLICATION_ID, DATABASE, PAGE_BYTES, schemas
from gateway.store.evidence import loss_after
from gateway.store.opening import LOST_BOOT, decode_boot
from gateway.store.pagefile import PageFile
from gateway.store.planning import DAMAGED, encode_boot
from gateway.store.reached import read_reached
from gateway.store.records import DONE_BY_NOBODY, SEQUENCE_END, STATE_ID, where_from
from gateway.store.segments import SegmentError, check_link, read_header, segment_hash
from gateway.store.series import decode_series

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.store.evidence import LogLoss
    from gateway.store.pages import Value

log = logging.getLogger("tidegate.store")

BATCH_ROWS: Final = 256
# Where it is not known which numbers were given, the next ones begin this far from those that are.
LOST_SERIES_MAX: Final = 1 << 20
# More in one line of the ledger is no number of ours; all lines of all uplinks together stay within 63 bits.
READINGS_MAX: Final = 1 << 48
NEW: Final = f"{DATABASE}.new"
BLOCK_BYTES: Final = 512  # stat(2), st_blocks
BESIDE: Final = ("-wal", "-shm", "")


@dataclass(slots=True)
class Salvaged:
    """What was found."""

    segments: int = 0
    readings: int = 0
    damaged_segments: int = 0
    lost_readings: dict[str, int] = field(default_factory=dict)
    aside: str = ""
    is_complete: bool = True  # whether all that was readable found room on the disk
    state_found: bool = False
    loss: LogLoss | None = None  # what is missing after all that was found, where that is known

    def sentence(self, why: str) -> str:
        """Say what happened."""
        return self._say("was", why, "were salvaged", f"the damaged file is kept as {self.aside}")

    def outlook(self, why: str) -> str:
        """Say what would happen."""
        return self._say("is", why, "can be salvaged", "the gateway does that when it is started")

    def _say(self, tense: str, why: str, done: str, then: str) -> str:
        lost = ", ".join(
            f"{count} readings for {name or 'nobody'}" for name, count in self.lost_readings.items() if count
        )
        if self.loss is not None:
            lost = f"{lost or 'nothing that its counters know of'}, and what came last where that is missing"
        if not self.state_found:
            lost = "how much is not known, its counters are lost too"
        text = (
            f"{DATABASE} {tense} damaged ({why}): {plural(self.segments, 'segment')} with "
            f"{plural(self.readings, 'reading')} {done}, lost: {lost or 'nothing'}; {then}"
        )
        return text if self.is_complete else text + "; the disk has no room for the rest of what it holds"


def set_log_aside(state_dir: Path, *, wall_ns: int) -> str:
    """Move a log that does not belong to the database out of SQLite's way; return its new name; raise OSError."""
    name = f"{aside_name(state_dir, wall_ns)}-log"
    (state_dir / f"{DATABASE}-wal").replace(state_dir / name)
    keep_few(state_dir, newest=name)
    return name


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
    _move(path, state_dir / result.aside)
    ready.replace(path)
    keep_few(state_dir, newest=result.aside)
    return result


def take_back(state_dir: Path) -> None:
    """Undo an exchange of files that a power cut or a kill has interrupted; raise OSError.

    Half of it done, the log is no longer beside its database, or there is none: a start would find next to nothing. So
    what was moved aside comes back, and is salvaged from the beginning.
    """
    path = state_dir / DATABASE
    for ready in state_dir.glob(f"{READY_NAME}*"):
        aside = ready.with_name(ready.name.replace(READY_NAME, DAMAGED_NAME))
        # Where both are there, somebody has put another in the place of the one that went.
        if aside.exists() != path.exists():
            _move(aside, path)
        sync_folder(state_dir)
        ready.unlink()


def _move(path: Path, to: Path) -> None:
    """Move a database and what lies beside it, itself last."""
    for suffix in BESIDE:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(to.with_name(to.name + suffix))


def _bytes_on_disk(path: Path) -> int:
    """Return how much a database and its log take: what they only claim to hold is not copied."""
    found = [file.stat() for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
    return sum(min(of.st_size, of.st_blocks * BLOCK_BYTES) for of in found)


def salvage_into(new: Path, path: Path) -> Salvaged:
    """Put what can be read of the database at `path` into a new one; raise OSError or sqlite3.Error."""
    result = Salvaged()
    with PageFile(path) as damaged, contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
        _fill(connection, damaged, result, reached=read_reached(path.parent))
    return result


def _fill(connection: sqlite3.Connection, damaged: PageFile, result: Salvaged, *, reached: int) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA synchronous = FULL")
    # The new file is nobody's before it is renamed: a journal in memory is enough.
    connection.execute("PRAGMA journal_mode = MEMORY")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for number, text in enumerate(schemas(), start=1):
        connection.executescript(f"BEGIN;{text};PRAGMA user_version = {number};COMMIT;")
    states: list[State] = []
    sorter = _Sorter(connection, result, states)
    try:
        for row_id, values in damaged.rows():
            sorter.take(row_id, values)
        sorter.flush()
    except sqlite3.OperationalError as error:
        log.error("salvage stops: %s", error)  # noqa: TRY400  the sentence is enough
        result.is_complete = False
        # Some errors have ended the transaction already.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
    # The newest state may be damaged, and what stands in the file be of long ago: the log has all in between. The
    # same goes for boots, of which the last version that is whole is as good as any.
    older: dict[int, tuple[Value, ...]] = {}
    for row_id, values in damaged.older_rows():
        if row_id == STATE_ID:
            sorter.take(row_id, values)
        elif _is_boot(row := (row_id, *values[1:])):
            older[row_id] = row
    _restore_boots(connection, older)
    newest = max(states, key=lambda state: state.commit, default=None)
    if newest is not None:
        result.loss = loss_after(damaged, newest, noted_bytes=newest.log_bytes, reached=reached)
    _balance(connection, result, newest)


class _Sorter:
    """Recognises rows by their shape and puts the good ones into the new database, some at a time."""

    def __init__(self, connection: sqlite3.Connection, result: Salvaged, states: list[State]) -> None:
        self._connection = connection
        self._result = result
        self._states = states
        self._waiting: list[tuple[str, tuple[object, ...]]] = []

    def take(self, row_id: int, values: tuple[Value, ...]) -> None:
        """Look at one row."""
        if not values or values[0] is not None:
            return
        row = (row_id, *values[1:])
        kinds = "".join(_KINDS.get(type(value), "?") for value in row)
        if kinds == "iiiiiiib" and row_id == STATE_ID:
            with contextlib.suppress(DamagedStateError):
                self._states.append(decode_state(_bytes(values[-1])))
        elif kinds == "iiiiiiib":
            self._take_segment(row)
        elif kinds == "ib" and 0 < row_id < SERIES_MAX:
            with contextlib.suppress(ValueError, msgspec.DecodeError):
                decode_series(_bytes(row[1]))
                self._add("INSERT OR IGNORE INTO series VALUES (?, ?)", row)
                self._add("INSERT OR IGNORE INTO series_copy VALUES (?, ?)", row)
        elif kinds == _BOOT:
            if _is_boot(row):
                self._add("INSERT OR IGNORE INTO boots VALUES (?, ?, ?)", row)
        elif kinds in _OTHER_TABLES and (kinds != _LEDGER or 0 <= _int(row[3]) < READINGS_MAX):
            self._add(_OTHER_TABLES[kinds], row)

    def _take_segment(self, row: tuple[Value, ...]) -> None:
        body = _bytes(row[-1])
        try:
            _, signal, sequence = where_from(_int(row[0]))
            header = read_header(body)
            check_link(header.previous_hash, body)
        except (SegmentError, ValueError):
            self._result.damaged_segments += 1
            return
        is_ours = (header.signal, header.sequence, header.readings, header.boot) == (signal, sequence, *row[2:4])
        if not is_ours or header.boot > BOOT_MAX:
            self._result.damaged_segments += 1
            return
        self._add("INSERT OR IGNORE INTO shelf VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _add(self, sql: str, row: tuple[object, ...]) -> None:
        self._waiting.append((sql, row))
        if len(self._waiting) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        self._connection.execute("BEGIN")
        for sql, row in waiting:
            self._connection.execute(sql, row)
        self._connection.execute("COMMIT")


_KINDS: Final = {int: "i", str: "s", bytes: "b", type(None): "n"}
_LEDGER: Final = "issiiiii"
_BOOT: Final = "isb"
_OTHER_TABLES: Final = {
    _LEDGER: "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "iisssbb": "INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?)",
    "iisssib": "INSERT OR IGNORE INTO refused VALUES (?, ?, ?, ?, ?, ?, ?)",
}


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _balance(connection: sqlite3.Connection, result: Salvaged, found: State | None) -> None:
    """Bring the accounts in line with what is there, and write the state row."""
    result.state_found = found is not None
    # The new file has no log, and needs none.
    state = msgspec.structs.replace(found or State(), log_bytes=0)
    newest = _newest(connection)
    (result.segments, result.readings) = connection.execute(
        "SELECT count(*), coalesce(sum(readings), 0) FROM shelf WHERE id < ?", (STATE_ID,)
    ).fetchone()
    ledger = {
        (uplink, reason): Entry(*numbers)
        for uplink, reason, *numbers in connection.execute(
            "SELECT uplink, reason, readings, first_ns, last_ns, since_ns, until_ns FROM ledger"
        )
    }
    ((newer, boot),) = connection.execute(
        "SELECT coalesce(sum(CASE WHEN id & ? >= ? THEN readings END), 0), coalesce(max(boot), 0) FROM shelf"
        " WHERE id < ?",
        (SEQUENCE_END - 1, state.sequence, STATE_ID),
    )
    state = msgspec.structs.replace(state, accepted=state.accepted + newer, boot=max(state.boot, boot))
    if newest is not None and newest[0] >= state.sequence:
        state = msgspec.structs.replace(state, sequence=newest[0] + 1, previous_hash=newest[1])
    for share in state.shares:
        share.held += newer if share.removal is None else 0
        # Of which classes it is the next start counts.
        share.held_by_class = (0, 0, 0)
    held = {share.name: _held(connection, share) for share in state.shares}
    lost = {share.name: max(share.held - held[share.name], 0) for share in state.shares}
    if not state.shares:
        # Nobody's account is known: whoever is configured starts with what is here.
        (numbers,) = connection.execute("SELECT coalesce(max(number), 0) FROM series").fetchone()
        state = msgspec.structs.replace(
            state, accepted=result.readings, slots={}, series_next=numbers + LOST_SERIES_MAX
        )
        connection.execute("UPDATE shelf SET done = ?", (DONE_BY_NOBODY,))
        connection.execute("DELETE FROM ledger")
    else:
        accounts = Accounts(state.shares, ledger, accepted=state.accepted)
        _settle(accounts, held, lost)
        state = msgspec.structs.replace(state, accepted=accounts.accepted, clean=False)
        connection.execute("DELETE FROM ledger")
        connection.executemany(
            "INSERT INTO ledger VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
            [(*key, *entry) for key, entry in accounts.ledger.items()],
        )
        result.lost_readings = lost
    connection.execute("INSERT OR REPLACE INTO shelf VALUES (?, 0, 0, 0, 0, 0, 0, ?)", (STATE_ID, encode_state(state)))


def _settle(accounts: Accounts, held: dict[str, int], lost: dict[str, int]) -> None:
    """Make every account add up again with what is held now."""
    for name, share in accounts.shares.items():
        # More than the accounts knew of was delivered once, and is back again.
        again = min(max(held[name] - share.held, 0), share.delivered)
        share.delivered -= again
        share.maybe_twice += again
        share.held = held[name]
        if lost[name]:
            accounts.lose(name, DAMAGED, Entry(lost[name]))
        # The account of an uplink that is configured no more stood still when that was found.
        if share.removal is not None and (over := -accounts.gap(name)) > 0:
            share.removal = msgspec.structs.replace(share.removal, accepted=share.removal.accepted + over)
            accounts.accepted = max(accounts.accepted, share.removal.accepted)
    accounts.accepted -= min(0, *(accounts.gap(name) for name in accounts.shares))
    for name in accounts.shares:
        if (gap := accounts.gap(name)) > 0:
            # The ledger's own rows were lost: how much is known, why no longer.
            accounts.lose(name, DAMAGED, Entry(gap))


def _held(connection: sqlite3.Connection, share: Share) -> int:
    """Return how many readings are there that a share wants and has not got."""
    before = SEQUENCE_END if share.removal is None else share.removal.sequence
    if not share.wants(0):
        return 0
    (held,) = connection.execute(
        "SELECT coalesce(sum(readings), 0) FROM shelf WHERE id < ? AND done & ? = 0 AND id & ? < ?",
        (STATE_ID, share.bit, SEQUENCE_END - 1, before),
    ).fetchone()
    return _int(held)


def _is_boot(row: tuple[Value, ...]) -> bool:
    """Whether a row is one of the table of boots and can be read."""
    match row:
        case int(number), str(uuid), bytes(body):
            try:
                decode_boot(number, uuid, body, state=State())
            except msgspec.DecodeError:
                return False
            return True
    return False


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
        (STATE_ID, boot, WALL_FLOOR_NS, BATCH_ROWS),
    )
    for stored_ns, first_ns, body in rows:
        header = read_header(body)
        if header.last_ns < WALL_FLOOR_NS:
            # How good that clock was went with the row.
            return [Sample(stored_ns, first_ns - header.first_ns, Quality.UNSYNCED)]
    return []


def _newest(connection: sqlite3.Connection) -> tuple[int, bytes] | None:
    """Return sequence and hash of the newest segment."""
    heads = connection.execute("SELECT max(id) FROM shelf WHERE id < ? GROUP BY id >> 59", (STATE_ID,)).fetchall()
    if not heads:
        return None
    newest = max((where_from(segment_id)[2], segment_id) for (segment_id,) in heads)
    (body,) = connection.execute("SELECT body FROM shelf WHERE id = ?", (newest[1],)).fetchone()
    return newest[0], segment_hash(body)
