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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from gateway.core.batch import Batch, ResourceRecords
from gateway.core.contracts import BootId, FullError
from gateway.store.accounts import SLOTS_MAX, Entry, Stage
from gateway.store.policy import Lane
from gateway.store.records import Lease, LeasedSegment, where_from
from gateway.store.segments import FIRST_HASH, Ancestors, read_header, segment_hash
from gateway.store.writer import by_origin, cut, press, press_apart

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.core.contracts import Priority
    from gateway.store.accounts import Change, Dilution
    from gateway.store.committer import Committer
    from gateway.store.leases import Desk
    from gateway.store.recent import Row
    from gateway.store.segments import Pressed
    from gateway.store.writer import NewSegment, Part

# Segments that are worth being made one.
MANY: Final = 64
# Of so many it is known that they were kept apart, delivered since or not; an older one is written anew once more.
KEPT_MAX: Final = 4096
# The bits of all who are configured, were, or ever will be.
EVERYBODY: Final = (1 << SLOTS_MAX) - 1


class Rest(NamedTuple):
    """Readings of one class and one segment. `boot` is whose moments are among them; 0: none are.

    Of readings that were thinned on the shelf `step_s` is at which step.
    """

    priority: Priority
    what: Batch | ResourceRecords
    boot: BootId = BootId(0)
    step_s: int = 0


class Piece(NamedTuple):
    """What becomes a segment, of which boot, and at which step it was thinned."""

    part: Part
    boot: BootId
    step_s: int = 0


class Lost(NamedTuple):
    """Readings of a lease that will never be delivered, why, and what of them a person may want to see."""

    lease: Lease
    readings: int
    reason: str
    aside: Sequence[tuple[str, int, bytes]] = ()


@dataclass(slots=True)
class Moving:
    """Leases of one uplink, and `pieces` of their readings, which it still lacks; `rows` is what they become.

    The others have arrived, but for those that are `lost`.

    `bit` is the uplink's in `done`, and `others` those of all who are not to have them: they have theirs. `ends_ns` has
    for each boot that is over, and of which moments are among them, how long it lasted.
    """

    uplink: str
    bit: int
    others: int
    leases: Sequence[Lease]
    pieces: Sequence[Rest]
    ends_ns: Mapping[int, int]
    lost: Sequence[Lost] = ()
    rows: list[Row] = field(default_factory=list)

    @property
    def readings(self) -> int:
        """How many readings are left."""
        return sum(len(rest.what) for rest in self.pieces)

    def settled_readings(self) -> dict[Priority, int]:
        """Return how many readings of the leases the uplink lacks no more, by class."""
        found: dict[Priority, int] = {}
        for lease in self.leases:
            priority = lease.segments[0].priority
            found[priority] = found.get(priority, 0) + lease.readings
        for rest in self.pieces:
            found[rest.priority] -= len(rest.what)
        assert all(readings >= 0 for readings in found.values())
        return found

    def settle(self, change: Change, *, now_ns: int) -> None:
        """Add to a commit's change what became of the leases, and what is left of boots that are over."""
        for priority, readings in self.settled_readings().items():
            change.deliver(self.uplink, readings, priority=priority)
        for lost in self.lost:
            change.deliver_not(self.uplink, lost.reason, Entry(lost.readings, 0, 0, now_ns, now_ns))
        for row in self.rows:
            if row.boot in self.ends_ns:
                change.apart.append((self.uplink, row.boot, where_from(row.id)[2]))

    def settled(self, done: Mapping[int, int]) -> dict[int, int]:
        """Return the bits of who has settled the leases' segments with the commit, others included."""
        return {row_id: done.get(row_id, 0) | self.bit for lease in self.leases for row_id in lease.ids()}

    def parts(self, boot: BootId, offset_ns: int | None) -> Iterator[Piece]:
        """Compress the pieces; `boot` is that of now."""
        self.rows.clear()
        pieces = [rest if rest.boot in self.ends_ns else rest._replace(boot=boot) for rest in self.pieces]
        for of_boot in sorted({rest.boot for rest in pieces}):
            offset = offset_ns if of_boot == boot else None
            mine = [rest for rest in pieces if rest.boot == of_boot]
            whole = by_origin(
                (rest.priority, rest.what) for rest in mine if isinstance(rest.what, Batch) and not rest.step_s
            )
            for (priority, _), some in sorted(whole.items()):
                for batches in cut(some):
                    yield Piece(press(priority, batches, offset), of_boot)
            # What was thinned is no longer what is left at its step where it is joined.
            for rest in mine:
                if isinstance(rest.what, Batch) and rest.step_s:
                    yield Piece(press(rest.priority, [rest.what], offset), of_boot, rest.step_s)
        messages = [(rest.priority, rest.what) for rest in pieces if isinstance(rest.what, ResourceRecords)]
        for part in press_apart(messages):
            yield Piece(part, boot)

    @staticmethod
    def thinned(pressed: Pressed, body: bytes, step_s: int, before: Dilution) -> tuple[Pressed, bytes, Dilution]:
        """Return what says that it was thinned, at a step of so many seconds, in the place of a segment that does not.

        It is as if that had come, and had then been written anew: `before` is how far all was. At 0 it is as it is.
        """
        if not step_s:
            return pressed, body, before
        header, number = read_header(body), before.count + 1
        ancestors = Ancestors(
            segment_hash(body), before.hash or FIRST_HASH, number, header.sequence, pressed.readings, step_s
        )
        body = pressed.seal(
            sequence=header.sequence, boot=header.boot, previous_hash=header.previous_hash, ancestors=ancestors
        )
        # Whoever finds its columns at hand does not look for what it says.
        after = msgspec.structs.replace(before, count=number, hash=segment_hash(body))
        return replace(pressed, readable=None), body, after

    def take(self, new: NewSegment) -> NewSegment:
        """Return one of the segments as it is to be written."""
        self.rows.append(new.row)
        ended_ns = self.ends_ns.get(new.row.boot)
        stored = None if ended_ns is None else (new.row.boot, ended_ns)
        return new._replace(left_out=self.others, is_apart=True, stored=stored)


