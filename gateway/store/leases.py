"""Leasing: what an uplink sends next, and what it has in hand. Must not write: a dead process holds no lease.

A `Desk` serves one uplink. It never lists the backlog: for each lane and shelf it remembers from where on there
may be something, and reads on from there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import Priority, Signal
from gateway.store.accounts import NOTE_BYTES_MAX, THINNED_SPANS_MAX, UNSENT_EVIDENCE_MAX
from gateway.store.policy import ALL, Choice, Lane, LaneScheduler, Order, Terms
from gateway.store.records import SHELVES, Lease, place, where_from
from gateway.store.rows import is_whole, leased, of_one_side, side_by_side, within
from gateway.store.spans import Spans
from gateway.store.spots import Found, Outlook, Shelf, Spot, may_be_evidence, next_stretch
from gateway.store.taking import EVERYTHING
from gateway.store.thinnable import thinned_together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.store.allowance import Allowance
    from gateway.store.moments import Moments
    from gateway.store.notebook import Notebook
    from gateway.store.recent import Recent, Row
    from gateway.store.rows import Reader
    from gateway.store.taking import Takes

# Rows looked at in one query, and segments in one lease: SQLite's oldest limit of parameters is 999. How many are
# looked at follows what the last leases took: each row that is looked at for nothing is a page read for nothing.
LOOK_MAX: Final = 512
LOOK_MIN: Final = 4
PUT_OFF_MAX: Final = 2048
# Stretches of evidence at once; of more the oldest goes in its turn, like all else.
EVIDENCE_MAX: Final = 64
# What is thinned is read in one go, for a step may be long; only what is left of it is sent.
THIN_READINGS_MAX: Final = 1 << 18
THIN_BYTES_MAX: Final = 1 << 20
OTHER_END: Final = {Order.NEWEST: Order.OLDEST, Order.OLDEST: Order.NEWEST}


class Desk:
    """One uplink's leases.

    What is leased, and what is hidden (settled, or chosen to be evicted, and the commit that says so is still to
    come) is not leased again. `changes` counts what a read from the disk may have missed while it ran: then it is
    done again.
    """

    def __init__(  # noqa: PLR0913  by keyword all of them, and what is new has a default
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
        thinned: Iterable[tuple[int, int]] = (),
        evidence: Iterable[tuple[int, int]] = (),
        takes: Takes = EVERYTHING,
    ) -> None:
        self.name = name
        self.takes = takes
        self._shelves = [shelf for shelf in SHELVES if takes.has_shelf(shelf)]
        self.allowance = allowance
        self.live_from = live_from
        self.leases: dict[int, Lease] = {}
        self.has_some = asyncio.Event()
        self.has_some.set()
        self.keeps_up = False
        self.notebook: Notebook | None = None
        self.thinned = Spans(thinned, spans_max=THINNED_SPANS_MAX)  # of row ids
        self.evidence = Spans(evidence, spans_max=EVIDENCE_MAX + 1)  # of sequences
        self.evidence_s = 0.0  # how long before and after a finding
        self._evidence_until_s = float("-inf")
        # What came in last before a kill is evidence: what comes first after it is too, nobody knows how long it took.
        self._is_evidence_open = live_from - 1 in self.evidence
        self._backlog_readings = self._thinned_readings = 0
        self._arrived = [0] * len(Priority)
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
        for shelf in reversed(self._shelves):
            self._next[Lane.BACKLOG, shelf] = 0
            self._next[Lane.LIVE, shelf] = live_from
            self._maybe[Lane.BACKLOG, shelf] = None
            self._next[Lane.THINNED, shelf] = self._next[Lane.EVIDENCE, shelf] = 0
            if self.thinned:
                self._maybe[Lane.THINNED, shelf] = None
            if self.evidence and may_be_evidence(shelf):
                self._maybe[Lane.EVIDENCE, shelf] = None

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

    def outlook(self) -> Outlook:
        """Return what is known without looking."""
        spots = frozenset((lane, priority) for lane, (priority, signal) in self._maybe if signal not in self._held_back)
        return Outlook(spots, max(0, self._backlog_readings), tuple(self._arrived), self.scheduler.backlog_share)

    def arrived(self, rows: Iterable[Row], *, now_s: float) -> None:
        """Take note of what a commit has put on the shelf, of all that it takes."""
        for row in rows:
            priority, signal, sequence = where_from(row.id)
            if self._is_evidence_open:
                self._is_evidence_open, self._evidence_until_s = False, now_s + self.evidence_s
            if now_s <= self._evidence_until_s:
                self._add_evidence(sequence, sequence, [(priority, signal)])
            self.behind_bytes += row.size_bytes
            self._arrived[priority] += row.readings
            self._may_have((Lane.LIVE, (priority, signal)))
        self._changes += 1

    def found(self, moments: Moments, *, now_s: float) -> None:
        """Have what came in just before now, and what comes in just after, go first and whole: something was found."""
        if not self.evidence_s:
            return
        self._evidence_until_s = now_s + self.evidence_s
        self._add_evidence(moments.next_at(now_s - self.evidence_s), moments.next_sequence, self._shelves)

    def keep_evidence(self, seconds: float) -> None:
        """Have what comes in so long before and after a finding be evidence; 0: nothing."""
        self.evidence_s = seconds
        if not seconds:
            self.evidence.forget(first=0, last=self._recent.end)

    def unsent_evidence(self, before: int, after: int) -> list[tuple[int, int]]:
        """Return the newest stretches of evidence that may not have been sent, as they stand after a commit.

        The commit writes the sequences from `before` up to `after`, that one not.
        """
        now_s = asyncio.get_running_loop().time()
        is_found = self.evidence_s > 0 and (self._is_evidence_open or now_s <= self._evidence_until_s)
        if not (self.evidence or is_found):
            return []
        floor = min(
            [self._next[spot] for spot in self._maybe if spot[0] is Lane.EVIDENCE]
            + [lease.segments[0].sequence for lease in self.leases.values() if lease.lane is Lane.EVIDENCE],
            default=before,
        )
        unsent = Spans([span for span in self.evidence if span[1] >= floor], spans_max=EVIDENCE_MAX + 2)
        if is_found and before < after:
            unsent.add(before, after - 1)
        return [*unsent][-UNSENT_EVIDENCE_MAX:]

    def _add_evidence(self, first: int, last: int, shelves: Iterable[Shelf]) -> None:
        self.evidence.add(first, max(first, last))
        if len(self.evidence) > EVIDENCE_MAX:
            begin, end = next(iter(self.evidence))
            self.evidence.forget(first=begin, last=end)
        for shelf in shelves:
            if not may_be_evidence(shelf):
                continue
            self._next[Lane.EVIDENCE, shelf] = min(self._next[Lane.EVIDENCE, shelf], first)
            self._may_have((Lane.EVIDENCE, shelf))
        self._changes += 1

    def _may_have(self, spot: Spot) -> None:
        self._maybe.setdefault(spot)
        _, (_, signal) = spot
        if signal not in self._held_back:
            self.has_some.set()

    def link_up(self, sequence: int, *, held: int = 0) -> None:
        """From `sequence` on it is live; all before is backlog, which with what was sent thinned is `held` readings."""
        self.live_from = sequence
        self._backlog_readings = held - self._thinned_readings
        self.scheduler.link_up()
        for lease in self.leases.values():
            lease.is_late = True
        for shelf in self._shelves:
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
        if not self.takes.has_shelf((priority, signal)):
            # It was to be let go, and is not its own.
            return
        lane = Lane.LIVE if sequence >= self.live_from else Lane.BACKLOG
        spot: Spot = (Lane.THINNED if segment_id in self.thinned else lane, (priority, signal))
        self._next[spot] = min(self._next[spot], sequence)
        self._may_have(spot)
        if sequence in self.evidence and may_be_evidence((priority, signal)):
            evidence: Spot = (Lane.EVIDENCE, (priority, signal))
            self._next[evidence] = min(self._next[evidence], sequence)
            self._may_have(evidence)

    def is_leased(self, segment_id: int) -> bool:
        """Whether somebody is sending it."""
        return segment_id in self._leased

    def is_put_off(self, segment_id: int) -> bool:
        """Whether it is not sent for now since somebody failed at it."""
        return segment_id in self._put_off

    def close(self, lease: Lease, *, settled: bool, maybe_delivered: bool = True) -> bool:
        """Take a lease back; return False where it was given back before."""
        if self.leases.pop(id(lease), None) is None:
            return False
        if settled:
            self._counted_off(lease)
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

    def thin(self, lease: Lease) -> bool:
        """Take a lease back whose thinned form has arrived; return False where it was given back before.

        It is held as before, and goes whole where nothing else does.
        """
        if self.leases.pop(id(lease), None) is None:
            return False
        self._counted_off(lease)
        self._thinned_readings += lease.readings
        self.scheduler.weighed(lease.lane, lease.segments[0].priority, lease.sent_bytes - lease.size_bytes)
        self.thinned.add(lease.from_id, lease.segments[-1].id)
        self.show(lease.ids())
        return True

    def _counted_off(self, lease: Lease) -> None:
        if lease.lane == Lane.BACKLOG:
            self._backlog_readings -= lease.readings
        elif lease.lane == Lane.THINNED:
            self._thinned_readings = max(0, self._thinned_readings - lease.readings)

    def let_go_below(self, sequence: int) -> None:
        """Take note that nothing is held that is older."""
        for shelf in SHELVES:
            self.thinned.forget(first=place(*shelf, 0), last=place(*shelf, sequence) - 1)
        self.evidence.forget(first=0, last=sequence - 1)

    async def lease(
        self, *, readings_max: int, bytes_max: int, may_wait: bool = True, terms: Terms = ALL
    ) -> Lease | None:
        """Return what to send next, or None when there is nothing now that `terms` let go.

        It may wait for a commit that allows it; without `may_wait` it returns None then too.
        """
        self.allowance.rest(0.0)
        async with self._reading:
            while (choice := self._choose(terms)) is not None:
                if (found := await self._find(choice, readings_max, bytes_max, terms)) is None:
                    continue
                if not self.allowance.covers(sum(row.readings for row in found.rows)):
                    if not may_wait or not await self.allowance.wait():
                        return None
                    continue
                lease = await self._take(found, is_fresh=choice.order is Order.NEWEST)
                if lease is not None:
                    self.leases[id(lease)] = lease
                    self.scheduler.sent(choice.lane, choice.priority, lease.size_bytes)
                    if choice.lane is Lane.LIVE:
                        self.behind_bytes = max(0, self.behind_bytes - lease.size_bytes)
                    return lease
            if all(signal in self._held_back for _, (_, signal) in self._maybe):
                self.has_some.clear()
            return None

    def _choose(self, terms: Terms) -> Choice | None:
        held = {lane: [0] * len(Priority) for lane in Lane}
        for lane, (priority, signal) in self._maybe:
            if signal not in self._held_back and terms.may_take(lane, priority):
                held[lane][priority] = 1
        return self.scheduler.next(
            live=held[Lane.LIVE],
            backlog=held[Lane.BACKLOG],
            thinned=held[Lane.THINNED],
            evidence=held[Lane.EVIDENCE],
        )

    async def _find(self, choice: Choice, readings_max: int, bytes_max: int, terms: Terms) -> Found | None:
        for spot in [*self._maybe]:
            lane, (priority, signal) = spot
            if lane is not choice.lane or priority is not choice.priority or signal in self._held_back:
                continue
            order = OTHER_END[choice.order] if signal in self._other_end else choice.order
            # What is newest is one segment, and the first that somebody sees; so is what is tried in its place.
            step_s = terms.step_of(lane, priority) if signal is Signal.METRICS and order is Order.OLDEST else 0.0
            most = 1 if choice.order is Order.NEWEST else terms.most_of(lane, priority, is_thinned=step_s > 0)
            if order is Order.NEWEST:
                found = await self._look(spot, newest=True)
            elif step_s:
                found = await self._look_for(spot, min(most, THIN_READINGS_MAX), THIN_BYTES_MAX)
                rows, from_id = side_by_side(found.rows, found.from_id, away=(*self._leased, *self._put_off))
                found = found._replace(rows=rows, from_id=from_id)
            else:
                found = await self._look_for(spot, min(most, readings_max), bytes_max)
                found = found._replace(rows=of_one_side(found.rows, self.live_from))
            if found.rows:
                return found._replace(order=order, step_s=step_s)
            self._maybe.pop(spot, None)
        return None

    async def _look_for(self, spot: Spot, readings_max: int, bytes_max: int) -> Found:
        """Return the oldest rows that fit in a lease."""
        while True:
            found = await self._look(spot, newest=False)
            fitting = within(found.rows, readings_max, bytes_max)
            if len(fitting) < len(found.rows) or len(found.rows) < self._look_rows or self._look_rows == LOOK_MAX:
                self._look_rows = min(LOOK_MAX, max(LOOK_MIN, 2 * len(fitting)))
                return found._replace(rows=fitting)
            self._look_rows = min(LOOK_MAX, 4 * self._look_rows)

    async def _look(self, spot: Spot, *, newest: bool) -> Found:
        """Return rows that may be leased; none if there are none at all."""
        before_id: int | None = None
        while (window := self._window(spot, before_id=before_id, newest=newest)) is not None:
            start, stop = window
            changes = self._changes
            unfree = len(self._leased) + len(self._hidden) + len(self._put_off)
            limit = 1 + unfree if newest else self._look_rows
            in_memory = max(start, place(*spot[1], self._recent.floor))
            rows: list[Row] = []
            # The disk has no newer one than the newest in memory.
            if newest or start == in_memory:
                rows = self._recent.rows(in_memory, stop, lacking=self._bit, limit=limit, newest=newest)
            if start < in_memory and not self._free(rows):
                rows = await self._reader.rows(start, stop, lacking=self._bit, limit=limit, newest=newest)
            if changes != self._changes:
                continue
            if free := self._free(rows):
                return Found(free[:1] if newest else free, start, spot)
            if newest:
                before_id = start
            else:
                # All of them are on their way already, or there are no more before what was sent thinned.
                self._next[spot] = where_from(rows[-1].id)[2] + 1 if len(rows) == limit else stop - place(*spot[1], 0)
        return Found([], 0, spot)

    def _window(self, spot: Spot, *, before_id: int | None, newest: bool) -> tuple[int, int] | None:
        """Return what `next_stretch` does.

        From where looking stands on, or with `newest` from `before_id` back, where that is given.
        """
        lane, shelf = spot
        start = place(*shelf, self._next[spot])
        stop = place(*shelf, self.live_from if lane is Lane.BACKLOG else self._recent.end)
        stop = stop if before_id is None else min(stop, before_id)
        spans = {"evidence": self.evidence, "thinned": self.thinned}
        return next_stretch(spot, start, stop, newest=newest, **spans)

    def _free(self, rows: list[Row]) -> list[Row]:
        """Return those that nobody is sending, that are not about to go, and that are not put off."""
        leased, hidden, put_off = self._leased, self._hidden, self._put_off
        return [row for row in rows if row.id not in leased and row.id not in hidden and row.id not in put_off]

    async def _take(self, found: Found, *, is_fresh: bool) -> Lease | None:
        spot, rows = found.spot, found.rows
        ids = [row.id for row in rows]
        self._leased.update(ids)
        allowed_by = self.allowance.take(sum(row.readings for row in rows))
        # The next turn in this class is another signal's.
        self._maybe.pop(spot, None)
        self._maybe[spot] = None
        lane, (_, signal) = spot
        if found.order is Order.OLDEST:
            self._next[spot] = where_from(ids[-1])[2] + 1
        bodies = {segment_id: body for segment_id in ids if (body := self._recent.body(segment_id)) is not None}
        missing = [segment_id for segment_id in ids if segment_id not in bodies]
        if missing:
            # A commit that is planned meanwhile allows others: this one must stand there as leased.
            self._taking = [(ids[0], ids[-1])]
            try:
                bodies |= await self._reader.bodies(missing)
            except BaseException:
                self.show(ids)
                raise
            finally:
                self._taking = []
        segments = [
            leased(row, bodies[row.id], self._recent.readable(row.id))
            for row in rows
            if is_whole(row, bodies.get(row.id))
        ]
        if len(segments) < len(rows):
            whole = {segment.id for segment in segments}
            lost = [row for row in rows if row.id not in whole]
            self._leased.difference_update(row.id for row in lost)
            self.hide(row.id for row in lost)
            self._damaged(self.name, lost)
        if not segments:
            return None
        if step_s := found.step_s:
            count, step_s = thinned_together(segments, step_s)
            segments, rest = segments[:count], segments[count:]
            self.allowance.give_back(sum(segment.readings for segment in rest), allowed_by)
            self.show(segment.id for segment in rest)
        lease = Lease(self.name, lane, segments, signal, allowed_by, is_fresh, step_s, found.from_id)
        is_before = lane is Lane.EVIDENCE and segments[0].sequence < self.live_from
        lease.is_late = is_before or (is_fresh and found.order is Order.OLDEST)
        return lease
