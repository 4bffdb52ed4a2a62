"""Leasing: what an uplink sends next, and what it has in hand. Must not write: a dead process holds no lease.

A `Desk` serves one uplink. It never lists the backlog: for each lane and shelf it remembers from where on there
may be something, and reads on from there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from gateway.core.contracts import BootId, Priority, Signal
from gateway.store.accounts import NOTE_BYTES_MAX
from gateway.store.policy import Choice, Lane, LaneScheduler, Order
from gateway.store.records import SHELVES, Lease, LeasedSegment, place, where_from
from gateway.store.segments import SegmentError, check_link, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gateway.core.batch import Batch
    from gateway.store.allowance import Allowance
    from gateway.store.notebook import Notebook
    from gateway.store.recent import Recent, Row

# Rows looked at in one query, and segments in one lease: SQLite's oldest limit of parameters is 999. How many are
# looked at follows what the last leases took: each row that is looked at for nothing is a page read for nothing.
LOOK_MAX: Final = 512
LOOK_MIN: Final = 4
PUT_OFF_MAX: Final = 2048
OTHER_END: Final = {Order.NEWEST: Order.OLDEST, Order.OLDEST: Order.NEWEST}

Shelf: TypeAlias = tuple[Priority, Signal]
Spot: TypeAlias = tuple[Lane, Shelf]


class Reader(Protocol):
    """Reads segments from the disk."""

    async def rows(self, start: int, end: int, *, lacking: int, limit: int, newest: bool) -> list[Row]:
        """Return up to `limit` rows with start <= id < end whose `done` has none of the bits `lacking`.

        From the oldest on, or with `newest` from the newest back.
        """
        ...

    async def bodies(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies of those of `ids` that are there."""
        ...


