"""What becomes of leases: delivered, refused, given back. All of it happens in one step of the event loop.

It is in memory until a commit writes it; a process that dies before that sends again what was settled.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.core.words import plural
from gateway.store.accounts import Entry
from gateway.store.planning import DAMAGED
from gateway.store.records import where_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gateway.store.accounts import Accounts
    from gateway.store.forgetting import Forgetter
    from gateway.store.leases import Desk
    from gateway.store.recent import Row
    from gateway.store.records import Lease

Refusal: TypeAlias = tuple[str, str, str, int, bytes]

log = logging.getLogger("tidegate.store")

# Acked segments that wait for the commit that deletes them: so many are worth one of their own; and with so many,
# on a disk that takes no commits, nothing more is leased.
DONE_MAX: Final = 8192
DONE_HELD_MAX: Final = 65_536
REFUSED_WAITING_MAX: Final = 64


class Settling:
    """What uplinks have settled since the last commit. `want(now)` asks for a commit, now or some time."""

    def __init__(
        self,
        accounts: Accounts,
        *,
        desks: Mapping[str, Desk],
        forgetter: Forgetter,
        want: Callable[[bool], None],
        now_ns: Callable[[], int],
    ) -> None:
        # Hears of each lease that is settled, how many of its readings were lost, and why; for who traces messages.
        self.on_settled: Callable[[Lease, int, str], None] | None = None
        # Hears of each lease that is settled and lost some of its readings, and how many; for who tells of it upstream.
        self.on_lost: Callable[[Lease, int], None] | None = None
        # Where nothing can be written: by uplink how many readings only this process knows to be sent.
        self.sent: dict[str, int] | None = None
        self.done: dict[int, int] = {}
        self.refusing: deque[Refusal] = deque(maxlen=REFUSED_WAITING_MAX)
        self._accounts = accounts
        self._desks = desks
        self._forgetter = forgetter
        self._want = want
        self._now_ns = now_ns
        self._is_closing = False
        self._changed = asyncio.Event()

    def ack(self, lease: Lease, *, rejected: int, reason: str, aside: Sequence[tuple[str, int, bytes]]) -> None:
        """Settle a lease as delivered but for `rejected` readings; see `Store.ack`."""
        if not self._desks[lease.uplink].close(lease, settled=True):
            return
        lost = min(rejected, lease.readings)
        self._settle(lease, lost, reason, aside)
        if self.sent is not None:
            # Without a disk to note it on it may be sent again.
            self.sent[lease.uplink] = self.sent.get(lease.uplink, 0) + lease.readings
            self.count_maybe_twice(lease.uplink, lease.readings)

    def thinned(self, lease: Lease, *, readings: int) -> None:
        """Take note that `readings` arrived that stand for a lease; see `Store.thinned`."""
        desk, share = self._desks[lease.uplink], self._accounts.shares[lease.uplink]
        if desk.thin(lease):
            share.thinned = [*desk.thinned]
            share.thinned_readings += readings
            # The same may come a third time: not before a commit has counted these.
            desk.allowance.doubt()
            self.count_maybe_twice(lease.uplink, readings)

    def refuse(self, lease: Lease, reason: str, message: str) -> None:
        """Settle a lease as lost; see `Store.refuse`."""
        if self._desks[lease.uplink].close(lease, settled=True):
            aside = [(message, segment.readings, segment.body) for segment in lease.segments]
            self._settle(lease, lease.readings, reason, aside)

    def release(self, lease: Lease, *, maybe_delivered: bool, put_off_s: float = 0.0) -> None:
        """Put a lease back; see `Store.release`."""
        desk = self._desks[lease.uplink]
        desk.put_off(lease, put_off_s)
        if desk.close(lease, settled=False, maybe_delivered=maybe_delivered) and maybe_delivered:
            self.count_maybe_twice(lease.uplink, lease.readings)

    def leave_out(self, name: str, rows: Iterable[Row]) -> None:
        """Take note that an uplink takes segments no more that are held for it."""
        bit = self._accounts.shares[name].bit
        for row in rows:
            self._accounts.leave_out(name, row.readings, priority=where_from(row.id)[0])
            self._desks[name].hide([row.id])
            self.done[row.id] = self.done.get(row.id, 0) | bit

    def _settle(self, lease: Lease, lost: int, reason: str, aside: Sequence[tuple[str, int, bytes]]) -> None:
        """Take note that an uplink needs these segments no more; keep what was refused for a person to look at."""
        self.set_aside(lease, reason, aside)
        # All of a lease is of one class.
        self._accounts.deliver(
            lease.uplink,
            lease.readings,
            priority=lease.segments[0].priority,
            lost=(reason, self._entry(lost)) if lost > 0 else None,
        )
        bit = self._accounts.shares[lease.uplink].bit
        for segment_id in lease.ids():
            self.done[segment_id] = self.done.get(segment_id, 0) | bit
        self._want(len(self.done) >= DONE_MAX)
        if lost > 0:
            self.tell_lost(lease, lost)
        if self.on_settled is not None:
            self.on_settled(lease, lost, reason)

    def tell_lost(self, lease: Lease, lost: int) -> None:
        """Tell whoever wants to know that so many readings of a lease are in the ledger now."""
        if self.on_lost is not None:
            self.on_lost(lease, lost)

    def set_aside(self, lease: Lease, reason: str, aside: Sequence[tuple[str, int, bytes]]) -> None:
        """Keep what was refused of a lease for a person to look at."""
        if aside:
            self._forgetter.refused(lease.segments[-REFUSED_WAITING_MAX:])
            self.refusing.extend((lease.uplink, reason, *what) for what in aside)
            self._want(False)

    def _entry(self, readings: int) -> Entry:
        now_ns = self._now_ns()
        return Entry(readings, 0, 0, now_ns, now_ns)

    def count_maybe_twice(self, name: str, readings: int) -> None:
        """Count readings that the far side may get twice."""
        self._accounts.shares[name].maybe_twice += readings
        self._want(False)

    def damaged(self, name: str, rows: Sequence[Row]) -> None:
        """Count segments whose bytes are not what was written: nobody can be sent them."""
        bit = self._accounts.shares[name].bit
        for row in rows:
            lost = DAMAGED, self._entry(row.readings)
            self._accounts.deliver(name, row.readings, priority=where_from(row.id)[0], lost=lost)
            self.done[row.id] = self.done.get(row.id, 0) | bit
        log.error("%s: damaged on the disk: %s, counted in the ledger", name, plural(len(rows), "segment"))
        self._want(False)

    async def wait(self) -> None:
        """Return when the list of what was acked and is still on the disk is not too long to go on."""
        while len(self.done) >= DONE_HELD_MAX and not self._is_closing:
            self._changed.clear()
            await self._changed.wait()

    def stop(self) -> None:
        """Let those who wait go."""
        self._is_closing = True
        self._changed.set()

    # Around each commit.

    def take(self) -> tuple[dict[int, int], deque[Refusal]]:
        """Return what a commit is to write: by row id the bits of who has settled it, and what was refused."""
        taken = self.done, self.refusing
        self.done, self.refusing = {}, deque(maxlen=REFUSED_WAITING_MAX)
        return taken

    def take_back(self, done: dict[int, int], refusing: Iterable[Refusal]) -> None:
        """Put back what a failed commit did not write."""
        for segment_id, bits in self.done.items():
            done[segment_id] = done.get(segment_id, 0) | bits
        self.done = done
        self.refusing = deque([*refusing, *self.refusing], maxlen=REFUSED_WAITING_MAX)

    def written(self) -> None:
        """Take note that what was taken last is on the disk."""
        self._changed.set()
