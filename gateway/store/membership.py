"""Who is configured: uplinks that come, go and come back, and what becomes of what is held for them. Must not commit.

An uplink that is configured no more keeps its share for `uplink_grace`: its account stands still, what was held for it
stays, nothing new is held for it. If it comes back under its name it goes on where it was, and gets what came
meanwhile and is still here, as any new uplink does. Else what was held for it goes to its ledger
(`uplink_removed`), and the segments that nobody else needs leave bit by bit. On a full shelf they are the first to go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.core.words import plural, span
from gateway.store.accounts import NOBODY, SLOTS_MAX, UPLINK_REMOVED, WHILE_REMOVED, Entry, Removal, Share, Stage
from gateway.store.planning import BEFORE
from gateway.store.records import SEQUENCE_BITS, SEQUENCE_END, SHELVES, STATE_ID, StoreError, place, where_from
from gateway.store.room import age_of, find_unneeded, merge_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    import aiosqlite

    from gateway.core.clock import Timeline
    from gateway.store.accounts import Accounts
    from gateway.store.opening import Opened
    from gateway.store.records import UplinkStatus
    from gateway.store.room import Candidate

# Segments looked at in one go, and let go with one commit.
LOOK_MAX: Final = 1024
SEQUENCE_MASK: Final = SEQUENCE_END - 1


async def follow_uplinks(
    connection: aiosqlite.Connection, opened: Opened, names: Sequence[str], *, grace_s: float, now_ns: int
) -> None:
    """Bring the shares in line with the uplinks of today; `now_ns` is this boot's monotonic clock.

    A new uplink wants all that is held now. What was accepted and is gone before it came stands in its ledger
    as `before_uplink`, so that its account adds up like the others'.
    """
    accounts = opened.accounts
    opened.forgotten = {name for name, share in accounts.shares.items() if share.removal and share.removal.stage}
    if NOBODY not in names and accounts.shares.pop(NOBODY, None) is not None:
        opened.is_littered = True
    for share in accounts.configured:
        if share.name not in names:
            boot = opened.timeline.current.boot
            share.removal = Removal(boot, now_ns, opened.state.sequence, accounts.accepted)
    joined: list[str] = []
    for name in names:
        known = accounts.shares.get(name)
        if known is None:
            await _join(connection, opened, name)
            joined += [name] * (name != NOBODY)
        elif known.removal is not None:
            await _come_back(connection, opened, known, known.removal)
    for share, removal in accounts.kept:
        left_s = left_of(removal, opened.timeline, grace_s=grace_s, now_ns=now_ns)
        if left_s > 0 and share.held:
            opened.events.append(
                f"{share.name} is configured no more: the {share.held} readings held for it are kept for another "
                f"{span(left_s)}, then let go; to have them sent, configure it again under its name"
            )
    if joined:
        opened.events += await find_renamed(connection, accounts, joined)
    opened.events += await let_go_overdue(connection, accounts, opened.timeline, grace_s=grace_s, now_ns=now_ns)


async def find_renamed(connection: aiosqlite.Connection, accounts: Accounts, joined: Sequence[str]) -> list[str]:
    """Say what a new uplink gets that another one has had, which may be the same under the name that it had before.

    The shelf knows uplinks by their names, and not where they lead to.
    """
    said: list[str] = []
    for share, _ in accounts.kept:
        ((had,),) = await connection.execute_fetchall(
            "SELECT coalesce(sum(readings), 0) FROM shelf WHERE id < ? AND done & ? <> 0", (STATE_ID, share.bit)
        )
        if had > 0:
            said.append(
                f"{', '.join(joined)} is new, and {share.name} is configured no more: if that is the same receiver "
                f"under another name, {plural(int(had), 'reading')} that it has had will be sent to it a second time, "
                f"and counted nowhere; so that nothing is, stop now and give it the name {share.name} back"
            )
    return said


async def _join(connection: aiosqlite.Connection, opened: Opened, name: str) -> None:
    accounts, slots = opened.accounts, opened.state.slots
    slot = 0 if name == NOBODY else slots.get(name)
    if slot is None:
        slot = next((number for number in range(1, SLOTS_MAX) if number not in slots.values()), None)
        if slot is None:
            raise StoreError(f"{SLOTS_MAX} different uplinks have used this state_dir; give this one another")
        slots[name] = slot
    share = accounts.shares[name] = Share(name, slot)
    share.hold_just(await count_lacking(connection, share))
    if (gone := accounts.gap(name)) > 0:
        accounts.lose(name, BEFORE, Entry(gone))
    if share.held and opened.state.commit:
        waiting = f"no uplink is configured: {plural(share.held, 'reading')} {'waits' if share.held == 1 else 'wait'}"
        told = f"{name} is new: it gets the {share.held} readings that are held"
        opened.events.append(f"{waiting} for the next one" if name == NOBODY else told)


async def _come_back(connection: aiosqlite.Connection, opened: Opened, share: Share, removal: Removal) -> None:
    accounts = opened.accounts
    if removal.stage is not Stage.KEPT:
        # It had been let go. What others still need it gets all the same, like a new one: that is lost no more.
        key = (share.name, UPLINK_REMOVED)
        lost = accounts.ledger.get(key, Entry(0))
        there = await count_lacking(connection, share, before=removal.sequence)
        share.hold_just(there, in_all=min(sum(there), lost.readings))
        if share.held:
            accounts.ledger[key] = lost._replace(readings=lost.readings - share.held)
    for priority, readings in zip(
        Priority, await count_lacking(connection, share, first=removal.sequence), strict=True
    ):
        share.hold(readings, priority=priority)
    share.removal = None
    # What came meanwhile was not looked at for what it takes.
    share.takes = 0
    if (gone := accounts.gap(share.name)) > 0:
        accounts.lose(share.name, WHILE_REMOVED, Entry(gone))
    if share.held:
        opened.events.append(f"{share.name} is configured again: the {share.held} readings held for it are sent")


async def count_lacking(
    connection: aiosqlite.Connection, share: Share, *, first: int = 0, before: int = SEQUENCE_END
) -> tuple[int, int, int]:
    """Return how many readings of these sequences a share has not got, by `Priority`."""
    ((critical, bulk, readings),) = await connection.execute_fetchall(
        f"SELECT {_sum_of(Priority.CRITICAL)}, {_sum_of(Priority.BULK)}, coalesce(sum(readings), 0)"  # noqa: S608  our own numbers
        " FROM shelf WHERE id < ? AND done & ? = 0 AND id & ? >= ? AND id & ? < ?",
        (STATE_ID, share.bit, SEQUENCE_MASK, first, SEQUENCE_MASK, before),
    )
    # A damaged row may hold any number, and what is none: then the sums are floats.
    return max(int(critical), 0), max(int(readings - critical - bulk), 0), max(int(bulk), 0)


def _sum_of(priority: Priority) -> str:
    """Return what SQL sums up for one class."""
    shelves = [str(number) for number, shelf in enumerate(SHELVES, start=1) if shelf[0] is priority]
    return f"coalesce(sum(CASE WHEN id >> {SEQUENCE_BITS} IN ({', '.join(shelves)}) THEN readings ELSE 0 END), 0)"


async def count_classes(connection: aiosqlite.Connection, share: Share) -> None:
    """Count of which classes is what is held for a share, where its row does not say: it is of an earlier version."""
    if sum(share.held_by_class) != share.held or min(share.held_by_class) < 0:
        before = share.removal.sequence if share.removal else SEQUENCE_END
        # On a damaged shelf something else may be there than is held.
        share.hold_just(await count_lacking(connection, share, before=before), in_all=share.held)


def left_of(removal: Removal, timeline: Timeline, *, grace_s: float, now_ns: int) -> float:
    """Return for how many seconds an uplink may still come back, as well as these clocks know; 0: no more."""
    return max(grace_s - age_of(timeline, removal.boot, removal.at_ns, now_ns=now_ns) / NS_PER_S, 0.0)


async def let_go_overdue(
    connection: aiosqlite.Connection, accounts: Accounts, timeline: Timeline, *, grace_s: float, now_ns: int
) -> list[str]:
    """Put into the ledger what is held for uplinks that have been gone for too long; return what is to be said."""
    said: list[str] = []
    for share, removal in accounts.kept:
        if left_of(removal, timeline, grace_s=grace_s, now_ns=now_ns) > 0:
            continue
        ((first_ns, last_ns),) = await connection.execute_fetchall(
            "SELECT min(nullif(first_ns, 0)), max(last_ns) FROM shelf WHERE id < ? AND done & ? = 0 AND id & ? < ?",
            (STATE_ID, share.bit, SEQUENCE_MASK, removal.sequence),
        )
        wall_ns = timeline.wall_from(now_ns) or 0
        if share.held:
            said.append(f"{share.name} is configured no more: the {share.held} readings held for it are let go")
        accounts.let_go(share.name, Entry(share.held, first_ns or 0, last_ns or 0, wall_ns, wall_ns))
    return said


class Leftovers:
    """Segments that no configured uplink needs: kept for one that is configured no more, or for nobody (litter).

    Each shelf is walked once, oldest first, some at a time; `rewind` begins anew.
    """

    def __init__(self, connection: aiosqlite.Connection, accounts: Accounts, *, littered_before: int = 0) -> None:
        self._connection = connection
        self._accounts = accounts
        # What was held while no uplink was configured is older than this start, all else older than a removal.
        self._littered_before = littered_before
        self._found_litter = False
        self._next: dict[int, int] = {}
        # How many readings were settled by the last look, and by the one before: of those the disk knows.
        self._settled = self._settled_on_disk = 0
        self.rewind()

    def rewind(self) -> None:
        """Begin anew."""
        self._found_litter = False
        self._next = {shelf: place(*SHELVES[shelf], 0) for shelf in range(len(SHELVES))} if self._before() else {}

    def look_again(self) -> None:
        """Begin anew where all was walked and an uplink has settled something since: it may have been the last to."""
        if self.is_done and self.may_be_more:
            self.rewind()
            self._settled_on_disk, self._settled = self._settled, self._settled_by_now()

    @property
    def may_be_more(self) -> bool:
        """Whether there may be some that the last walk did not see, since an uplink has settled something."""
        return bool(self._before()) and self._settled_on_disk != self._settled_by_now()

    def _settled_by_now(self) -> int:
        accounts = self._accounts
        return sum(accounts.accepted - share.held - share.left_out for share in accounts.configured)

    @property
    def is_done(self) -> bool:
        """Whether all shelves have been walked."""
        return not self._next

    def _before(self) -> int:
        """Return the sequence before which there may be some, 0 for nowhere."""
        removals = [
            share.removal.sequence
            for share in self._accounts.shares.values()
            if share.removal is not None and (share.held or share.removal.stage is Stage.LET_GO)
        ]
        return max([self._littered_before, *removals])

    async def next(self) -> list[Candidate]:
        """Return the next of them, LOOK_MAX for each signal at most; none when all have been seen."""
        found: list[Candidate] = []
        for priority in reversed(Priority):
            if len(found) < LOOK_MAX:
                found += await self._next_of(priority, limit=LOOK_MAX - len(found))
        return found

    async def _next_of(self, priority: Priority, *, limit: int) -> list[Candidate]:
        """Return the next of a class, the oldest first whatever their signals."""
        before, has = self._before(), self._accounts.active
        shelves = [shelf for shelf in self._next if SHELVES[shelf][0] is priority]
        rows = [
            await find_unneeded(
                self._connection, shelf, first=self._next.pop(shelf), before=before, has=has, limit=limit
            )
            for shelf in shelves
        ]
        found, end = merge_signals(rows, limit=limit)
        if end is not None:
            self._next |= {shelf: place(*SHELVES[shelf], end) for shelf in shelves}
        return found

    async def spare(self, *, bytes_over: int, may_go: Callable[[int], bool]) -> list[Candidate]:
        """Return who of them goes so that `bytes_over` bytes become free; fewer where there are no more."""
        chosen: list[Candidate] = []
        while bytes_over > 0 and not self.is_done:
            rows = await self.next()
            while rows and bytes_over > 0:
                row = rows.pop(0)
                if may_go(row.id):
                    chosen.append(row)
                    bytes_over -= row.disk_bytes
            for row in reversed(rows):
                self._next[(row.id >> SEQUENCE_BITS) - 1] = row.id
        return chosen

    async def sweep(self) -> list[Candidate]:
        """Return the next of them that nobody wants at all: to let them go changes no account."""
        if self.is_done:
            return []
        litter = [row for row in await self.next() if self._is_litter(row)]
        self._found_litter |= bool(litter)
        if self.is_done and self._found_litter:
            # The commit that lets them go may fail: only a walk that finds none is the last.
            self.rewind()
        elif self.is_done:
            self._littered_before = 0
            for share in self._accounts.shares.values():
                if share.removal is not None and share.removal.stage is Stage.LET_GO:
                    share.removal = msgspec.structs.replace(share.removal, stage=Stage.SWEPT)
        return litter

    def _is_litter(self, row: Candidate) -> bool:
        """Whether nobody needs a segment any more; what no uplink takes stays for whoever comes (store/unwanted)."""
        if self._accounts.needed(row.sequence) & ~row.done or self._accounts.takes_none_of(where_from(row.id)[:2]):
            return False
        was_nobodys = row.sequence < self._littered_before
        return was_nobodys or any(share.left(row.sequence, row.done) for share in self._accounts.shares.values())


def account_of(accounts: Accounts, name: str, *, leased: int = 0) -> UplinkStatus:
    """Return one uplink's account as people see it, in readings."""
    share, lost = accounts.shares[name], accounts.lost(name)
    return {
        "delivered": share.delivered,
        "held": share.held,
        "held_by_class": {priority.name.lower(): share.held_by_class[priority] for priority in Priority},
        "ledger": {reason: entry.readings for reason, entry in lost.items()},
        "maybe_twice": share.maybe_twice,
        "thinned": share.thinned_readings,
        "leased": leased,
        "left_out": share.left_out,
        "losses": [{"reason": reason, **entry._asdict()} for reason, entry in lost.items()],
    }


def removed_accounts(
    accounts: Accounts, forgotten: Container[str], timeline: Timeline, *, grace_s: float, now_ns: Callable[[], int]
) -> dict[str, UplinkStatus]:
    """Return the accounts of uplinks that are configured no more, but for those `forgotten` by an earlier start.

    `now_ns` tells this boot's monotonic clock.
    """
    removed: dict[str, UplinkStatus] = {}
    for name, share in accounts.shares.items():
        if share.removal is None or name in forgotten:
            continue
        removed[name] = account_of(accounts, name) | {"removed": True}
        if share.removal.stage is Stage.KEPT:
            removed[name]["let_go_in_s"] = round(left_of(share.removal, timeline, grace_s=grace_s, now_ns=now_ns()))
    return removed
