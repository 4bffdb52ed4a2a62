"""Leases against a model: whatever is answered, fails or dies, nothing is leased twice at once, lost, or doubled uncounted.

The store, its committer and SQLite's files are real; time is virtual. Appends, commits and leases run beside each other
and may be cut short at any statement. A kill is a copy of the files at such a moment; a commit that failed on a dying
disk may be found there all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.batch import Batch, LogRecords, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import FullError, Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Size
from gateway.store import allowance, committer, leases, planning
from gateway.store.accounts import decode_state
from gateway.store.allowance import MUTE_S, Allowance
from gateway.store.connection import DATABASE, open_writer
from gateway.store.database import Store, StoreSettings
from gateway.store.leases import THIN_READINGS_MAX, Desk
from gateway.store.policy import ALL as ANYTHING
from gateway.store.policy import Lane, Order, Terms
from gateway.store.reading import verify
from gateway.store.records import where_from
from gateway.store.room import Room
from gateway.store.segments import decode_logs, decode_metrics, read_header
from gateway.store.settling import Settling
from gateway.store.shelf import ShelfReader
from gateway.store.taking import ANY, EVERYTHING, origin_of, taking
from hil.virtual_threads import Disk, InlineLoop, inline_sqlite

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from gateway.store.database import Lease
    from gateway.store.taking import Takes
    from gateway.store.writer import Transaction

UPLINKS = ("near", "far")
NAMES = st.sampled_from(UPLINKS)
ALL = frozenset(Priority)
# No segment has more readings than twice what is always allowed.
ORIGINS = (ANY, origin_of("x"), origin_of("y"))
PIECES = st.lists(
    st.tuples(st.sampled_from(Priority), st.sampled_from([1, 4, 7, 10]), st.sampled_from(ORIGINS)),
    min_size=1,
    max_size=4,
)
# What an uplink takes from the next start on; None: what it took.
TAKES = st.sampled_from(
    [
        *[None] * 4,
        *[EVERYTHING] * 3,
        taking(classes=["critical", "normal"]),
        taking(classes=["bulk"]),
        taking(signals=["logs"]),
        taking(signals=["metrics"], classes=["normal"]),
        taking(mappings=["x"]),
        taking(mappings=["x", "y"], signals=["metrics"]),
    ]
)
ALLOWED_MIN, ALLOWED_MAX = 20, 80
LEASED_MAX = 40
SIZES = st.sampled_from([1, 5, 15, LEASED_MAX])
FATES = st.sampled_from(["ack", "ack", "release", "doubt", "put off", "refuse", "thin", "thin", "keep"])
# Of a lease that is sent thinned so much is sent at most.
THIN_READINGS = 3
# What may be leased, by lane and class, and what is thinned.
TERMS = st.one_of(
    st.just(ANYTHING),
    st.builds(
        Terms,
        may=st.tuples(*[st.tuples(*[st.sampled_from([True, True, False])] * len(Priority))] * len(Lane)),
        step_s=st.tuples(*[st.tuples(*[st.sampled_from([0.0, 60.0])] * len(Priority))] * 2, *[st.just((0.0,) * 3)] * 2),
    ),
)
PUT_OFF_S = 1.5
INTERVAL_S = 0.25
# A commit that is looked at takes so long before it is on the disk, and until memory knows that it is.
STALL_S = 0.3
# What is not done after so long goes on beside what comes next.
MOMENT_S = 0.1
# A lease ends sooner than this, with a disk that works.
PATIENCE_S = 20.0
WAITS_MAX = 2
AGE_S = 3600
# What becomes of the commit that is asked for beside something else, and of the next ones; none: it is not asked for.
COMMITS = st.lists(
    st.tuples(st.sampled_from(["written", "lost", "ghost", "full"]), st.sampled_from([0.0, STALL_S])), max_size=3
)
HELD_MANY = 300
# A life is at least so long.
REQUESTS_MIN = 2
# How long any statement takes, and reading what is leased.
SPEEDS = st.tuples(st.sampled_from([0.0, 0.0, 0.02]), st.sampled_from([0.0, STALL_S]))


@dataclass(frozen=True)
class Piece:
    """A segment as it was committed."""

    sequence: int
    priority: Priority
    signal: Signal
    readings: int
    body: bytes

    def is_for(self, takes: Takes) -> bool:
        return takes.has(self.shelf, read_header(self.body).origin)

    @property
    def shelf(self) -> tuple[Priority, Signal]:
        return self.priority, self.signal


def total(pieces) -> int:
    return sum(piece.readings for piece in pieces)


@dataclass(frozen=True)
class Found:
    """What a process that dies leaves of one uplink: its account, and what may have been sent after it was written."""

    held: dict[int, Piece] = field(default_factory=dict)
    delivered: int = 0
    left_out: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    said: int = 0
    in_hand: int = 0
    allowed: int = 0
    thinned: list[tuple[tuple[Priority, Signal], int, int]] = field(default_factory=list)
    is_last: bool = False  # whether nothing was to follow it

    @property
    def added(self) -> int:
        """How much the next start adds to `maybe_twice`."""
        return self.in_hand + min(self.allowed, total(self.held.values()) - self.in_hand)


@dataclass
class Road:
    """What the model knows of one uplink. `copies` is how often each piece may be at the far side, dead or alive."""

    live_from: int = 0
    held: dict[int, Piece] = field(default_factory=dict)
    delivered: int = 0
    left_out: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    leases: list[Lease] = field(default_factory=list)
    taking: set[int] = field(default_factory=set)
    hidden: set[int] = field(default_factory=set)
    put_off: Counter[int] = field(default_factory=Counter)
    owed: set[Priority] = field(default_factory=lambda: set(ALL))
    rests_until_s: float = float("inf")
    copies: Counter[int] = field(default_factory=Counter)
    extra: int = 0  # parts that were sent again from the hand
    unnoted: int = 0  # what left while the disk took nothing, and stands nowhere
    forgiven: int = 0  # of these, what dead processes took with them
    was_mute: bool = False
    waits: int = 0  # for commits, of what is asked just now
    task: asyncio.Task | None = None
    enough: float = float("inf")  # so many readings end the rest
    was_thin: bool = False  # whether it ever asked for thinned leases
    thinned: list[tuple[tuple[Priority, Signal], int, int]] = field(default_factory=list)
    going: Counter[str] = field(default_factory=Counter)  # with the commit under way
    terms: Terms = ANYTHING

    @property
    def leased(self) -> set[int]:
        return {segment.sequence for lease in self.leases for segment in lease.segments}

    def is_thinned(self, piece: Piece) -> bool:
        """Whether a piece lies where all was sent thinned."""
        return any(piece.shelf == shelf and first <= piece.sequence <= last for shelf, first, last in self.thinned)

    def lane(self, piece: Piece) -> Lane:
        """Return where a piece is to be leased from."""
        if self.is_thinned(piece):
            return Lane.THINNED
        return Lane.LIVE if piece.sequence >= self.live_from else Lane.BACKLOG

    def free(self) -> list[Piece]:
        """Return what may be leased now, oldest first."""
        taken = self.leased | self.taking | self.hidden | set(+self.put_off)
        return [self.held[sequence] for sequence in sorted(self.held.keys() - taken)]

    def in_hand(self) -> int:
        """Readings that are being sent, with those between the first and the last of a lease, which are not told apart."""
        taken = [[segment.sequence for segment in lease.segments] for lease in self.leases] + [sorted(self.taking)]
        spans = [(self.held[got[0]].shelf, got[0], got[-1]) for got in taken if got]
        return total(
            piece
            for piece in self.held.values()
            if any(piece.shelf == shelf and first <= piece.sequence <= last for shelf, first, last in spans)
        )

    def doubled(self, pieces: dict[int, Piece], to_come: AbstractSet[int]) -> int:
        """Return how many readings the far side has once too often by the time it has what is still to come."""
        return (
            self.extra
            - self.forgiven
            + sum(
                pieces[sequence].readings * (copies - (sequence not in to_come))
                for sequence, copies in self.copies.items()
                if copies
            )
        )


class SlowDisk(Disk):
    """A medium on which every statement takes as long as is wanted just now."""

    def __init__(self) -> None:
        super().__init__(Random(0))
        self.slow_s = 0.0

    def wait_s(self) -> float:
        return self.slow_s


class LeaseMachine(RuleBasedStateMachine):
    """One shelf and two uplinks."""

    def __init__(self) -> None:
        super().__init__()
        self.undo = contextlib.ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-model-"))
        self.undo.callback(shutil.rmtree, self.folder)
        self.disk = SlowDisk()
        self.undo.enter_context(inline_sqlite(lambda: self.disk))
        self.loop = self.undo.enter_context(asyncio.Runner(loop_factory=InlineLoop))
        patch = self.undo.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(allowance, "READINGS_MIN", ALLOWED_MIN)
        patch.setattr(allowance, "READINGS_MAX", ALLOWED_MAX)
        # Here no two of them become one for want of room.
        patch.setattr(leases, "THINNED_SPANS_MAX", 1000)
        patch.setattr(planning, "THINNED_SPANS_MAX", 1000)
        self.write = committer.write
        patch.setattr(committer, "write", self._write)
        patch.setattr(Room, "lacking", lambda *_: self.squeeze)
        patch.setattr(Room, "keep_ballast", lambda _: None)
        self._look_at_taking(patch)
        self._look_at_waiting(patch)
        self._look_at_leaving(patch)
        self._slow_down_reading(patch)
        self.clock = FakeClock()
        self.places = 0
        self.state_dir = self._place()
        self.roads = {name: Road() for name in UPLINKS}
        self.takes = dict.fromkeys(UPLINKS, EVERYTHING)
        self.pieces: dict[int, Piece] = {}
        self.there: set[int] = set()  # readings by number
        self.next_id = 1
        self.accepted = 0
        self.found: tuple[int, dict[str, Found]] = (0, {name: Found() for name in UPLINKS})
        self.ghost: tuple[Path, tuple[int, dict[str, Found]]] | None = None
        self.read_s = 0.0
        self.flying = 0
        self.fates: deque[tuple[str, float]] = deque()
        self.is_broken = self.was_broken = self.is_over = False
        self.next_takes: dict[str, Takes] = {}
        self.failures = self.commits = 0
        self.squeeze = 0
        self.copy_in_commit = ""
        self.copied: tuple[Path, tuple[int, dict[str, Found]]] | None = None
        self.door: asyncio.Task | None = None
        self.wrong: list[str] = []
        self.store: Store | None = None
        self.run(self._open())

    def run(self, work):
        return self.loop.run(work)

    def _place(self) -> Path:
        self.places += 1
        return self.folder / str(self.places)

    def _copy(self) -> Path:
        place = self._place()
        shutil.copytree(self.state_dir, place)
        return place

    async def _open(self) -> None:
        self.store = None
        self.store = await Store.open(
            state_dir=self.state_dir,
            settings=StoreSettings(recent_bytes=Size(200), max_bytes=Size(1 << 20), max_age=Duration(AGE_S)),
            clock=self.clock,
            uplinks=UPLINKS,
            max_series=100,
            telemetry=Telemetry(),
            commit_interval_s=INTERVAL_S,
            takes=self.takes,
        )
        self.is_over = False
        self.requests = 0
        for road in self.roads.values():
            road.live_from = self.store._committer.next_sequence
        for name, takes in self.takes.items():
            self._check(all(piece.is_for(takes) for piece in self.roads[name].held.values()), f"{name} holds too much")

    def teardown(self) -> None:
        try:
            self.heal()
            self.run(self._finish())
            self.nothing_is_wrong()
            assert verify(self.state_dir).problems == []
        finally:
            self.undo.close()

    async def _finish(self) -> None:
        """Let all roads work: everything is delivered or in the ledger."""
        await self._end_tasks(is_patient=True)
        await asyncio.sleep(PUT_OFF_S)
        for name, road in self.roads.items():
            for lease in [*road.leases]:
                self._settle("ack", lease)
            while await self._lease(name, readings_max=LEASED_MAX):
                self._settle("ack", road.leases[0])
            assert not road.held
        self.nothing_is_wrong()
        await self.store.close()

    # Commits, and what the disk makes of them.

    async def _write(self, connection, work: Transaction):
        """Commit as the store does, with what the disk has in store for it."""
        if self.is_over:
            return await self.write(connection, work)
        new, planned, unnoted = self._plan(work)
        fate, stall_s = self.fates.popleft() if self.fates else ("written", 0.0)
        fate = "lost" if self.is_broken else fate
        try:
            self._copy_in_commit("before", planned)
            self.flying = 1
            await asyncio.sleep(stall_s)
            if fate != "written":
                if fate == "ghost":
                    await self._haunt(work, planned)
                self._fail(fate)
            pages = await self.write(connection, work)
        except BaseException:
            for road in self.roads.values():
                road.hidden.difference_update(where_from(gone)[2] for gone in work.removed)
            raise
        self.flying = 0
        self.found, self.ghost = planned, None
        for name, road in self.roads.items():
            road.unnoted -= unnoted[name]
        self._look_ahead()
        await asyncio.sleep(stall_s)
        self._copy_in_commit("after", planned)
        self._take_effect(work, new)
        return pages

    def _plan(self, work: Transaction):
        """Return the new pieces, what a process that dies after this commit leaves, and what is noted by it."""
        state = decode_state(work.state)
        now_s = asyncio.get_running_loop().time()
        new = {}
        for row, _, _, body, *_ in work.segments:
            priority, signal, sequence = where_from(row.id)
            new[sequence] = Piece(sequence, priority, signal, row.readings, body)
        gone = {where_from(segment_id)[2] for segment_id in work.removed}
        found = {}
        for share in state.shares:
            name, road = share.name, self.roads[share.name]
            self._check(not gone & (road.leased | road.taking), f"{name}: what is being sent is let go")
            road.hidden |= gone & road.held.keys()
            taken, others = self._apart(name, new)
            held = {sequence: piece for sequence, piece in road.held.items() if sequence not in gone} | taken
            self._check(share.left_out == road.left_out + others, f"{name}: the row says another left_out")
            road.going = Counter()
            for sequence in gone & road.held.keys():
                piece = road.held[sequence]
                road.going["diluted" if road.is_thinned(piece) else "evicted"] += piece.readings
            lost = road.lost + road.going
            is_resting = road.rests_until_s > now_s + INTERVAL_S * (1 + committer.NEXT_SLACK)
            is_resting = state.clean or (is_resting and share.held < road.enough)
            if self.store is not None:
                self._check(share.maybe_twice == self.said(name), f"{name}: the row says another maybe_twice")
            said = share.maybe_twice
            found[name] = Found(
                held, road.delivered, share.left_out, lost, said, road.in_hand(), share.allowed, [*road.thinned],
                is_last=state.clean,
            )  # fmt: skip
            # What is to be leased thinned may be all that was held at some time.
            most = max(ALLOWED_MAX, 2 * LEASED_MAX, 2 * state.accepted if road.was_thin else 0)
            allowed = [0] if is_resting else range(ALLOWED_MIN, most + 1)
            self._check(share.allowed in allowed, f"{name} is allowed {share.allowed}, rests: {is_resting}")
        return new, (state.accepted, found), {name: road.unnoted for name, road in self.roads.items()}

    def _apart(self, name: str, new: dict[int, Piece]) -> tuple[dict[int, Piece], int]:
        """Return what of the new pieces an uplink takes, and how many readings it does not."""
        taken = {sequence: piece for sequence, piece in new.items() if piece.is_for(self.takes[name])}
        return taken, total(new.values()) - total(taken.values())

    def _fail(self, fate: str) -> None:
        self.failures += 1
        is_full = fate == "full"
        error = sqlite3.OperationalError("database or disk is full" if is_full else "disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL if is_full else sqlite3.SQLITE_IOERR
        error.sqlite_errorname = "SQLITE_FULL" if is_full else "SQLITE_IOERR"
        raise error

    async def _haunt(self, work: Transaction, planned) -> None:
        """Nothing was written, by what the disk says; the next start may find that it was."""
        place = self._copy()
        connection = await open_writer(place / DATABASE, log_bytes=1 << 20)
        await self.write(connection, work)
        seen = self._place()
        shutil.copytree(place, seen)
        await connection.close()
        self.ghost = seen, planned

    def _copy_in_commit(self, when: str, planned) -> None:
        if self.copy_in_commit == when:
            self.copy_in_commit = ""
            self.copied = self._copy(), planned if when == "after" else self.found

    def _take_effect(self, work: Transaction, new: dict[int, Piece]) -> None:
        gone = {where_from(segment_id)[2] for segment_id in work.removed}
        self.commits += 1
        self.pieces |= new
        self.accepted += total(new.values())
        for piece in new.values():
            is_log = piece.signal is Signal.LOGS
            ids = map(int, decode_logs(piece.body).bodies) if is_log else decode_metrics(piece.body).bits.tolist()
            self.there.update(ids)
        for name, road in self.roads.items():
            road.lost.update(road.going)
            for sequence in gone & road.held.keys():
                del road.held[sequence]
            road.hidden -= gone
            taken, others = self._apart(name, new)
            road.held |= taken
            road.left_out += others
            road.was_mute |= self._is_mute(name)

    def _check(self, is_right: object, sentence: str) -> None:
        """Note what is wrong: here the store would only take it for an error of the disk."""
        if not is_right:
            self.wrong.append(sentence)

    def _slow_down_reading(self, patch: pytest.MonkeyPatch) -> None:
        bodies = ShelfReader.bodies

        async def slow_bodies(reader, ids):
            await asyncio.sleep(self.read_s)
            return await bodies(reader, ids)

        patch.setattr(ShelfReader, "bodies", slow_bodies)

    @precondition(lambda self: self.is_broken)
    @rule()
    def heal(self) -> None:
        self.is_broken = False
        self.fates.clear()
        self.disk.slow_s = self.read_s = 0.0
        self._act(self.store._committer.want)
        self._wait(2.0)
        assert not any(self._is_mute(name) for name in UPLINKS)

    def _is_mute(self, name: str) -> bool:
        return self.store is not None and self.store._desks[name].allowance.is_mute

    # What comes in.

    @initialize(batches=st.lists(PIECES, min_size=1, max_size=6), speed=SPEEDS)
    def begin(self, batches, speed) -> None:
        self.disk.slow_s, self.read_s = speed
        for pieces in batches:
            self.append(pieces, 1, ANY, 0, is_last=True)
            self._wait(1.0)

    @rule(
        pieces=PIECES,
        logs=st.integers(0, 2),
        origin=st.sampled_from(ORIGINS),
        squeeze=st.sampled_from([0, 0, 300, 3000]),
        is_last=st.booleans(),
    )
    def append(self, pieces, logs, origin, squeeze, is_last) -> None:
        """Bring something, for which others may have to go; one after the other."""
        if self.door is None or self.door.done():
            if self.door is not None:
                self.door.result()
            self.squeeze = squeeze
            self.door = self._start(self._append(pieces, logs, origin, is_last=is_last))

    async def _append(self, pieces, logs: int, origin: int, *, is_last: bool) -> None:
        failures = self.failures
        first = self.next_id
        series = self.store.resolve(Series((), "m"))
        now_ns = self.clock.wall_ns()
        batches = []
        for priority, count, made_by in pieces:
            batch = Batch.of(series, now_ns, np.arange(self.next_id, self.next_id + count))
            batches.append((priority, replace(batch, origin=made_by)))
            self.next_id += count
        bodies = tuple(b"%d" % k for k in range(self.next_id, self.next_id + logs))
        self.next_id += logs
        records = LogRecords(np.full(logs, series, np.uint32), np.full(logs, now_ns), bodies, origin)
        ids = set(range(first, self.next_id))
        try:
            await self.store.append(batches, logs=records, is_last=is_last)
        except FullError:
            assert self.failures > failures or self.is_broken or self.squeeze
            assert not ids & self.there
        else:
            assert ids <= self.there

    @rule(seconds=st.sampled_from([0.0, 0.01, MOMENT_S, STALL_S, 3.0, 40.0]), commits=COMMITS)
    def wait(self, seconds, commits) -> None:
        """Acks are committed by themselves, housekeeping goes on."""
        self._ask(commits)
        self._wait(seconds)

    @precondition(lambda self: not self.was_broken)
    @rule(is_rare=st.sampled_from([False] * 9 + [True]))
    def break_disk(self, is_rare) -> None:
        """It takes nothing for so long that data leaves uncounted; once."""
        if is_rare:
            self.is_broken = self.was_broken = True
            self._act(self.store._committer.want)
            self._wait(MUTE_S + 5)
            assert all(self._is_mute(name) for name in UPLINKS)

    def _ask(self, commits) -> None:
        """Ask for a commit now, which fails or takes its time."""
        if commits:
            self.fates = deque(commits)
            self._act(self.store._committer.want)

    def _wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))
        self.clock.advance(int(seconds * NS_PER_S))

    @precondition(lambda self: any(total(road.held.values()) > HELD_MANY for road in self.roads.values()))
    @rule()
    def expire(self) -> None:
        """All that is not being sent is too old."""
        self.clock.advance((AGE_S + 1) * NS_PER_S)
        self.run(self.store.tend())
        self._wait(MOMENT_S)

    # What goes out. Each uplink does one thing after the other, as uplinks/delivery does.

    def _start(self, work) -> asyncio.Task:
        """Begin something, and go on when it is done or a moment is over."""

        async def begin():
            task = asyncio.ensure_future(work)
            await asyncio.wait({task}, timeout=MOMENT_S)
            return task

        return self.run(begin())

    @property
    def in_hand(self) -> list[Lease]:
        return [lease for road in self.roads.values() for lease in road.leases]

    def _act(self, act, *arguments, **by_name) -> None:
        async def acting() -> None:
            act(*arguments, **by_name)

        self.run(acting())

    def _is_busy(self, name: str) -> bool:
        """Whether an uplink still waits for what it asked last."""
        task = self.roads[name].task
        if task is not None and task.done():
            task.result()
            self.roads[name].task = task = None
        return task is not None

    @rule(
        name=NAMES,
        sizes=st.lists(SIZES, min_size=1, max_size=3),
        bytes_max=st.sampled_from([1, 500, 1 << 20, 1 << 20]),
        may_wait=st.sampled_from([True, True, False]),
        terms=TERMS,
        commits=COMMITS,
    )
    def lease(self, name, sizes, bytes_max, may_wait, terms, commits) -> None:
        """Take some in hand."""

        async def work() -> None:
            self.roads[name].terms = terms
            self.roads[name].was_thin |= any(map(any, terms.step_s))
            try:
                for readings_max in sizes:
                    await self._lease(name, readings_max=readings_max, bytes_max=bytes_max, may_wait=may_wait)
            finally:
                self.roads[name].terms = ANYTHING

        if not self._is_busy(name):
            self._ask(commits)
            self.roads[name].task = self._start(work())

    @rule(name=NAMES, sizes=st.lists(SIZES, max_size=6), fates=st.lists(FATES, min_size=6, max_size=6), commits=COMMITS)
    def deliver(self, name, sizes, fates, commits) -> None:
        """One request after the other, as fast as it goes."""

        async def work() -> None:
            for readings_max, fate in zip(sizes, fates, strict=False):
                if await self._lease(name, readings_max=readings_max) and fate != "keep":
                    self._settle(fate, self.roads[name].leases[-1])

        if not self._is_busy(name):
            self._ask(commits)
            self.roads[name].task = self._start(work())

    async def _lease(self, name: str, *, readings_max: int, bytes_max: int = 1 << 20, may_wait: bool = True) -> bool:
        """Lease, and hold it against the rules; return whether there was something."""
        road = self.roads[name]
        road.rests_until_s = 0.0
        self.requests += 1
        road.waits, road.was_mute = 0, self._is_mute(name)
        try:
            lease = await self.store.lease(
                name, readings_max=readings_max, bytes_max=bytes_max, may_wait=may_wait, terms=road.terms
            )
        finally:
            road.taking = set()
        if lease is None:
            free = [piece for piece in road.free() if road.terms.may_take(road.lane(piece), piece.priority)]
            assert not free or (not may_wait and self.store.has_some(name))
            assert not road.free() or self.store.has_some(name)
            return False
        # What comes meanwhile and goes first may be more than is allowed in any case: then that is asked for anew.
        assert road.waits <= WAITS_MAX + (lease.readings > ALLOWED_MIN)
        got = {segment.sequence: segment for segment in lease.segments}
        assert not got.keys() & road.leased
        assert all(segment.body == self.pieces[sequence].body for sequence, segment in got.items())
        is_small = lease.readings <= readings_max and lease.size_bytes <= bytes_max
        assert len(got) == 1 or is_small or (lease.step_s and lease.readings <= THIN_READINGS_MAX)
        assert road.terms.may_take(lease.lane, lease.segments[0].priority)
        may_be_thinned = lease.signal is Signal.METRICS and not lease.is_fresh
        assert lease.step_s == may_be_thinned * road.terms.step_of(lease.lane, lease.segments[0].priority)
        road.leases.append(lease)
        if lease.lane is not Lane.EVIDENCE:
            road.owed.discard(lease.segments[0].priority)
        road.copies.update(got.keys())
        if road.was_mute or self._is_mute(name):
            road.unnoted += lease.readings
        self._look_ahead()
        return True

    def _look_at_taking(self, patch: pytest.MonkeyPatch) -> None:
        """Hold what is chosen against the rules at that moment: reading it from the disk takes time."""
        take = Desk._take

        async def look_and_take(desk, found, **words):
            if not self.is_over:
                self._check_order(desk.name, found.spot, [where_from(row.id)[2] for row in found.rows], found.order)
            return await take(desk, found, **words)

        patch.setattr(Desk, "_take", look_and_take)

    def _look_at_leaving(self, patch: pytest.MonkeyPatch) -> None:
        """Follow what is left out at a start, and hold it against what the uplink takes."""
        leave_out = Settling.leave_out

        def look_and_leave(settling, name, rows):
            for sequence in [where_from(row.id)[2] for row in rows]:
                piece = self.roads[name].held.pop(sequence)
                self._check(not piece.is_for(self.takes[name]), f"{name}: something is left out that it takes")
                self.roads[name].left_out += piece.readings
            leave_out(settling, name, rows)

        patch.setattr(Settling, "leave_out", look_and_leave)

    def _look_at_waiting(self, patch: pytest.MonkeyPatch) -> None:
        """Count for how many commits that succeed somebody waits."""
        wait = Allowance.wait

        async def count_and_wait(waiting):
            for name, desk in self.store._desks.items():
                if desk.allowance is waiting:
                    self.roads[name].waits += 1
                    assert self.roads[name].waits <= WAITS_MAX + 1, f"{name} waits for ever"
            return await wait(waiting)

        patch.setattr(Allowance, "wait", count_and_wait)

    def _check_order(self, name: str, spot, got: list[int], order: Order) -> None:
        road, (lane, shelf) = self.roads[name], spot
        free = road.free()
        assert set(got) <= {piece.sequence for piece in free}
        evidence = self.store._desks[name].evidence
        of_shelf = [
            piece.sequence
            for piece in free
            if piece.shelf == shelf
            and (piece.sequence in evidence if lane is Lane.EVIDENCE else road.lane(piece) is lane)
        ]
        is_turn = lane not in {Lane.THINNED, Lane.EVIDENCE}
        assert (order is Order.NEWEST) == (shelf[0] in road.owed and is_turn)
        assert got == (of_shelf[-1:] if order is Order.NEWEST else of_shelf[: len(got)])
        road.taking = set(got)

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 5), fate=FATES, rejected=st.integers(0, 5), commits=COMMITS)
    def settle(self, which, fate, rejected, commits) -> None:
        """Answer one lease; a second answer changes nothing."""
        lease = self.in_hand[which % len(self.in_hand)]
        if fate != "keep" and not self._is_busy(lease.uplink):
            self._ask(commits)
            self._act(self._settle, fate, lease, rejected)
            self._act(self.store.ack, lease)
            self._act(self.store.release, lease, maybe_delivered=True)

    def _settle(self, fate: str, lease: Lease, rejected: int = 0) -> None:
        road = self.roads[lease.uplink]
        road.leases.remove(lease)
        got = [segment.sequence for segment in lease.segments]
        if fate == "thin" and lease.lane not in {Lane.THINNED, Lane.EVIDENCE}:
            readings = min(THIN_READINGS, lease.readings)
            self.store.thinned(lease, readings=readings)
            self.store.thinned(lease, readings=readings)
            road.thinned.append((self.pieces[got[0]].shelf, where_from(lease.from_id)[2], got[-1]))
            road.copies.subtract(got)
            road.extra += readings
            return
        if fate in {"release", "doubt", "put off"}:
            put_off_s = PUT_OFF_S if fate == "put off" else 0.0
            if put_off_s:
                road.put_off.update(got)
                # The store's own timer is for the same moment, in virtual time.
                self.loop.get_loop().call_later(put_off_s, road.put_off.subtract, got)
            self.store.release(lease, maybe_delivered=fate != "release", put_off_s=put_off_s)
            if lease.is_fresh:
                road.owed.add(lease.segments[0].priority)
            if fate == "release":
                road.copies.subtract(got)
            return
        if fate in {"ack", "thin"}:
            rejected = min(rejected, lease.readings)
            self.store.ack(lease, rejected=rejected)
            road.lost["rejected"] += rejected
        else:
            rejected = lease.readings
            self.store.refuse(lease, "refused", "no")
            road.lost["refused"] += rejected
        road.delivered += lease.readings - rejected
        for sequence in got:
            del road.held[sequence]

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 5), readings=SIZES)
    def send_part_again(self, which, readings) -> None:
        """A part of what is in hand got no answer; when that is written it is sent again."""
        lease = self.in_hand[which % len(self.in_hand)]
        if not self._is_busy(lease.uplink):
            work = self._send_part_again(lease.uplink, lease, min(readings, lease.readings))
            self.roads[lease.uplink].task = self._start(work)

    async def _send_part_again(self, name: str, lease: Lease, readings: int) -> None:
        road = self.roads[name]
        road.waits, road.was_mute = 0, self._is_mute(name)
        await self.store.count_maybe_twice(lease, readings)
        road.extra += readings
        if road.was_mute or self._is_mute(name):
            road.unnoted += readings
        self._look_ahead()

    @rule(seconds=st.sampled_from([0.1, 5.0]))
    def find(self, seconds) -> None:
        """Something is found about what comes in just now: what came in so long before and after goes first."""
        for name in UPLINKS:
            self.store.evidence.keep(name, seconds)
        self._act(self.store.evidence.found)

    @rule(name=NAMES, rests_s=st.sampled_from([0.0, 0.2, 5.0, 1000.0]), enough=st.sampled_from([0, 0, 50]))
    def turn(self, name, rests_s, enough) -> None:
        """The road is open again; or nothing is sent for so long, or until so many readings are held."""
        road = self.roads[name]
        if self._is_busy(name):
            return
        if not rests_s:
            road.live_from, road.owed = self.store._committer.next_sequence, set(ALL)
            self._act(self.store.link_up, name)
            return

        def rest() -> None:
            # In one step: a commit that is planned before this one knows nothing of it.
            road.rests_until_s = self.loop.get_loop().time() + rests_s
            self.store.rest(name, rests_s)

        self._act(rest)
        if enough:
            road.task = self._start(self._combine(road, name, rests_s, enough))

    async def _combine(self, road: Road, name: str, seconds: float, enough: int) -> None:
        road.enough = enough
        try:
            async with asyncio.timeout(seconds):
                await self.store.wait_for_readings(name, enough)
        except TimeoutError:
            pass
        finally:
            road.enough = float("inf")

    @precondition(lambda self: any(road.task for road in self.roads.values()))
    @rule(name=NAMES, is_patient=st.booleans())
    def end_task(self, name, is_patient) -> None:
        """Let what an uplink waits for come to its end, or give it up."""
        self.run(self._end_task(name, is_patient=is_patient and not self.is_broken))

    async def _end_task(self, name: str, *, is_patient: bool) -> None:
        road = self.roads[name]
        if road.task is None:
            return
        if road.enough < float("inf") or not is_patient:
            road.task.cancel()
        _, late = await asyncio.wait({road.task}, timeout=PATIENCE_S)
        assert not late, f"{name} still waits for a lease"
        task, road.task = road.task, None
        if not task.cancelled():
            task.result()

    async def _end_tasks(self, *, is_patient: bool) -> None:
        for name in UPLINKS:
            await self._end_task(name, is_patient=is_patient)
        if self.door is not None:
            await asyncio.wait({self.door}, timeout=PATIENCE_S)
            self.door.result()
            self.door = None

    # Ends.

    @precondition(lambda self: self.requests >= REQUESTS_MIN)
    @rule(
        how=st.sampled_from(
            ["in order", "killed", "killed", "found as if written", "killed again before", "killed again after"]
        ),
        after_s=st.sampled_from([0.0, 0.01, 0.05, STALL_S]),
        speed=SPEEDS,
        takes=st.tuples(TAKES, TAKES),
    )
    def end(self, how, after_s, speed, takes) -> None:
        """Close it; or kill it at any moment, and maybe the next one in its first commit; the next takes something else."""
        self.disk.slow_s, self.read_s = speed
        self.next_takes = {name: one for name, one in zip(UPLINKS, takes, strict=True) if one is not None}
        if how == "in order":
            self.run(self._restart())
            return
        self._wait(after_s)
        left = self.ghost if how == "found as if written" and self.ghost else (self._copy(), self.found)
        self.copied, self.copy_in_commit = None, how.removeprefix("killed again ")
        self.run(self._die(*left))
        self.copy_in_commit = ""
        if self.copied is not None:
            self.run(self._die(*self.copied))

    async def _die(self, place: Path, found) -> None:
        self.is_over = True
        tasks = {task for task in [self.door, self.store._task, *(road.task for road in self.roads.values())] if task}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self.store._end()
        self.store._lock.close()
        shutil.rmtree(self.state_dir)
        self.state_dir = place
        await self._come_back(found)

    async def _come_back(self, found) -> dict[str, int]:
        """Open what a process left, and hold what it counts against the rules; return what it adds to `maybe_twice`."""
        self.door, self.ghost = None, None
        self.found = found
        self.accepted, accounts = found
        self.takes |= self.next_takes
        for name, left in accounts.items():
            road = self.roads[name]
            self.pieces |= left.held
            self.roads[name] = Road(
                held=dict(left.held),
                delivered=left.delivered,
                left_out=left.left_out,
                lost=left.lost.copy(),
                copies=road.copies,
                extra=road.extra,
                forgiven=road.forgiven + road.unnoted,
                thinned=[*left.thinned],
            )
        self.is_over = False
        await self._open()
        added = {name: self.said(name) - left.said for name, left in accounts.items()}
        for name, left in accounts.items():
            assert added[name] == left.added, f"{name}: {added[name]} added by a death, {left.added} expected"
        return added

    async def _restart(self) -> None:
        for name in UPLINKS:
            await self._end_task(name, is_patient=False)
        said, in_hand = (
            {name: act(name) for name in UPLINKS} for act in (self.said, lambda name: self.roads[name].in_hand())
        )
        before = self.found
        await self.store.close()
        is_orderly = self.found is not before and all(left.is_last for left in self.found[1].values())
        await self._come_back(self.found)
        for name in UPLINKS:
            assert not is_orderly or self.said(name) == said[name] + in_hand[name]

    # What must hold.

    def said(self, name: str) -> int:
        return self.store.status()["uplinks"][name]["maybe_twice"]

    @invariant()
    def nothing_is_wrong(self) -> None:
        self._look_ahead()
        assert self.wrong == [], self.wrong
        status = self.store.status()
        assert status["accepted"] == self.accepted
        for name, road in self.roads.items():
            account = status["uplinks"][name]
            lost = Counter(account["ledger"])
            evicted = lost.pop("evicted_full", 0) + lost.pop("expired_age", 0)
            assert account["thinned"] <= account["maybe_twice"]
            assert account["held"] == total(road.held.values())
            held = {priority.name.lower(): 0 for priority in Priority}
            for piece in road.held.values():
                held[piece.shelf[0].name.lower()] += piece.readings
            assert account["held_by_class"] == held
            assert account["leased"] == sum(lease.readings for lease in road.leases)
            assert account["delivered"] == road.delivered
            assert lost + Counter(evicted=evicted) == +road.lost
            assert account["left_out"] == road.left_out
            known = account["delivered"] + account["held"] + sum(account["ledger"].values())
            assert self.accepted == known + account["left_out"]
            doubled = road.doubled(self.pieces, road.held.keys() - road.leased)
            assert doubled <= account["maybe_twice"], f"{name}: {doubled} doubled, {account['maybe_twice']} said"

    def _look_ahead(self) -> None:
        """Whatever a process that died now would leave: the next one would count all that came twice."""
        for _, accounts in [self.found, *([self.ghost[1]] if self.ghost else [])]:
            for name, left in accounts.items():
                road = self.roads[name]
                doubled = road.doubled(self.pieces, left.held.keys()) - road.unnoted
                said = left.said + left.added
                self._check(doubled <= said, f"{name}: dead now, {doubled} doubled, {said} would be said")


def examples(count: int, *, steps: int = 40) -> settings:
    return settings(
        max_examples=count, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )


class NightlyLeaseMachine(LeaseMachine):
    """The same, for long."""


LeaseMachine.TestCase.settings = examples(150)
NightlyLeaseMachine.TestCase.settings = examples(3000, steps=80)
TestLeases = pytest.mark.slow(pytest.mark.timeout(1200)(LeaseMachine.TestCase))
TestLeasesForLong = pytest.mark.nightly(NightlyLeaseMachine.TestCase)