class Desk:
    """One uplink's leases.

    What is leased, and what is hidden (settled, or chosen to be evicted, and the commit that says so is still to
    come) is not leased again. `changes` counts what a read from the disk may have missed while it ran: then it is
    done again.
    """

    def __init__(
        self,
        name: str,
        *,
        bit: int,
        live_from: int,
        reader: Reader,
        recent: Recent,
        scheduler: LaneScheduler,
        damaged: Callable[[str, list[Row]], None],
        allowance: Allowance,
    ) -> None:
        self.name = name
        self.allowance = allowance
        self.live_from = live_from
        self.leases: dict[int, Lease] = {}
        self.has_some = asyncio.Event()
        self.has_some.set()
        self.keeps_up = False
        self.notebook: Notebook | None = None
        self.behind_bytes = 0  # what came in and was not leased since it keeps up
        self._bit = bit
        self._reader = reader
        self._recent = recent
        self.scheduler = scheduler
        self._damaged = damaged
        self._leased: set[int] = set()
        self._taking: list[tuple[int, int]] = []
        self._hidden: set[int] = set()
        self._put_off: set[int] = set()
        self.put_off_until_s = float("-inf")  # the last of them, in the loop's time
        self._changes = 0
        self._reading = asyncio.Lock()
        self._look_rows = LOOK_MIN
        self._held_back: dict[Signal, asyncio.TimerHandle] = {}
        self._other_end: set[Signal] = set()
        self._next: dict[Spot, int] = {}
        self._maybe: dict[Spot, None] = {}  # in the order in which shelves of one class take turns
        for shelf in reversed(SHELVES):
            self._next[Lane.BACKLOG, shelf] = 0
            self._next[Lane.LIVE, shelf] = live_from
            self._maybe[Lane.BACKLOG, shelf] = None

    @property
    def leased_readings(self) -> int:
        """How much is in hand."""
        return sum(lease.readings for lease in self.leases.values())

    def note(self, before: bytes, *, is_last: bool) -> bytes:
        """Return what the commit that is planned now writes for this uplink; what stood there, where it has no word."""
        if self.notebook is None:
            return before
        note = self.notebook.plan(is_last=is_last)
        assert len(note) <= NOTE_BYTES_MAX
        return note

    def written(self) -> None:
        """Take note that the commit that was planned last is on the disk."""
        self.allowance.written()
        if self.notebook is not None:
            self.notebook.written()

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last row id of what is in hand, and of what will be as soon as it is read from the disk."""
        return [(lease.segments[0].id, lease.segments[-1].id) for lease in self.leases.values()] + self._taking

    def arrived(self, shelves: Iterable[Shelf], size_bytes: int = 0) -> None:
        """Take note that a commit put something on `shelves`, so many bytes in all."""
        self.behind_bytes += size_bytes
        for shelf in shelves:
            self._may_have((Lane.LIVE, shelf))
        self._changes += 1

    def _may_have(self, spot: Spot) -> None:
        self._maybe.setdefault(spot)
        _, (_, signal) = spot
        if signal not in self._held_back:
            self.has_some.set()

    def link_up(self, sequence: int) -> None:
        """From `sequence` on it is live; all before is backlog."""
        self.live_from = sequence
        self.scheduler.link_up()
        for shelf in SHELVES:
            self._next[Lane.LIVE, shelf] = sequence
            self._maybe.pop((Lane.LIVE, shelf), None)
            self._maybe[Lane.BACKLOG, shelf] = None
        self._other_end.clear()
        self._changes += 1
        self.has_some.set()

    def hold(self, signal: Signal, seconds: float) -> None:
        """Lease nothing of a signal for so long: the others may go on.

        After that its leases come from the other end, until the link is up or it is held once more: whatever it is
        that is not taken must not hide what would be.
        """
        self._other_end ^= {signal}
        if (before := self._held_back.pop(signal, None)) is not None:
            before.cancel()
        self._held_back[signal] = asyncio.get_running_loop().call_later(seconds, self._go_on_with, signal)

    def _go_on_with(self, signal: Signal) -> None:
        self._held_back.pop(signal, None)
        self.has_some.set()

    def put_off(self, lease: Lease, seconds: float) -> None:
        """Lease nothing of a lease for so long once it is given back: others may be taken where it is not.

        Of many at once it is not about the data of each: then all stay in their turn.
        """
        ids = list(lease.ids())
        if seconds <= 0 or id(lease) not in self.leases or len(self._put_off) + len(ids) > PUT_OFF_MAX:
            return
        self._put_off.update(ids)
        loop = asyncio.get_running_loop()
        self.put_off_until_s = max(self.put_off_until_s, loop.time() + seconds)
        loop.call_later(seconds, self._take_up, ids)

    def _take_up(self, ids: list[int]) -> None:
        """Let what was put off be leased again."""
        self._put_off.difference_update(ids)
        for segment_id in ids:
            self._look_again(segment_id)
        self._changes += 1

    def hide(self, ids: Iterable[int]) -> None:
        """Keep `ids` from being leased: they are about to go."""
        self._hidden.update(ids)

    def gone(self, ids: Iterable[int]) -> None:
        """Take note that a commit settled `ids`."""
        self._hidden.difference_update(ids)
        self._changes += 1

    def show(self, ids: Iterable[int]) -> None:
        """Let `ids` be leased after all: their commit failed, or they came back."""
        for segment_id in ids:
            self._leased.discard(segment_id)
            self._hidden.discard(segment_id)
            self._look_again(segment_id)
        self._changes += 1

    def _look_again(self, segment_id: int) -> None:
        priority, signal, sequence = where_from(segment_id)
        spot: Spot = (Lane.LIVE if sequence >= self.live_from else Lane.BACKLOG, (priority, signal))
        self._next[spot] = min(self._next[spot], sequence)
        self._may_have(spot)

    def is_leased(self, segment_id: int) -> bool:
        """Whether somebody is sending it."""
        return segment_id in self._leased

    def close(self, lease: Lease, *, settled: bool, maybe_delivered: bool = True) -> bool:
        """Take a lease back; return False where it was given back before."""
        if self.leases.pop(id(lease), None) is None:
            return False
        if settled:
            self._leased.difference_update(lease.ids())
            self._hidden.update(lease.ids())
            if lease.sent_bytes:
                more_bytes = lease.sent_bytes - lease.size_bytes
                self.scheduler.weighed(lease.lane, lease.segments[0].priority, more_bytes)
            return True
        self.scheduler.gave_back(lease.lane, lease.segments[0].priority, lease.size_bytes, is_fresh=lease.is_fresh)
        self.show(lease.ids())
        if maybe_delivered:
            self.allowance.doubt()
        else:
            self.allowance.give_back(lease.readings, lease.allowed_by)
        return True

    async def lease(self, *, readings_max: int, bytes_max: int, may_wait: bool = True) -> Lease | None:
        """Return what to send next, or None when there is nothing now.

        It may wait for a commit that allows it; without `may_wait` it returns None then too.
        """
        self.allowance.rest(0.0)
        async with self._reading:
            while (choice := self._choose()) is not None:
                if (found := await self._find(choice, readings_max, bytes_max)) is None:
                    continue
                spot, rows, order = found
                if not self.allowance.covers(sum(row.readings for row in rows)):
                    if not may_wait or not await self.allowance.wait():
                        return None
                    continue
                lease = await self._take(spot, rows, order, is_fresh=choice.order is Order.NEWEST)
                if lease is not None:
                    self.leases[id(lease)] = lease
                    self.scheduler.sent(choice.lane, choice.priority, lease.size_bytes)
                    if choice.lane is Lane.LIVE:
                        self.behind_bytes = max(0, self.behind_bytes - lease.size_bytes)
                    return lease
            self.has_some.clear()
            return None

    def _choose(self) -> Choice | None:
        held = {lane: [0] * len(Priority) for lane in Lane}
        for lane, (priority, signal) in self._maybe:
            if signal not in self._held_back:
                held[lane][priority] = 1
        return self.scheduler.next(live=held[Lane.LIVE], backlog=held[Lane.BACKLOG])

    async def _find(self, choice: Choice, readings_max: int, bytes_max: int) -> tuple[Spot, list[Row], Order] | None:
        for spot in [*self._maybe]:
            lane, (priority, signal) = spot
            if lane is not choice.lane or priority is not choice.priority or signal in self._held_back:
                continue
            order = OTHER_END[choice.order] if signal in self._other_end else choice.order
            if order is Order.NEWEST:
                rows = await self._look(spot, newest=True)
            else:
                rows = await self._look_for(spot, readings_max, bytes_max)
            if rows:
                return spot, rows, order
            self._maybe.pop(spot, None)
        return None

    async def _look_for(self, spot: Spot, readings_max: int, bytes_max: int) -> list[Row]:
        """Return the oldest rows that fit in a lease."""
        while True:
            rows = await self._look(spot, newest=False)
            fitting = _within(rows, readings_max, bytes_max)
            if len(fitting) < len(rows) or len(rows) < self._look_rows or self._look_rows == LOOK_MAX:
                self._look_rows = min(LOOK_MAX, max(LOOK_MIN, 2 * len(fitting)))
                return fitting
            self._look_rows = min(LOOK_MAX, 4 * self._look_rows)

    async def _look(self, spot: Spot, *, newest: bool) -> list[Row]:
        """Return rows that may be leased; none if there are none at all."""
        lane, (priority, signal) = spot
        while True:
            first = self._next[spot]
            start = place(priority, signal, first)
            stop = place(priority, signal, self._recent.end if lane is Lane.LIVE else self.live_from)
            changes = self._changes
            unfree = len(self._leased) + len(self._hidden) + len(self._put_off)
            limit = 1 + unfree if newest else self._look_rows
            in_memory = max(start, place(priority, signal, self._recent.floor))
            rows: list[Row] = []
            # The disk has no newer one than the newest in memory.
            if newest or start == in_memory:
                rows = self._recent.rows(in_memory, stop, lacking=self._bit, limit=limit, newest=newest)
            if start < in_memory and not self._free(rows):
                rows = await self._reader.rows(start, stop, lacking=self._bit, limit=limit, newest=newest)
            if changes != self._changes:
                continue
            free = self._free(rows)
            if newest:
                return free[:1]
            if free or len(rows) < limit:
                return free
            # All of them are on their way already.
            self._next[spot] = where_from(rows[-1].id)[2] + 1

    def _free(self, rows: list[Row]) -> list[Row]:
        """Return those that nobody is sending, that are not about to go, and that are not put off."""
        leased, hidden, put_off = self._leased, self._hidden, self._put_off
        return [row for row in rows if row.id not in leased and row.id not in hidden and row.id not in put_off]

    async def _take(self, spot: Spot, rows: list[Row], order: Order, *, is_fresh: bool) -> Lease | None:
        ids = [row.id for row in rows]
        self._leased.update(ids)
        allowed_by = self.allowance.take(sum(row.readings for row in rows))
        # The next turn in this class is another signal's.
        self._maybe.pop(spot, None)
        self._maybe[spot] = None
        lane, (_, signal) = spot
        if order is Order.OLDEST:
            self._next[spot] = where_from(ids[-1])[2] + 1
        found = {segment_id: body for segment_id in ids if (body := self._recent.body(segment_id)) is not None}
        missing = [segment_id for segment_id in ids if segment_id not in found]
        if missing:
            # A commit that is planned meanwhile allows others: this one must stand there as leased.
            self._taking = [(ids[0], ids[-1])]
            try:
                found |= await self._reader.bodies(missing)
            except BaseException:
                self.show(ids)
                raise
            finally:
                self._taking = []
        segments = [
            _leased(row, found[row.id], self._recent.readable(row.id))
            for row in rows
            if is_whole(row, found.get(row.id))
        ]
        if len(segments) < len(rows):
            whole = {segment.id for segment in segments}
            lost = [row for row in rows if row.id not in whole]
            self._leased.difference_update(row.id for row in lost)
            self.hide(row.id for row in lost)
            self._damaged(self.name, lost)
        if not segments:
            return None
        return Lease(self.name, lane, segments, signal, allowed_by, is_fresh)


def _within(rows: list[Row], readings_max: int, bytes_max: int) -> list[Row]:
    """Return as many of the first `rows` as fit, at least one."""
    readings = size_bytes = 0
    for count, row in enumerate(rows):
        readings += row.readings
        size_bytes += row.size_bytes
        if count and (readings > readings_max or size_bytes > bytes_max):
            return rows[:count]
    return rows


def is_whole(row: Row, body: bytes | None) -> bool:
    """Whether a segment came back from the disk as it was written."""
    if body is None:
        return False
    try:
        header = read_header(body)
        check_link(header.previous_hash, body)
    except SegmentError:
        return False
    return (header.sequence, header.readings) == (where_from(row.id)[2], row.readings)


def _leased(row: Row, body: bytes, readable: Batch | None) -> LeasedSegment:
    priority, signal, sequence = where_from(row.id)
    return LeasedSegment(sequence, BootId(row.boot), signal, priority, row.readings, body, readable)
