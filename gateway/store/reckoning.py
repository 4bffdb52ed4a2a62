"""The accounts after a salvage: how much is lost at least and at most, and how the books are balanced with that.

The state row says how much was held for each uplink and of which class. What was found where it belongs is held still;
what was found elsewhere may be, or was delivered once and is back: that is what lies between the two numbers. The
ledger takes all that may be lost, and as much of what may be back counts as possibly sent twice, so that accepted =
delivered + held + ledger + left_out whatever is true. Must not decide what is kept: that is store/filling's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from gateway.core.contracts import Priority
from gateway.core.words import plural
from gateway.store.accounts import COUNT_MAX, Accounts, Entry, Share, State, encode_state
from gateway.store.lineage import next_carries
from gateway.store.planning import DAMAGED
from gateway.store.records import DONE_BY_NOBODY, SEQUENCE_BITS, SEQUENCE_END, SHELVES, STATE_ID, where_from

if TYPE_CHECKING:
    import sqlite3

    from gateway.store.evidence import LogLoss

# In `done` of a row that may be held; no uplink's, and gone when the accounts are made.
UNSURE: Final = 1 << 61
# Where it is not known which numbers were given, the next ones begin this far from those that are.
LOST_SERIES_MAX: Final = 1 << 20
DOUBTED_MAX: Final = COUNT_MAX
ROWS_AT_ONCE: Final = 256


@dataclass(slots=True)
class Known:
    """What the accounts can go by. `doubted` readings on pages that led to their places may be outdated all the same.

    `is_newest` says that nothing was committed after `state`; `loss` is what is missing then, where that is known.
    """

    state: State | None
    is_newest: bool = False
    doubted: int = 0
    loss: LogLoss | None = None
    rewritten: tuple[int, bytes] = (0, b"")  # number and hash of the last segment there that was written anew


class Missing(NamedTuple):
    """How many readings of an uplink are lost: somewhere between the two."""

    least: int
    most: int

    def __str__(self) -> str:
        if self.least == self.most:
            return plural(self.most, "reading")
        return f"between {self.least:,} and {plural(self.most, 'reading')}"


@dataclass(slots=True)
class Reckoned:
    """What the new database holds, and what is missing of the old one, by uplink."""

    segments: int
    readings: int
    lost: dict[str, Missing] = field(default_factory=dict)
    is_newest: bool = False


class _There(NamedTuple):
    """What is there that an uplink has not got, by class; `sure` is what was found where it belongs."""

    found: tuple[int, int, int]
    sure: tuple[int, int, int]


def is_all_there(connection: sqlite3.Connection, known: Known) -> bool:
    """Whether all that was held is there for certain."""
    state = known.state
    if state is None or not state.shares or not _is_newest(connection, known, state):
        return False
    _doubt_odd_rows(connection, state)
    return not any(most for _, most in _find_missing(connection, known, state).values())


def reckon(connection: sqlite3.Connection, known: Known) -> Reckoned:
    """Bring the accounts in line with what is there, and write the state row."""
    found = known.state or State()
    ((segments, readings, numbers),) = connection.execute(
        "SELECT count(*), coalesce(sum(readings), 0), (SELECT coalesce(max(number), 0) FROM series) FROM shelf"
        " WHERE id < ?",
        (STATE_ID,),
    )
    result = Reckoned(segments, readings, is_newest=_is_newest(connection, known, found))
    if result.is_newest:
        _doubt_odd_rows(connection, found)
    # The new file has no log, and needs none.
    dilution = found.dilution
    if known.rewritten[0] > dilution.count:
        dilution = msgspec.structs.replace(dilution, count=known.rewritten[0], hash=known.rewritten[1])
    state = msgspec.structs.replace(found, log_bytes=0, dilution=dilution)
    lines: list[tuple[object, ...]] = []
    if found.shares:
        accounts = _balance(connection, known, found, result)
        state = msgspec.structs.replace(state, accepted=accounts.accepted, clean=False)
        lines = [(*key, *entry) for key, entry in accounts.ledger.items() if entry.readings]
    else:
        # Nobody's account is known: whoever is configured starts with what is here.
        state = msgspec.structs.replace(state, accepted=readings, slots={}, series_next=numbers + LOST_SERIES_MAX)
    connection.execute("DELETE FROM ledger")
    connection.executemany("INSERT INTO ledger VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", lines)
    _mark_sure(connection, is_anybodys=not found.shares)
    state = _go_on(connection, state)
    connection.execute("INSERT OR REPLACE INTO shelf VALUES (?, 0, 0, 0, 0, 0, 0, ?)", (STATE_ID, encode_state(state)))
    return result


# What is missing.


def _is_newest(connection: sqlite3.Connection, known: Known, state: State) -> bool:
    """Whether the accounts are those of the last commit."""
    return known.is_newest and not _newer(connection, state)


def _find_missing(connection: sqlite3.Connection, known: Known, state: State) -> dict[str, Missing]:
    """Return what is missing for each uplink of what `state` says."""
    is_newest = _is_newest(connection, known, state)
    there = {share.name: _there(connection, share, before=state.sequence) for share in state.shares}
    pairs = {share.name: _compare(share, there[share.name], by_class=is_newest) for share in state.shares}
    doubted = known.doubted
    if any(sure > held for compared in pairs.values() for held, _, sure in compared):
        # So not all that was found where it belongs was there last, and nobody knows what of it was.
        doubted = DOUBTED_MAX
    missing: dict[str, Missing] = {}
    for share in state.shares:
        least = sum(max(held - found, 0) for held, found, _ in pairs[share.name]) if is_newest else 0
        most = sum(max(held - sure, 0) for held, _, sure in pairs[share.name])
        accepted = state.accepted if share.removal is None else share.removal.accepted
        most = min(most + doubted, share.held, accepted - share.left_out - sum(there[share.name].found))
        missing[share.name] = Missing(least, max(least, most))
    return missing


def _compare(share: Share, there: _There, *, by_class: bool) -> list[tuple[int, int, int]]:
    """Return what was held, found, and found where it belongs; for each class where what was held is known so."""
    if by_class and sum(share.held_by_class) == share.held and min(share.held_by_class) >= 0:
        return list(zip(share.held_by_class, there.found, there.sure, strict=True))
    return [(share.held, sum(there.found), sum(there.sure))]


def _there(connection: sqlite3.Connection, share: Share, *, before: int) -> _There:
    """Return what is there of the sequences before one that a share wants and has not got."""
    if not share.wants(0):
        return _There((0, 0, 0), (0, 0, 0))
    if share.removal is not None:
        before = min(before, share.removal.sequence)
    counts = {(priority, sure): 0 for priority in Priority for sure in (0, 1)}
    for shelf, sure, readings in connection.execute(
        f"SELECT id >> {SEQUENCE_BITS}, done & ? = 0, sum(readings) FROM shelf"  # noqa: S608  our own number
        " WHERE id < ? AND done & ? = 0 AND id & ? < ? GROUP BY 1, 2",
        (UNSURE, STATE_ID, share.bit, SEQUENCE_END - 1, before),
    ):
        counts[SHELVES[shelf - 1][0], sure] += readings
    critical, normal, bulk = (counts[priority, 1] for priority in Priority)
    unsure_critical, unsure_normal, unsure_bulk = (counts[priority, 0] for priority in Priority)
    found = critical + unsure_critical, normal + unsure_normal, bulk + unsure_bulk
    return _There(found, (critical, normal, bulk))


def _newer(connection: sqlite3.Connection, state: State) -> int:
    """Return how many readings are there that came after a state."""
    ((readings,),) = connection.execute(
        "SELECT coalesce(sum(readings), 0) FROM shelf WHERE id < ? AND id & ? >= ?",
        (STATE_ID, SEQUENCE_END - 1, state.sequence),
    )
    return int(readings)


def _doubt_odd_rows(connection: sqlite3.Connection, state: State) -> None:
    """Where a row says that uplinks have it which never were, nobody knows who has it."""
    known = DONE_BY_NOBODY | UNSURE
    for slot in [*(share.slot for share in state.shares), *state.slots.values(), 0]:
        known |= 1 << slot
    connection.execute(
        "UPDATE shelf SET done = ? WHERE id < ? AND (done < 0 OR done & ?)",
        (DONE_BY_NOBODY | UNSURE, STATE_ID, COUNT_MAX ^ known),
    )


# The books.


def _balance(connection: sqlite3.Connection, known: Known, state: State, result: Reckoned) -> Accounts:
    """Return accounts that add up with what is there."""
    missing = _find_missing(connection, known, state)
    newer = _newer(connection, state)
    ledger = {
        (uplink, reason): Entry(*numbers)
        for uplink, reason, *numbers in connection.execute(
            "SELECT uplink, reason, readings, first_ns, last_ns, since_ns, until_ns FROM ledger"
        )
    }
    accounts = Accounts(state.shares, ledger, accepted=state.accepted + newer)
    for name, share in accounts.shares.items():
        there = _there(connection, share, before=SEQUENCE_END)
        if share.removal is None:
            lacking = sum(there.found) - sum(_there(connection, share, before=state.sequence).found)
            share.held += lacking
            share.delivered += newer - lacking
        least, most = missing[name]
        # As much is back as is there beyond what is left of what was held.
        back = max(sum(there.found) - share.held + most, 0)
        share.delivered -= min(back, share.delivered)
        share.maybe_twice += back
        # Of what is back nobody knows whether it takes that: the next start looks.
        share.takes = 0
        share.hold_just(there.found)
        lost = _settle_ledger(accounts, share, most, is_newest=result.is_newest)
        result.lost[name] = Missing(min(least, lost), lost)
    accounts.accepted -= min(0, *(accounts.gap(name) for name in accounts.shares))
    for name in accounts.shares:
        if (gap := accounts.gap(name)) > 0:
            accounts.lose(name, DAMAGED, Entry(gap))
    return accounts


def _settle_ledger(accounts: Accounts, share: Share, lost: int, *, is_newest: bool) -> int:
    """Have the ledger say what the account leaves for it; return how much of that is lost by this damage."""
    name = share.name
    accepted = accounts.accepted if share.removal is None else share.removal.accepted
    rest = accepted - share.delivered - share.held - share.left_out - lost
    over = sum(entry.readings for (owner, _), entry in accounts.ledger.items() if owner == name) - rest
    if over > 0 and not is_newest:
        # What has gone into it after those counters may be what is missing.
        lost, over = lost - min(over, lost), over - min(over, lost)
    if over > 0:
        # Back again, or no number of ours.
        _take_from_ledger(accounts, name, over)
    if lost - min(over, 0) > 0:
        # Where rows of the ledger were lost, too: how much is known, why no longer.
        accounts.lose(name, DAMAGED, Entry(lost - min(over, 0)))
    # The account of an uplink that is configured no more stood still when that was found.
    if share.removal is not None and (more := -accounts.gap(name)) > 0:
        share.removal = msgspec.structs.replace(share.removal, accepted=share.removal.accepted + more)
        accounts.accepted = max(accounts.accepted, share.removal.accepted)
    return lost


def _take_from_ledger(accounts: Accounts, name: str, readings: int) -> None:
    lines = [(key, entry) for key, entry in accounts.ledger.items() if key[0] == name]
    for key, entry in sorted(lines, key=lambda line: -line[1].readings):
        taken = min(readings, entry.readings)
        accounts.ledger[key] = entry._replace(readings=entry.readings - taken)
        readings -= taken


def _mark_sure(connection: sqlite3.Connection, *, is_anybodys: bool) -> None:
    """Make of rows that may be held such that are, some at a time; with `is_anybodys` of all, and nobody's."""
    after = 0
    while rows := connection.execute(
        "SELECT id FROM shelf WHERE id > ? AND id < ? AND (? OR done & ?) ORDER BY id LIMIT ?",
        (after, STATE_ID, is_anybodys, UNSURE, ROWS_AT_ONCE),
    ).fetchall():
        ((after,),) = rows[-1:]
        connection.execute("BEGIN")
        connection.executemany(
            "UPDATE shelf SET done = (done & ?) | ? WHERE id = ?",
            [(0 if is_anybodys else ~UNSURE, DONE_BY_NOBODY, *row) for row in rows],
        )
        connection.execute("COMMIT")


def _go_on(connection: sqlite3.Connection, state: State) -> State:
    """Return a state that what comes next can follow: on the newest segment, in no earlier boot."""
    heads = connection.execute(
        f"SELECT max(id), max(boot) FROM shelf WHERE id < ? GROUP BY id >> {SEQUENCE_BITS}",  # noqa: S608  our own number
        (STATE_ID,),
    ).fetchall()
    if not heads:
        return state
    sequence, newest = max((where_from(segment_id)[2], segment_id) for segment_id, _ in heads)
    state = msgspec.structs.replace(state, boot=max(state.boot, *(boot for _, boot in heads)))
    if sequence < state.sequence:
        return state
    ((body,),) = connection.execute("SELECT body FROM shelf WHERE id = ?", (newest,))
    return msgspec.structs.replace(state, sequence=sequence + 1, previous_hash=next_carries(body))
