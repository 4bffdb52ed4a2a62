"""Opening the shelf: what it holds is read, and brought in line with the uplinks and the boot of today.

Everything found here takes effect on disk with the first commit. Must not salvage: that is store/salvage's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.core.clock import BootTimes, Quality, Sample, Timeline
from gateway.core.contracts import BootId
from gateway.store.accounts import (
    NOBODY,
    SLOTS_MAX,
    Accounts,
    DamagedStateError,
    Entry,
    Share,
    State,
    decode_state,
    encode_state,
)
from gateway.store.drawer import ROW_BYTES
from gateway.store.planning import BEFORE
from gateway.store.records import STATE_ID, StoreError
from gateway.store.series import NUMBER_MAX, decode_series, encode_series

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiosqlite

    from gateway.core.clock import Clock

log = logging.getLogger("tidegate.store")


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


async def read_shelf(connection: aiosqlite.Connection, *, uplinks: Sequence[str], clock: Clock) -> Opened:
    """Read what the shelf holds; raise sqlite3.Error or DamagedStateError where it is damaged."""
    state = await read_state(connection)
    ledger = await read_ledger(connection)
    opened = Opened(
        state,
        Accounts(state.shares or [Share(NOBODY, 0)], dict(ledger), accepted=state.accepted),
        ledger,
        await read_series(connection),
        await read_timeline(connection, state, clock),
        await fetch(
            connection,
            f"SELECT id, {ROW_BYTES} + length(source) + length(reason) + length(message) + length(topic)"  # noqa: S608  a number of our own
            " + length(payload) FROM quarantine ORDER BY id",
        ),
        await fetch(
            connection,
            f"SELECT id, {ROW_BYTES} + length(uplink) + length(reason) + length(message) + length(body)"  # noqa: S608  a number of our own
            " FROM refused ORDER BY id",
        ),
        state.clean,
    )
    await _count_interrupted(connection, opened)
    await _follow_uplinks(connection, opened, list(uplinks) or [NOBODY])
    return opened


async def fetch(connection: aiosqlite.Connection, sql: str, values: Sequence[object] = ()) -> list[Any]:
    """Return all rows of a query that is known to be small."""
    return [tuple(row) for row in await connection.execute_fetchall(sql, values)]


async def read_ledger(connection: aiosqlite.Connection) -> dict[tuple[str, str], Entry]:
    """Return the ledger by uplink and reason."""
    rows = await fetch(connection, "SELECT uplink, reason, readings, first_ns, last_ns, since_ns, until_ns FROM ledger")
    ledger: dict[tuple[str, str], Entry] = {}
    for uplink, reason, *numbers in rows:
        if not all(isinstance(number, int) for number in numbers):
            raise DamagedStateError("a row of the ledger holds other types than it should")
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


async def read_series(connection: aiosqlite.Connection) -> list[tuple[int, bytes]]:
    """Return all series as they stand there; one whose row is damaged is read from its copy."""
    found: dict[int, bytes] = {}
    damaged: set[int] = set()
    for table in ("series_copy", "series"):
        for number, body in await fetch(connection, f"SELECT number, body FROM {table}"):  # noqa: S608  our own two names
            if not 0 < number <= NUMBER_MAX:
                # No reading can be of it.
                continue
            try:
                # As this version writes it: by that it is found again.
                found[number] = encode_series(decode_series(body))
            except ValueError:
                damaged.add(number)
    if lost := damaged - found.keys():
        raise DamagedStateError(f"the series {sorted(lost)[:8]} are damaged in both copies")
    return sorted(found.items())


async def read_timeline(connection: aiosqlite.Connection, state: State, clock: Clock) -> Timeline:
    """Return the boots that are known and this one, which a process that starts again finds as it left it."""
    rows = await fetch(connection, "SELECT number, uuid, body FROM boots ORDER BY number")
    boots = [decode_boot(*row, state=state) for row in rows]
    uuid = clock.boot_uuid()
    current = next((times for times in boots if times.uuid == uuid), None)
    if current is None:
        current = BootTimes(BootId(max([state.boot, *(times.boot for times in boots)]) + 1), uuid)
        boots.append(current)
    timeline = Timeline(boots, current=current.boot)
    timeline.observe(clock)
    return timeline


def decode_boot(number: int, uuid: str, body: bytes, *, state: State) -> BootTimes:
    """Read a row of the table of boots; raise msgspec.DecodeError. The state knows better how long it lasts."""
    last_ns, samples = msgspec.msgpack.decode(body, type=tuple[int, list[tuple[int, int, Quality]]])
    if number == state.boot:
        last_ns = max(last_ns, state.boot_last_ns)
    return BootTimes(BootId(number), uuid, last_ns, [Sample(*sample) for sample in samples])


async def _count_interrupted(connection: aiosqlite.Connection, opened: Opened) -> None:
    """Count what was leased when the process died and is still here: the far side may have it."""
    for share in opened.accounts.shares.values():
        for first, last in share.leased:
            ((readings,),) = await fetch(
                connection,
                "SELECT coalesce(sum(readings), 0) FROM shelf WHERE id BETWEEN ? AND ? AND done & ? = 0",
                (first, last, share.bit),
            )
            share.maybe_twice += readings
            if readings:
                opened.events.append(f"{share.name}: {readings} readings were being sent when the process ended")
        share.leased = []


async def _follow_uplinks(connection: aiosqlite.Connection, opened: Opened, names: list[str]) -> None:
    """Let go of the shares of uplinks that are configured no more, and open an account for each new one.

    A new uplink wants all that is held now. What was accepted and is gone before it came stands in its ledger
    as `before_uplink`, so that its account adds up like the others'.
    """
    accounts, state = opened.accounts, opened.state
    before = set(accounts.shares)
    for name in before - set(names):
        share = accounts.shares.pop(name)
        if name != NOBODY:
            opened.events.append(f"{name} is configured no more: the {share.held} readings held for it are let go")
    for name in names:
        if name not in accounts.shares:
            await _join(connection, opened, name)
    if before != set(names):
        await connection.execute_fetchall(
            "DELETE FROM shelf WHERE id < ? AND done & ? = ?", (STATE_ID, accounts.active, accounts.active)
        )
    opened.state = msgspec.structs.replace(state, shares=list(accounts.shares.values()))


async def _join(connection: aiosqlite.Connection, opened: Opened, name: str) -> None:
    accounts, slots = opened.accounts, opened.state.slots
    slot = 0 if name == NOBODY else slots.get(name)
    if slot is None:
        slot = next((number for number in range(1, SLOTS_MAX) if number not in slots.values()), None)
        if slot is None:
            raise StoreError(f"{SLOTS_MAX} different uplinks have used this state_dir; give this one another")
        slots[name] = slot
    ((held,),) = await fetch(
        connection,
        "SELECT coalesce(sum(readings), 0) FROM shelf WHERE id < ? AND done & ? = 0",
        (STATE_ID, 1 << slot),
    )
    accounts.shares[name] = Share(name, slot, held=held)
    if (gone := accounts.gap(name)) > 0:
        accounts.lose(name, BEFORE, Entry(gone))
    if held and opened.state.commit:
        opened.events.append(f"{name or 'nobody'} is new: it gets the {held} readings that are held")
