"""What of a full shelf is written anew, in which order: many small ones as one first, then thinned. Must not write.

Joining loses nothing, so it comes before all else. Then each class, the least important first, is walked from its
oldest segment to its newest, again and again: each time readings are thinned at the least step that halves what they
take, until no step does. So what came first is coarsest, and of what came last as much is whole as there is room for.
What came in around findings is passed over until there is nothing else; what somebody is sending, log records, spans
and OTLP messages always are.

What different mappings made and is told apart lies side by side; each of them is walked as if it lay there alone.

A commit looks at so much and no more, and where a walk ended it goes on with the next one.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.core.contracts import Priority, Signal
from gateway.store.coarsening import coarsen, join
from gateway.store.records import SEQUENCE_END, place
from gateway.store.rewriting import Member, Rewriting
from gateway.store.room import Candidate
from gateway.store.segments import FRONT_BYTES_MAX, Form, SegmentError, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import aiosqlite

    from gateway.store.accounts import Accounts
    from gateway.store.leases import Desk
    from gateway.store.segments import SegmentHeader
    from gateway.store.spans import Spans

# What becomes one segment at most: so many rows, bytes and readings. Decoded they take a few megabytes at a time.
ROWS_MAX: Final = 1024
BYTES_MAX: Final = 512 << 10
READINGS_MAX: Final = 1 << 17
# On a small shelf less, for what takes its place has to find room beside it.
SHELF_SHARE: Final = 16
# To decode one takes as long as so many readings more, however few it has.
SEGMENT_READINGS: Final = 512
# Looked at with one commit: some ten milliseconds for each of three pieces, and more than any commit brings. Where no
# step is worth it, all of them have been tried. On the way so many rows are passed over in each class.
LOOK_ROWS_MAX: Final = 4 * ROWS_MAX
LOOK_BYTES_MAX: Final = 8 * BYTES_MAX
LOOK_READINGS_MAX: Final = 3 * READINGS_MAX
VAIN_TIMES: Final = 6
# With many series a piece has to be larger, so that there is enough of each to be thinned: so many readings of each;
# and so many times as large at most.
SERIES_READINGS: Final = 16
WIDTH_MAX: Final = 4
LOOK_MAX: Final = 512  # rows in one query by their ids
# Little beside each other, as what came last, would have to be thinned much to become half: it has time.
SMALL_SHARE: Final = 4
# Of larger ones the heads are little; and of fewer there will soon be more.
SMALL_BYTES_MAX: Final = 512
JOIN_BYTES_MIN: Final = 16 << 10
# What becomes one goes as one: nothing must be too old much sooner for it.
AGE_SHARE: Final = 32
NOWHERE: Final[Mapping[int, int]] = {}
_FORMS: Final = frozenset({Form.COLUMNS, Form.REWRITTEN})


class Key(NamedTuple):
    """What segments have in common that may become one: whose they are still, and how everybody looks at them."""

    boot: int
    done: int
    needed: int
    origin: int
    is_evidence: bool
    by_share: tuple[bool, ...]
    by_desk: tuple[tuple[bool, ...], ...]


@dataclass(slots=True, eq=False)
class Walk:
    """One way over a class, by sequence. Before `floor` nothing is worth it any more."""

    priority: Priority
    is_joining: bool = False
    is_evidence: bool = False
    next: int = 0
    floor: int = 0
    has_gained: bool = False
    blocked: int | None = None  # the first that was passed over since somebody was sending it
    small: int | None = None  # and since there was too little beside it
    takes_small: bool = False
    is_over: bool = False  # as far as this commit is concerned
    has_chosen: bool = False  # for this commit
    has_turned: bool = False  # in this commit: a second time is not worth it
    keeps_floor: bool = False  # behind it lies what was passed over since this commit had chosen it already
    rows_left: int = 0  # to be looked at by it
    reached: dict[int, int] = field(default_factory=dict)  # by origin, where that is beyond `next`
    width: int = 1  # how many times as much becomes one, or several, where there are so many series
    stay: int | None = None  # to be joined there: the first beside which there will soon be more

    def begin_anew(self, sequence: int, *, takes_small: bool = False) -> None:
        """Begin once more from there. What lies before it and has yet to be looked at is not forgotten."""
        self.keeps_floor &= self.floor < sequence
        if self.blocked is not None and self.blocked >= sequence:
            self.blocked = None
        self.next, self.floor = sequence, min(sequence, self.floor)
        self.has_gained, self.takes_small = False, takes_small
        self.small = None
        self.reached.clear()

    def go_on(self, sequence: int, *, reached: Mapping[int, int] = NOWHERE) -> None:
        """Go on from there, and not back before what was reached of some origins."""
        self.next = sequence
        self.reached = {origin: at for origin, at in {**self.reached, **reached}.items() if at > sequence}

    def passed(self, sequence: int, *, was_worth: bool, reached: Mapping[int, int] = NOWHERE) -> None:
        """Go on from there."""
        self.go_on(sequence, reached=reached)
        self.has_gained |= was_worth
        self.has_chosen |= was_worth
        if not (self.has_gained or self.keeps_floor) and self.blocked is None and self.small is None:
            self.floor = sequence

    def passed_small(self, first: int, sequence: int, *, reached: Mapping[int, int]) -> None:
        """Go on from there, and remember where to come back to."""
        self.small = first if self.small is None else self.small
        self.go_on(sequence, reached=reached)


class Rows(NamedTuple):
    """Rows of a class from a sequence on, and whether these are all."""

    priority: Priority
    first: int
    rows: Sequence[tuple[int, ...]]
    is_all: bool


class Run(NamedTuple):
    """What may become one. What lies behind it is looked at from `after` on, of its own origin from where it ends."""

    members: list[Member]
    after: int
    others: int  # the sequence of the first of another origin that was passed over on the way, 0: none was
    is_last: bool  # whether there is no more of it
    is_full: bool  # whether there may be more, which would have been too much at once

    @property
    def first(self) -> int:
        """The sequence of the first of them."""
        return self.members[0].row.sequence

    @property
    def reached(self) -> dict[int, int]:
        """Where it ends, by origin."""
        return self.reached_by(len(self.members))

    def reached_by(self, count: int) -> dict[int, int]:
        """Return where the first `count` of them end, by origin."""
        last = self.members[count - 1]
        return {last.header.origin: last.row.sequence + 1}


class Diluter:
    """Finds what is written anew, one piece after the other; `begin` before the first of a commit."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        accounts: Accounts,
        desks: Mapping[str, Desk],
        evidence: Spans,
        *,
        max_bytes: int,
        max_age_s: float,
    ) -> None:
        self._connection = connection
        self._accounts = accounts
        self._desks = desks
        self._evidence = evidence
        self._share_bytes = max_bytes // SHELF_SHARE
        self._age_ns = int(max_age_s * 1e9) // AGE_SHARE
        classes = [*reversed(Priority)]
        self._walks = [
            *(Walk(priority, is_joining=True) for priority in classes),
            *(Walk(priority) for priority in classes),
            *(Walk(priority, is_evidence=True) for priority in classes),
        ]
        self._bytes_left = self._readings_left = 0
        self._rows: Rows | None = None  # of this commit, which nobody changes before it is written
        self._may_go: Callable[[int], bool] = bool
        self._done: Mapping[int, int] = {}
        self._chosen: set[int] = set()
        self.too_many: dict[Priority, int] = {}  # series, where what was looked at last has too many to be thinned

    @property
    def places(self) -> list[int]:
        """From which sequence on each class is thinned next, by `Priority`; none where that has not begun."""
        walks = self._thinning
        return [walks[priority].next for priority in Priority] if any(walk.next for walk in walks.values()) else []

    @places.setter
    def places(self, places: Sequence[int]) -> None:
        for priority, sequence in zip(Priority, places, strict=False):
            # Of what lies before it nobody knows whether the last round was for nothing.
            self._thinning[priority].next, self._thinning[priority].has_gained = sequence, bool(sequence)

    @property
    def _thinning(self) -> dict[Priority, Walk]:
        return {walk.priority: walk for walk in self._walks if not (walk.is_joining or walk.is_evidence)}

    def begin(self, *, done: Mapping[int, int], may_go: Callable[[int], bool]) -> None:
        """Begin to look for a commit; `done` are acks that it will write, and `may_go` says who may be touched."""
        self._bytes_left, self._readings_left = LOOK_BYTES_MAX, LOOK_READINGS_MAX
        self._done, self._may_go = done, may_go
        self._chosen.clear()
        self._rows = None
        for walk in self._walks:
            if walk.is_over and walk.keeps_floor:
                # What the last commit chose may be worth it once more.
                walk.begin_anew(walk.floor)
            walk.is_over = walk.has_chosen = walk.has_turned = False
            walk.rows_left = LOOK_ROWS_MAX

    @property
    def is_exhausted(self) -> bool:
        """Whether all has been looked at that may be worth it, with the next commits too."""
        return all(walk.is_over and (walk.is_joining or not walk.has_gained) for walk in self._walks)

    @property
    def is_between(self) -> bool:
        """Whether something lies between small ones that were found, with no page that it does not share."""
        return any(walk.is_joining and walk.has_chosen and walk.reached for walk in self._walks)

    def end(self) -> None:
        """Give back the memory that looking takes."""
        self._rows = None

    async def next(self) -> Rewriting | None:
        """Return the next piece, None where there is none, or where enough has been looked at."""
        for walk in self._walks:
            while not walk.is_over and walk.rows_left > 0 and min(self._bytes_left, self._readings_left) > 0:
                if (found := await self._step(walk)) is not None:
                    self._chosen.update(found.ids)
                    return found
        return None

    def is_as_it_was(self, rewriting: Rewriting, done: Mapping[int, int]) -> bool:
        """Whether nobody has begun to send any of it, or settled it, or found something in it, since it was found."""
        key, spans = None, self._spans
        for member in rewriting.members:
            row = member.row
            is_free = not any(desk.is_leased(row.id) for desk in self._desks.values())
            if not is_free or row.done | done.get(row.id, 0) != member.done:
                return False
            found = self._key(member, spans)
            if key not in {None, found} or (rewriting.step_s and found.is_evidence and not rewriting.is_evidence):
                return False
            key = found
        return True

    @property
    def _spans(self) -> list[list[tuple[int, int]]]:
        return [share.thinned for share in self._accounts.shares.values()]

    async def _step(self, walk: Walk) -> Rewriting | None:
        """Look at the next rows of a walk."""
        found_rows = await self._rows_from(walk)
        if not found_rows.rows:
            self._reached_end(walk)
            return None
        run = self._run(walk, found_rows.rows)
        if run is None:
            return None
        size_bytes = sum(member.row.size_bytes for member in run.members)
        # At the end there will soon be more of them.
        is_last = run.is_last and found_rows.is_all
        if walk.is_joining and size_bytes < JOIN_BYTES_MIN:
            if is_last and walk.stay is None:
                walk.stay = run.first
            walk.go_on(run.after, reached=run.reached)
            return None
        # With others behind it these come first.
        is_last &= not run.others
        is_small = not run.is_full and size_bytes < self._bytes_max(walk) // SMALL_SHARE
        if is_small and not (walk.is_joining or walk.takes_small):
            walk.passed_small(run.first, run.first if is_last else run.after, reached=run.reached)
            if is_last:
                self._reached_end(walk)
            return None
        found = await self._make(walk, run)
        if found is None and is_last:
            walk.go_on(run.first)
            self._reached_end(walk)
        return found

    async def _rows_from(self, walk: Walk) -> Rows:
        known = self._rows
        if known is not None and known.priority is walk.priority and known.first <= walk.next:
            begin = bisect_left(known.rows, self._id(walk, walk.next), key=itemgetter(0))
            if known.is_all or 2 * (len(known.rows) - begin) > ROWS_MAX:
                return known._replace(rows=known.rows[begin:])
        rows = await self._connection.execute_fetchall(
            "SELECT id, done, readings, boot, stored_ns, first_ns, last_ns, length(body), substr(body, 1, ?)"
            " FROM shelf WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (
                FRONT_BYTES_MAX,
                place(walk.priority, Signal.METRICS, walk.next),
                place(walk.priority, Signal.METRICS, SEQUENCE_END),
                ROWS_MAX,
            ),
        )
        found = [tuple(row) for row in rows]
        self._rows = Rows(walk.priority, walk.next, found, is_all=len(found) < ROWS_MAX)
        return self._rows

    def _reached_end(self, walk: Walk) -> None:
        """Begin anew if that may be worth something; with what this commit has changed already the next one does."""
        blocked = walk.blocked
        if walk.stay is not None:
            walk.go_on(walk.stay)
            walk.stay = None
            walk.reached.clear()
        if walk.is_joining or (walk.has_gained and walk.has_turned):
            walk.is_over = True
        elif walk.has_gained:
            walk.has_turned = walk.has_chosen
            walk.begin_anew(walk.floor)
        elif not walk.has_gained and blocked is not None and self._may_go(self._id(walk, blocked)):
            walk.begin_anew(blocked)
        elif not walk.has_gained and walk.small is not None:
            walk.begin_anew(walk.small, takes_small=True)
        else:
            walk.is_over = True

    def _bytes_max(self, walk: Walk) -> int:
        return min(walk.width * BYTES_MAX, self._share_bytes)

    @staticmethod
    def _id(walk: Walk, sequence: int) -> int:
        return place(walk.priority, Signal.METRICS, sequence)

    def _run(self, walk: Walk, rows: Sequence[tuple[int, ...]]) -> Run | None:
        """Return the first of `rows` that may become one, and have the walk pass over what comes before them."""
        run: list[Member] = []
        key: Key | None = None
        size_bytes = readings = others = 0
        is_full = False
        bytes_max = self._bytes_max(walk)
        spans = self._spans
        for columns in rows:
            walk.rows_left -= 1
            sequence, header = columns[0] & (SEQUENCE_END - 1), _header_of(columns[-1])
            if header is not None and sequence < walk.reached.get(header.origin, 0):
                if not run:
                    walk.passed(sequence + 1, was_worth=False)
                continue
            if run and header is not None and header.origin != run[0].header.origin:
                others = others or sequence
                continue
            member = self._member(walk, columns, header)
            if member is None:
                if run:
                    break
                walk.passed(sequence + 1, was_worth=False)
                continue
            row = member.row
            size_bytes += row.size_bytes
            readings += _work_of(member)
            found = self._key(member, spans)
            is_full = bool(run) and (size_bytes > bytes_max or readings > walk.width * READINGS_MAX)
            if is_full or (run and (found != key or row.stored_ns - run[0].row.stored_ns > self._age_ns)):
                break
            run.append(member)
            key = found
        else:
            return Run(run, others or run[-1].row.sequence + 1, others, is_last=True, is_full=is_full) if run else None
        return Run(run, others or run[-1].row.sequence + 1, others, is_last=False, is_full=is_full)

    def _member(self, walk: Walk, columns: tuple[int, ...], header: SegmentHeader | None) -> Member | None:
        """Return a row that this walk may change, None for another."""
        *numbers, _ = columns
        if header is None or not all(isinstance(number, int) for number in numbers):
            return None
        row = Candidate(*numbers)
        done = row.done | self._done.get(row.id, 0)
        is_itself = (header.sequence, header.readings, header.boot) == (row.sequence, row.readings, row.boot)
        if not is_itself or header.form not in _FORMS or not self._accounts.needed(row.sequence) & ~done:
            return None
        if walk.is_joining:
            is_fit = not header.step_s and row.size_bytes <= SMALL_BYTES_MAX
        else:
            is_fit = (row.sequence in self._evidence) == walk.is_evidence
        if not is_fit:
            return None
        if row.id in self._chosen:
            walk.keeps_floor = True
        elif not self._may_go(row.id):
            walk.blocked = row.sequence if walk.blocked is None else walk.blocked
        else:
            return Member(row, header, done)
        return None

    def _key(self, member: Member, spans: Sequence[Sequence[tuple[int, int]]]) -> Key:
        row, sequence = member.row, member.row.sequence
        return Key(
            row.boot,
            member.done,
            self._accounts.needed(sequence),
            member.header.origin,
            sequence in self._evidence,
            tuple(any(first <= row.id <= last for first, last in of) for of in spans),
            tuple(
                (sequence >= desk.live_from, sequence in desk.evidence, desk.is_put_off(row.id))
                for desk in self._desks.values()
            ),
        )

    async def _make(self, walk: Walk, run: Run) -> Rewriting | None:
        """Make one of a run, where that is worth it."""
        members = run.members
        step_s = max(member.header.step_s for member in members)
        bodies = await self._bodies([member.row.id for member in members])
        if walk.is_joining:
            found = await asyncio.to_thread(join, bodies)
        else:
            found = await asyncio.to_thread(lambda: coarsen(bodies, step_s=step_s))
        width = min(-(-SERIES_READINGS * found.series // READINGS_MAX), WIDTH_MAX)
        if width > walk.width:
            # Once more, with more of each.
            walk.width = width
            return None
        times = 1 if found.pressed is not None else VAIN_TIMES
        self._bytes_left -= sum(map(len, bodies))
        self._readings_left -= sum(SEGMENT_READINGS + times * member.row.readings for member in members)
        # Behind a damaged one it goes on; whoever leases that one sees it.
        reached = run.reached_by(max(found.members, 1))
        (end,) = reached.values()
        after = min(run.others, end) if run.others else end
        walk.passed(after, was_worth=found.pressed is not None, reached=reached)
        if found.pressed is None:
            if found.series and walk.width == WIDTH_MAX:
                # As large as a piece may be there is too little of each.
                self.too_many[walk.priority] = found.series
            return None
        self.too_many.pop(walk.priority, None)
        origin = members[0].header.origin
        pressed, *more = [replace(part, origin=origin) for part in (found.pressed, *found.more)]
        return Rewriting(
            members[: found.members],
            pressed,
            found.step_s,
            bodies[0],
            is_evidence=walk.is_evidence,
            more=list(zip(more, bodies[1:], strict=False)),
        )

    async def _bodies(self, ids: Sequence[int]) -> list[bytes]:
        found: list[bytes] = []
        for start in range(0, len(ids), LOOK_MAX):
            some = ids[start : start + LOOK_MAX]
            rows = await self._connection.execute_fetchall(
                f"SELECT body FROM shelf WHERE id IN ({', '.join('?' * len(some))}) ORDER BY id",  # noqa: S608  marks alone
                some,
            )
            found += [bytes(body) for (body,) in rows]
        assert len(found) == len(ids)
        return found


def _work_of(member: Member) -> int:
    """Return how long it takes to decode and thin, told in readings."""
    return SEGMENT_READINGS + member.row.readings


def _header_of(head: object) -> SegmentHeader | None:
    """Return what a body begins with, None where that is not ours."""
    try:
        return read_header(head) if isinstance(head, bytes) else None
    except SegmentError:
        return None
