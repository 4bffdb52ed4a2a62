"""What is left of leases when all else of them has arrived: it gets segments of its own, which one uplink lacks alone.

The store knows leases only whole. An uplink that delivers most of each and can go no further with the rest would hold
them all for ever: in memory, and on the disk what has arrived long ago. So the rest is written once more, many leases
together, and they are settled with the same commit: it is held twice at no time, and never not. Nothing is accepted by
that. Must not choose what is kept apart, nor read a segment.

| the leases are                 | a rest of them is held                                                             |
| ------------------------------ | ---------------------------------------------------------------------------------- |
| one uplink's alone             | for it, and for whoever is configured later, like all that is held: they go        |
| others', too, who may lack all | for it alone: whoever is configured later gets the leases, as long as they are held |
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import BootId, FullError
from gateway.store.accounts import SLOTS_MAX, Stage
from gateway.store.policy import Lane
from gateway.store.records import Lease, LeasedSegment, where_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.core.batch import Batch
    from gateway.core.contracts import Priority
    from gateway.store.committer import Committer
    from gateway.store.leases import Desk
    from gateway.store.recent import Row

# Segments that are worth being made one.
MANY: Final = 64
# The bits of all who are configured, were, or ever will be.
EVERYBODY: Final = (1 << SLOTS_MAX) - 1


@dataclass(slots=True)
class Moving:
    """Leases of one uplink, and `pieces` of their readings, by class, which it still lacks; `rows` is what they become.

    `bit` is the uplink's in `done`, and `others` those of all who are not to have them: they have theirs.
    """

    uplink: str
    bit: int
    others: int
    leases: Sequence[Lease]
    pieces: Sequence[tuple[Priority, Batch]]
    rows: list[Row] = field(default_factory=list)

    @property
    def readings(self) -> int:
        """How many readings are left."""
        return sum(len(batch) for _, batch in self.pieces)

    def delivered(self) -> dict[Priority, int]:
        """Return how many readings the uplink has got of the leases, by class."""
        found: dict[Priority, int] = {}
        for lease in self.leases:
            priority = lease.segments[0].priority
            found[priority] = found.get(priority, 0) + lease.readings
        for priority, batch in self.pieces:
            found[priority] -= len(batch)
        assert all(readings >= 0 for readings in found.values())
        return found

    def settled(self, done: Mapping[int, int]) -> dict[int, int]:
        """Return the bits of who has settled the leases' segments with the commit, others included."""
        return {row_id: done.get(row_id, 0) | self.bit for lease in self.leases for row_id in lease.ids()}


class Apart:
    """Keeps rests apart, for all uplinks of a store."""

    def __init__(self, committer: Committer, desks: Mapping[str, Desk]) -> None:
        self._committer = committer
        self._desks = desks
        self._kept: set[int] = set()

    @property
    def boot(self) -> BootId:
        """The boot in which what is written now stands: only its moments can be kept apart."""
        return self._committer.timeline.current.boot

    def has_all(self, lease: Lease) -> bool:
        """Whether all of a lease was kept apart since the start, in so few segments that it gains nothing anew."""
        return len(lease.segments) < MANY and all(row_id in self._kept for row_id in lease.ids())

    def is_put_off(self, lease: Lease) -> bool:
        """Whether a lease that was given back has no turn for now."""
        return self._desks[lease.uplink].is_put_off(lease.segments[0].id)

    async def keep(
        self, uplink: str, leases: Sequence[Lease], pieces: Sequence[tuple[Priority, Batch]], *, put_off_s: float
    ) -> None:
        """Settle leases as delivered but for `pieces`, which stay held, and are leased again in `put_off_s` at first.

        Returns when that is on the disk, or raises FullError: then nothing has changed. It comes to its end in a task
        that is cancelled, too.
        """
        bit = self._committer.accounts.shares[uplink].bit
        moving = Moving(uplink, bit, self._not_for(uplink) & ~bit, leases, pieces)
        waiter = self._committer.gathering.keep_apart(moving)
        try:
            await asyncio.shield(waiter)
        except asyncio.CancelledError:
            with contextlib.suppress(FullError):
                await waiter
                self._take_effect(moving, put_off_s)
            raise
        self._take_effect(moving, put_off_s)

    def _not_for(self, uplink: str) -> int:
        """Return the bits of those who are never to have a rest of this uplink's leases."""
        accounts, bits = self._committer.accounts, 0
        for share in accounts.shares.values():
            is_kept = share.removal is None or share.removal.stage is Stage.KEPT
            if share.name != uplink and is_kept:
                # The leases may stay for this one: whoever comes gets them, and would get the rest a second time.
                return EVERYBODY
            bits |= share.bit
        for slot in self._committer.state.slots.values():
            bits |= 1 << slot
        return bits

    def _take_effect(self, moving: Moving, put_off_s: float) -> None:
        desk = self._desks[moving.uplink]
        for lease in moving.leases:
            desk.close(lease, settled=True)
            # The commit that says so has been made.
            desk.gone(lease.ids())
            self._kept.difference_update(lease.ids())
        for row in moving.rows:
            priority, signal, sequence = where_from(row.id)
            segment = LeasedSegment(sequence, BootId(row.boot), signal, priority, row.readings, b"")
            lease = Lease(moving.uplink, Lane.LIVE, [segment], signal)
            desk.leases[id(lease)] = lease
            desk.put_off(lease, put_off_s)
            del desk.leases[id(lease)]
            self._kept.add(row.id)
            if not desk.is_put_off(row.id):
                desk.show([row.id])
