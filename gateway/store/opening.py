"""Opening the shelf: what it holds is read, and brought in line with the uplinks and the boot of today.

Everything found here takes effect on disk with the first commit. Must not salvage: that is store/salvage's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.core.clock import STEP_NS_MIN, BootTimes, Quality, Sample, Timeline, drift_max_ns
from gateway.core.contracts import BootId
from gateway.store.accounts import (
    BOOT_MAX,
    NAMES_ID_BYTES,
    NOBODY,
    SERIES_MAX,
    UPLINK_REMOVED,
    Accounts,
    DamagedStateError,
    Entry,
    Share,
    State,
    decode_state,
    encode_state,
)
from gateway.store.drawer import ROW_BYTES
from gateway.store.membership import count_classes, count_lacking, follow_uplinks
from gateway.store.names import NAMES, Comparison, as_now, compare, newest_anchors
from gateway.store.planning import DAMAGED
from gateway.store.records import SEQUENCE_END, SHELVES, STATE_ID, place
from gateway.store.series import NUMBER_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import aiosqlite

    from gateway.core.clock import Clock

log = logging.getLogger("tidegate.store")

NUMBERS: Final = ("done", "readings", "boot", "stored_ns", "first_ns", "last_ns")
# What a boot is called whose row a salvage did not find, with its number.
LOST_BOOT: Final = "lost-"
# A segment of logs has so much before compression (store/segments.py).
BODY_BYTES_MAX: Final = 32 << 20


@dataclass(slots=True)
class Opened:
    """The shelf as it was found."""

    state: State
    accounts: Accounts
    written: dict[tuple[str, str], Entry]
    series: list[tuple[int, bytes]]
    timeline: Timeline
    quarantine: list[tuple[int, int]]
    refused: list[tuple[int, int]]
    was_clean: bool
    events: list[str] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)  # uplinks whose share was let go by an earlier start
    was_mended: bool = False  # whether commits may be missing: it was salvaged, or its log was cut
    is_littered: bool = False  # whether the shelf may hold what nobody wants any more
    lost: dict[tuple[str, str], int] = field(default_factory=dict)  # readings that this start put into the ledger
    names: Comparison = field(default_factory=Comparison)  # what the file of names says beside the tables
    restored: Sequence[int] = ()  # series that are on the disk in that file only


async def read_shelf(
    connection: aiosqlite.Connection, state_dir: Path, *, uplinks: Sequence[str], clock: Clock, grace_s: float
) -> Opened:
    """Read what the shelf holds; raise sqlite3.Error or DamagedStateError where it is damaged.

    `grace_s` is how long what is held for an uplink is kept when it is configured no more.
    """
    state = await read_state(connection)
    await _check_newest(connection, state)
    ledger = await read_ledger(connection, state)
    opened = Opened(
        state,
        Accounts(state.shares or [Share(NOBODY, 0)], dict(ledger), accepted=state.accepted),
        ledger,
        [],
        await read_timeline(connection, state, clock),
        await _sizes(connection, "quarantine", ("source", "reason", "message", "topic", "payload")),
        await _sizes(connection, "refused", ("uplink", "reason", "message", "body")),
        state.clean,
    )
    await _read_names(connection, state_dir, opened)
    _mend_ledger(opened)
    await _count_interrupted(connection, opened)
    for share in opened.accounts.shares.values():
        await count_classes(connection, share)
    await follow_uplinks(connection, opened, list(uplinks) or [NOBODY], grace_s=grace_s, now_ns=clock.monotonic_ns())
    opened.state = msgspec.structs.replace(opened.state, shares=list(opened.accounts.shares.values()))
    for key, entry in opened.accounts.ledger.items():
        lost = entry.readings - ledger.get(key, Entry(0)).readings
        if key[1] == UPLINK_REMOVED and lost > 0:
            opened.lost[key] = lost
    return opened


async def _check_newest(connection: aiosqlite.Connection, state: State) -> None:
    """Raise DamagedStateError where a segment has a number that is still to be given: nothing could be committed."""
    for shelf in SHELVES:
        bounds = place(*shelf, state.sequence), place(*shelf, SEQUENCE_END)
        if await fetch(connection, "SELECT id FROM shelf WHERE id >= ? AND id < ? LIMIT 1", bounds):
            raise DamagedStateError("a segment is newer than the state row")


async def check_rows(connection: aiosqlite.Connection, state: State) -> None:
    """Read every row of the shelf; raise DamagedStateError where one is not ours, or not all are there that are held.

    SQLite puts any type into any column, and a row that nobody can lease would stay for ever.
    """
    odd = " OR ".join(f"typeof({column}) <> 'integer'" for column in NUMBERS)
    rows = await fetch(
        connection,
        f"SELECT id FROM shelf WHERE id < ? AND ({odd} OR readings < 1 OR typeof(body) <> 'blob' OR length(body) > ?)"  # noqa: S608  our own names
        " LIMIT 1",
        (STATE_ID, BODY_BYTES_MAX),
    )
    if rows:
        raise DamagedStateError("a row of the store holds other types than it should")
    for share in state.shares:
        there = await count_lacking(connection, share, before=share.removal.sequence if share.removal else SEQUENCE_END)
        if share.wants(0) and sum(there) != share.held:
            raise DamagedStateError(
                f"{share.held} readings are held for {share.name or 'nobody'}, {sum(there)} are there"
            )


async def _sizes(connection: aiosqlite.Connection, table: str, columns: Sequence[str]) -> list[tuple[int, int]]:
    """Return id and size of the rows of a drawer."""
    lengths = " + ".join(f"length({column})" for column in columns)
    rows = await fetch(connection, f"SELECT id, {ROW_BYTES} + {lengths} FROM {table} ORDER BY id")  # noqa: S608  our own names
    if not all(isinstance(size, int) for _, size in rows):
        raise DamagedStateError(f"a row of the table {table} holds nothing where it should")
    return rows


def _mend_ledger(opened: Opened) -> None:
    """Make up for rows of the ledger that are gone: how much is known, why no longer."""
    accounts = opened.accounts
    for name in accounts.shares if opened.state.shares else ():
        gap = accounts.gap(name)
        if gap < 0:
            raise DamagedStateError(f"the account of {name or 'nobody'} holds {-gap} readings that never came")
        if gap:
            accounts.lose(name, DAMAGED, Entry(gap))
            opened.events.append(f"{name or 'nobody'}: rows of the ledger are gone, of {gap} readings nobody knows why")


async def fetch(connection: aiosqlite.Connection, sql: str, values: Sequence[object] = ()) -> list[Any]:
    """Return all rows of a query that is known to be small."""
    return [tuple(row) for row in await connection.execute_fetchall(sql, values)]


async def read_ledger(connection: aiosqlite.Connection, state: State) -> dict[tuple[str, str], Entry]:
    """Return the ledger by uplink and reason."""
    rows = await fetch(connection, "SELECT uplink, reason, readings, first_ns, last_ns, since_ns, until_ns FROM ledger")
    ledger: dict[tuple[str, str], Entry] = {}
    for uplink, reason, *numbers in rows:
        is_text = isinstance(uplink, str) and isinstance(reason, str)
        if not is_text or not all(isinstance(number, int) for number in numbers):
            raise DamagedStateError("a row of the ledger holds other types than it should")
        if not 0 <= numbers[0] <= state.accepted:
            raise DamagedStateError("a row of the ledger says what cannot be")
        ledger[uplink, reason] = Entry(*numbers)
    return ledger


async def read_state(connection: aiosqlite.Connection) -> State:
    """Return the state; a new shelf gets one."""
    rows = await fetch(connection, "SELECT body FROM shelf WHERE id = ?", (STATE_ID,))
    if rows:
        return decode_state(rows[0][0])
    if await fetch(connection, "SELECT id FROM shelf LIMIT 1"):
        raise DamagedStateError("the state row is gone")
    state = State()
    await connection.execute_fetchall(
        "INSERT INTO shelf VALUES (?, 0, 0, 0, 0, 0, 0, ?)", (STATE_ID, encode_state(state))
    )
    return state


async def note_closed(connection: aiosqlite.Connection) -> None:
    """Say in the state row that no log is needed: who opened the shelf closes it with nothing committed."""
    with contextlib.suppress(sqlite3.Error, DamagedStateError):
        for (body,) in await fetch(connection, "SELECT body FROM shelf WHERE id = ?", (STATE_ID,)):
            await connection.execute_fetchall("UPDATE shelf SET body = ? WHERE id = ?", (as_closed(body), STATE_ID))


def as_closed(body: object) -> bytes:
    """Return a state row that says of itself what `note_closed` does; raise DamagedStateError."""
    return encode_state(msgspec.structs.replace(decode_state(body), log_bytes=0))


async def _read_names(connection: aiosqlite.Connection, state_dir: Path, opened: Opened) -> None:
    """Read all series; what both tables lack is in the file of names, if that is theirs."""
    state = opened.state
    series, damaged = await read_series(connection)
    names = await asyncio.to_thread(compare, state_dir, series, names_id=state.names_id, before=state.series_next)
    found = {number: body for number, raw in names.found.items() if (body := as_now(raw))}
    names.found.clear()
    if found and await _is_of_another_branch(connection, state_dir):
        found, names.is_theirs = {}, False
    if lost := damaged - found.keys():
        raise DamagedStateError(f"the series {sorted(lost)[:8]} are damaged in both copies")
    if found:
        opened.events.append(f"the names of {len(found):,} series were only left in {NAMES}")
        series = sorted([*series, *found.items()])
    if not names.is_theirs:
        names.id = os.urandom(NAMES_ID_BYTES)
    # Names of numbers that these tables never gave are not of what they lost.
    names.has_to_be_written = not names.is_theirs or names.damaged > 0 or names.next_number > state.series_next
    # What an older copy of the database does not know was given since, and is not given to others.
    series_next = min(max(state.series_next, names.next_number), SERIES_MAX)
    opened.state = msgspec.structs.replace(state, names_id=names.id, series_next=series_next)
    opened.series, opened.names, opened.restored = series, names, list(found)


async def _is_of_another_branch(connection: aiosqlite.Connection, state_dir: Path) -> bool:
    """Hold the anchors of the file against the shelf, from the newest on until one is known."""
    from gateway.store.lineage import beside, known_hash  # noqa: PLC0415  only where names are lost

    for number, own_hash in await asyncio.to_thread(newest_anchors, state_dir):
        bodies: dict[int, object] = {}
        for row_id in beside(number):
            for (body,) in await fetch(connection, "SELECT body FROM shelf WHERE id = ?", (row_id,)):
                bodies[row_id] = body
        known = known_hash(bodies.get, number)
        if known is not None:
            return known != own_hash
    return False


async def read_series(connection: aiosqlite.Connection) -> tuple[list[tuple[int, bytes]], set[int]]:
    """Return all series as they stand there, and which are damaged in both copies; a whole one is taken from either."""
    found: dict[int, bytes] = {}
    damaged: set[int] = set()
    for table in ("series_copy", "series"):
        for number, body in await fetch(connection, f"SELECT number, body FROM {table}"):  # noqa: S608  our own two names
            if not 0 < number <= SERIES_MAX:
                # No reading can be of it.
                continue
            # As this version writes it: by that it is found again.
            if now := as_now(body):
                found[number] = now
            else:
                damaged.add(number)
            if number > NUMBER_MAX:
                raise DamagedStateError(f"{number} is no series' number")
    return sorted(found.items()), damaged - found.keys()


async def read_timeline(connection: aiosqlite.Connection, state: State, clock: Clock) -> Timeline:
    """Return the boots that are known and this one, which a process that starts again finds as it left it."""
    rows = await fetch(connection, "SELECT number, uuid, body FROM boots ORDER BY number")
    boots = [decode_boot(*row, state=state) for row in rows]
    uuid = clock.boot_uuid()
    current = next((times for times in boots if times.uuid == uuid), None)
    if current is None and boots and _is_still_running(boots[-1], clock):
        # Another boot for what is one would push the first back by all of its uptime: no boot ends in the next.
        current = boots[-1]
        current.uuid = uuid
    if current is None:
        current = BootTimes(BootId(max([state.boot, *(times.boot for times in boots)]) + 1), uuid)
        boots.append(current)
    timeline = Timeline(boots, current=current.boot)
    timeline.observe(clock)
    return timeline


def _is_still_running(times: BootTimes, clock: Clock) -> bool:
    """Whether the newest boot, whose name a salvage has lost, is this one: its clocks have just run on.

    A later boot began when that one had ended, so by a right clock they are as far apart as that one lasted. Where the
    wall clock was set since, or was never right, nobody can tell: then it counts as another.
    """
    if not times.uuid.startswith(LOST_BOOT) or not times.samples:
        return False
    monotonic_ns, sample = clock.monotonic_ns(), times.samples[-1]
    apart_ns = abs(clock.wall_ns() - monotonic_ns - sample.offset_ns)
    drift_ns = STEP_NS_MIN + drift_max_ns(monotonic_ns - sample.monotonic_ns)
    return monotonic_ns >= times.last_ns > drift_ns >= apart_ns


def decode_boot(number: int, uuid: str, body: bytes, *, state: State) -> BootTimes:
    """Read a row of the table of boots; raise msgspec.DecodeError. The state knows better how long it lasts."""
    if not 0 < number <= BOOT_MAX or not isinstance(uuid, str) or not isinstance(body, bytes):
        raise msgspec.DecodeError(f"{number} is no boot")
    last_ns, samples = msgspec.msgpack.decode(body, type=tuple[int, list[tuple[int, int, Quality]]])
    if number == state.boot:
        last_ns = max(last_ns, state.boot_last_ns)
    return BootTimes(BootId(number), uuid, last_ns, [Sample(*sample) for sample in samples])


async def _count_interrupted(connection: aiosqlite.Connection, opened: Opened) -> None:
    """Count what was leased when the process died, or may have been since its last commit: the far side may have it."""
    for share in opened.accounts.shares.values():
        leased = counted = 0
        # Between the first and the last segment of one lease there may be another.
        for first, last in sorted(share.leased):
            ((readings,),) = await fetch(
                connection,
                "SELECT coalesce(sum(readings), 0) FROM shelf WHERE id BETWEEN ? AND ? AND done & ? = 0",
                (max(first, counted + 1), last, share.bit),
            )
            leased += readings
            counted = max(counted, last)
        readings = leased + min(share.allowed, max(0, share.held - leased))
        share.maybe_twice += readings
        if readings:
            opened.events.append(
                f"{share.name}: up to {readings} readings may have been sent just before the process ended; they are "
                "sent again and counted as maybe_twice"
            )
        share.leased, share.allowed = [], 0