class Apart:
    """Keeps rests apart, for all uplinks of a store."""

    def __init__(self, committer: Committer, desks: Mapping[str, Desk]) -> None:
        self._committer = committer
        self._desks = desks
        self._kept: dict[int, None] = {}  # in the order in which they were

    def has_all(self, lease: Lease) -> bool:
        """Whether all of a lease was kept apart since the start, in so few segments that it gains nothing anew."""
        return len(lease.segments) < MANY and all(row_id in self._kept for row_id in lease.ids())

    def is_put_off(self, lease: Lease) -> bool:
        """Whether a lease that was given back has no turn for now."""
        return self._desks[lease.uplink].is_put_off(lease.segments[0].id)

    async def keep(
        self,
        uplink: str,
        leases: Sequence[Lease],
        pieces: Sequence[Rest],
        *,
        put_off_s: float,
        lost: Sequence[Lost] = (),
    ) -> None:
        """Settle leases as delivered but for what is `lost`, and for `pieces`: these stay held.

        They are leased again in `put_off_s` at first.

        Returns when that is on the disk, or raises FullError: then nothing has changed. It comes to its end in a task
        that is cancelled, too.
        """
        bit = self._committer.accounts.shares[uplink].bit
        moving = Moving(uplink, bit, self._not_for(uplink) & ~bit, leases, pieces, self._ends_of(pieces), lost)
        waiter = self._committer.gathering.keep_apart(moving)
        try:
            await asyncio.shield(waiter)
        except asyncio.CancelledError:
            with contextlib.suppress(FullError):
                await waiter
                self._take_effect(moving, put_off_s)
            raise
        self._take_effect(moving, put_off_s)

    def _ends_of(self, pieces: Sequence[Rest]) -> dict[int, int]:
        """Return by boot that is over how long it lasted, of those that there are moments of."""
        timeline, wanted = self._committer.timeline, {rest.boot for rest in pieces}
        return {times.boot: times.last_ns for times in timeline.boots[:-1] if times.boot in wanted}

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
            for row_id in lease.ids():
                self._kept.pop(row_id, None)
        for lost in moving.lost:
            self._committer.settling.set_aside(lost.lease, lost.reason, lost.aside)
            self._committer.settling.tell_lost(lost.lease, lost.readings)
        for row in moving.rows:
            priority, signal, sequence = where_from(row.id)
            segment = LeasedSegment(sequence, BootId(row.boot), signal, priority, row.readings, b"")
            lease = Lease(moving.uplink, Lane.LIVE, [segment], signal)
            desk.leases[id(lease)] = lease
            desk.put_off(lease, put_off_s)
            del desk.leases[id(lease)]
            self._kept[row.id] = None
            if not desk.is_put_off(row.id):
                desk.show([row.id])
        while len(self._kept) > KEPT_MAX:
            del self._kept[next(iter(self._kept))]
