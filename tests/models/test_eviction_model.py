"""A small shelf that overflows against a model of sets: what goes, in which order, whose it was, and what is left.

The model knows readings, who still lacks them and the promises: the least important class goes first, the oldest first
within it, before all others what only an uplink that is configured no more still waits for; nothing goes while there
is room, nothing that somebody is sending, and what went is in the ledger of all who lacked it, with its times. Where it
is diluted, what is left is what a few lines of plain Python leave of it, it is half at most, and nothing goes as long as
anything can be diluted. What an uplink does not take is left out for it alone; what none takes stays while there is room,
and is nobody's loss.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.core.batch import MONOTONIC, Batch, LogRecords, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import FullError, Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Size
from gateway.store import committer, room
from gateway.store.coarsening import coarsen, size_on_disk
from gateway.store.connection import DATABASE
from gateway.store.database import Lease, Store, StoreSettings
from gateway.store.reading import read_held, verify
from gateway.store.records import STATE_ID, where_from
from gateway.store.segments import decode_logs, decode_metrics, read_header
from gateway.store.taking import ANY, EVERYTHING, Takes, origin_of, taking

KIB = 1 << 10
MIB = 1 << 20
NAMES = ("a", "b", "c")
MAX_AGE_S = 2000
GRACE_S = 10**9
# What one commit lets go at most of a class and signal; what is more goes with the next.
EVICT_MAX = 24
# The shelf is on a real disk; the copies that are looked at after each step need not be.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
# What a commit writes beside segments: pages of the tree, the ledger, the state.
TOLERANCE = 24 * KIB

PIECE = st.tuples(st.sampled_from(Priority), st.integers(8, 90 * KIB))
LOGS = st.lists(st.integers(1, 30 * KIB), max_size=2)
LIMITS = st.sampled_from([MIB, MIB, MIB, 3 * MIB // 2])
WHICH = st.lists(st.integers(0, 9), min_size=1, max_size=6)
WHEN_FULL = st.sampled_from(["dilute", "dilute", "drop_oldest", "drop_oldest", "refuse"])
# What uplinks take, and who made a piece.
TAKES = st.fixed_dictionaries(
    dict.fromkeys(
        NAMES,
        st.sampled_from(
            [
                EVERYTHING,
                EVERYTHING,
                taking(classes=["critical", "normal"]),
                taking(classes=["bulk"]),
                taking(signals=["metrics"]),
                taking(mappings=["x"]),
                taking(mappings=["x", "y"], classes=["normal", "bulk"]),
            ]
        ),
    )
)
EVERYBODY = dict.fromkeys(NAMES, EVERYTHING)
ORIGINS = (ANY, origin_of("x"), origin_of("y"))
# So far apart are the readings of a piece.
SPACINGS_NS = [1000, NS_PER_S, 40 * NS_PER_S]
# Less, beside each other, has to wait for more.
DILUTABLE_BYTES_MIN = 16 * KIB


async def acting(act, *arguments, **by_name) -> None:
    """Do something that takes no time, inside of the event loop."""
    act(*arguments, **by_name)


def rows_of(body: bytes) -> list[tuple[int, int, int]]:
    """Return flags, time and value of each reading in a segment."""
    batch = decode_metrics(body)
    return list(zip(batch.flags.tolist(), batch.time_ns.tolist(), batch.bits.tolist(), strict=True))


def left_of(rows: list[tuple[int, int, int]], step_ns: int) -> list[tuple[int, int, int]]:
    """Return the first, least, greatest and last reading of each step, one clock at a time."""
    steps: dict[tuple[int, int], list[int]] = {}
    for at, (flags, time_ns, _) in sorted(enumerate(rows), key=lambda row: row[1][1]):
        steps.setdefault((flags, time_ns // step_ns), []).append(at)
    left = set()
    for places in steps.values():
        left |= {places[0], places[-1]}
        left |= {least(places, key=lambda at: float(rows[at][2])) for least in (min, max)}
    return [rows[at] for at in left]


@dataclass(frozen=True)
class Unit:
    """What one commit brought of one class and signal: it is kept and goes as one. Times are Unix ns."""

    number: int  # in the order in which they came
    priority: Priority
    readings: int
    first_ns: int
    last_ns: int
    stored_ns: int
    body: bytes
    origin: int = ANY


@dataclass
class Share:
    """One uplink's side, as sets."""

    lacking: set[int] = field(default_factory=set)
    delivered: int = 0
    left_out: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    times: dict[str, tuple[int, int]] = field(default_factory=dict)
    came_since: list[int] | None = None  # units, and since when it is configured no more


class Look(NamedTuple):
    """What lies on the disk."""

    sizes: dict[int, int]
    used_bytes: int
    log_bytes: int
    changed: dict[int, bytes]
    refused: dict[int, int]  # bytes of what is set aside, by its number there

    def set_aside_bytes(self, before: Look) -> int:
        """Return how much more was set aside since."""
        return sum(size for number, size in self.refused.items() if number not in before.refused)


class EvictionMachine(RuleBasedStateMachine):
    """One small shelf, three uplinks that may be down or gone, one clock."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(room, "EVICT_MAX", EVICT_MAX)
        # No commit but those that are asked for.
        self.patch.setattr(committer, "ACK_WAIT_S", 10**6)
        self.patch.setattr(committer, "TEND_S", 10**6)
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-model-"))
        self.state_dir = self.folder / "0"
        self.clock = FakeClock()
        self.noise = np.random.default_rng(7)
        self.generation = 0
        self.units: dict[int, Unit] = {}
        self.came = self.accepted = 0
        self.shares = {name: Share() for name in NAMES}
        self.takes: dict[str, Takes] = EVERYBODY
        self.unwanted: set[int] = set()  # what nobody took when it came: nobody has settled it
        self.hand: list[Lease] = []
        # What was settled and no commit has written yet: uplink, units, readings delivered, reason of the others.
        self.unsaved: list[tuple[str, set[int], int, str]] = []
        self.uplinks: tuple[str, ...] = NAMES
        self.limit, self.when_full = MIB, "drop_oldest"
        self.is_over = False  # whether the bound was lowered and not yet kept
        self.is_broken = False  # whether a comparison failed: what comes after it says nothing
        self.store: Store | None = None

    # The machinery.

    async def bring_in(self, *what, **more) -> None:
        await self.store.append(*what, **more)

    def run(self, work):
        return self.loop.run_until_complete(asyncio.wait_for(self.calmly(work), 120))

    async def calmly(self, work):
        """Do it, and let a commit that it asked for come to its end."""
        answer = await work
        while self.store is not None and not self.is_calm(self.store._committer):
            await asyncio.sleep(0)
        return answer

    def is_calm(self, committer) -> bool:
        is_due = committer._due_s is not None and committer._due_s <= self.loop.time()
        return committer._closing or not (is_due or committer._started_s)

    @initialize(limit=LIMITS, when_full=WHEN_FULL, is_full=st.booleans(), seed=st.integers(0, 999), takes=TAKES)
    def begin(self, limit, when_full, is_full, seed, takes) -> None:
        """A new shelf; half of them are filled first, with pieces as chance has it."""
        self.limit, self.when_full, self.takes = limit, when_full, takes
        self.noise = np.random.default_rng(seed)
        self.open()
        while is_full:
            size = int(self.noise.choice([1, 60, 100]) * self.noise.integers(100, KIB))
            is_full = self.bring([(Priority(self.noise.integers(3)), size)], [])
            is_full &= not any(share.lost for share in self.shares.values()) and self.came < 999

    def open(self) -> None:
        for name, share in self.shares.items():
            if name not in self.uplinks and share.came_since is None:
                share.came_since = []
            elif name in self.uplinks and share.came_since is not None:
                back = {unit for unit in share.came_since if unit in self.units}
                share.lost["while_removed"] -= sum(self.units[unit].readings for unit in back)
                share.lacking |= back
                self.unwanted -= back
                share.came_since = None
            if name in self.uplinks:
                not_taken = {unit for unit in share.lacking if not self.is_taken(name, unit)}
                share.lacking -= not_taken
                share.left_out += sum(self.units[unit].readings for unit in not_taken)
        self.hand = []
        self.store = self.run(
            Store.open(
                state_dir=self.state_dir,
                settings=StoreSettings(
                    max_bytes=Size(self.limit),
                    max_age=Duration(MAX_AGE_S),
                    when_full=self.when_full,
                    uplink_grace=Duration(GRACE_S),
                ),
                clock=self.clock,
                uplinks=self.uplinks,
                max_series=10,
                telemetry=Telemetry(),
                commit_interval_s=0.0,
                takes={name: self.takes[name] for name in self.uplinks},
            )
        )
        self.saved()
        self.seen = self.look()
        self.is_over = self.seen.used_bytes > self.limit

    def teardown(self) -> None:
        try:
            if self.is_broken:
                self.run(self.store.close())
            elif self.store is not None:
                self.finish()
        finally:
            self.patch.undo()
            self.loop.close()
            shutil.rmtree(self.folder)

    def finish(self) -> None:
        """What did not go can still be had by all, and nothing else."""
        self.run(self.store.close())
        self.saved()
        report = verify(self.state_dir)
        assert (report.problems, report.accepted) == ([], self.accepted)
        with read_held(self.state_dir) as held:
            assert [segment.id for segment in held] == [*self.units]
        self.uplinks, self.takes = NAMES, EVERYBODY
        self.open()
        try:
            for name in NAMES:
                while (lease := self.take(name, 10**6, MIB)) is not None:
                    self.settle(lease, "")
                assert not self.shares[name].lacking
            self.accounts_add_up()
        finally:
            self.run(self.store.close())

    def look(self) -> Look:
        """Look at a copy of the files, as SQLite alone sees them."""
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            for suffix in ("", "-wal"):
                if (file := self.state_dir / f"{DATABASE}{suffix}").exists():
                    shutil.copyfile(file, Path(folder) / file.name)
            log = Path(folder) / f"{DATABASE}-wal"
            log_bytes = log.stat().st_size if log.exists() else 0
            connection = sqlite3.connect(Path(folder) / DATABASE)
            try:
                ((pages, free, page_bytes),) = connection.execute(
                    "SELECT page_count, freelist_count, page_size"
                    " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
                )
                sizes = dict(connection.execute("SELECT id, length(body) FROM shelf WHERE id < ?", (STATE_ID,)))
                bodies = dict(connection.execute("SELECT id, body FROM shelf WHERE id < ?", (STATE_ID,)))
                refused = dict(connection.execute("SELECT id, length(body) FROM refused"))
            finally:
                connection.close()
        self.bodies = {unit: body for unit, body in bodies.items() if unit not in self.units}
        changed = {unit: bodies[unit] for unit, what in self.units.items() if bodies.get(unit, what.body) != what.body}
        return Look(sizes, (pages - free) * page_bytes + log_bytes, log_bytes, changed, refused)

    # The model.

    def saved(self) -> None:
        """A commit has been made: what was settled is written, and what all have is gone."""
        self.unsaved.clear()
        for unit in [unit for unit in self.units if not self.lackers(unit) and unit not in self.unwanted]:
            del self.units[unit]

    def is_taken(self, name: str, unit: int) -> bool:
        return self.takes[name].has(where_from(unit)[:2], self.units[unit].origin)

    def lackers(self, unit: int) -> list[Share]:
        return [share for share in self.shares.values() if unit in share.lacking]

    def in_hand(self, name: str | None = None) -> set[int]:
        return {unit for lease in self.hand if name in (None, lease.uplink) for unit in lease.ids()}

    def order(self) -> list[int]:
        """Return who goes first when something has to."""

        left = self.leftovers()

        def rank(unit: int) -> tuple[bool, int, int]:
            return unit not in left, -self.units[unit].priority, self.units[unit].number

        return sorted(self.units, key=rank)

    def leftovers(self) -> set[int]:
        """Return what only uplinks that are configured no more still lack; an ack counts once it is written."""
        unsaved = (units for _, units, *_ in self.unsaved)
        return {*self.units}.difference(*(self.shares[name].lacking for name in self.uplinks), *unsaved)

    def lose(self, units: set[int], reason: str) -> None:
        for unit in units:
            what = self.units.pop(unit)
            self.unwanted.discard(unit)
            for share in self.lackers(unit):
                share.lacking.remove(unit)
                share.lost[reason] += what.readings
                first, last = share.times.get(reason, (what.first_ns, what.last_ns))
                share.times[reason] = min(first, what.first_ns), max(last, what.last_ns)

    def dilute(self, changed: dict[int, bytes], sizes: dict[int, int], *, in_hand: set[int]) -> None:
        """Some units have become one each: compare what is left."""
        for unit, body in changed.items():
            assert self.when_full == "dilute"
            header = read_header(body)
            last = unit - header.sequence + header.ancestors.last_sequence
            members = {
                number: what
                for number, what in self.units.items()
                if unit <= number <= last and what.origin == header.origin
            }
            assert min(members) == unit
            assert not [number for number in members if number != unit and number in sizes]
            assert not {*members} & in_hand, "what is being sent has changed"
            rows = [row for what in members.values() for row in rows_of(what.body)]
            left = left_of(rows, header.step_s * NS_PER_S) if header.step_s else rows
            assert Counter(rows_of(body)) == Counter(left)
            old_bytes = sum(size_on_disk(len(what.body)) for what in members.values())
            assert 2 * size_on_disk(len(body)) <= old_bytes, "not worth it"
            first = members[unit]
            times = min(what.first_ns for what in members.values()), max(what.last_ns for what in members.values())
            self.thin_out({*members} - {unit}, unit, len(rows) - len(left), times)
            self.units[unit] = Unit(
                first.number, first.priority, len(left), *times, first.stored_ns, body, first.origin
            )

    def thin_out(self, others: set[int], unit: int, lost: int, times: tuple[int, int]) -> None:
        """Take what has become part of a unit from all who lack it, and what is lost into their ledgers."""
        for share in self.shares.values():
            is_lacking = unit in share.lacking
            assert all((number in share.lacking) == is_lacking for number in others)
            share.lacking -= others
            if is_lacking and lost:
                share.lost["diluted"] += lost
                first, last = share.times.get("diluted", times)
                share.times["diluted"] = min(first, times[0]), max(last, times[1])
        for number in others:
            del self.units[number]

    def dilutable(self, sizes: dict[int, int]) -> list[int]:
        """Return who could be diluted instead of going."""
        return [
            unit
            for unit in {*self.units} - self.in_hand()
            if where_from(unit)[1] is Signal.METRICS
            and sizes.get(unit, 0) >= DILUTABLE_BYTES_MIN
            and coarsen([self.units[unit].body], step_s=read_header(self.units[unit].body).step_s).pressed
        ]

    def see(
        self,
        before: Look,
        *,
        brought_bytes: int = 0,
        began: frozenset[int] | set[int] = frozenset(),
        due: set[int] | None = None,
    ) -> None:
        """Compare what is on the disk after a commit with what was, what came and what may go.

        `due` is too old; `began` to be sent meanwhile, maybe when the commit had been made.
        """
        began_bytes = sum(before.sizes.get(unit, 0) for unit in began)
        now = self.seen = self.look()
        self.is_broken = True
        order, left = self.order(), self.leftovers()
        self.saved()
        self.dilute(now.changed, now.sizes, in_hand=self.in_hand() - began)
        gone = {unit for unit in self.units if unit not in now.sizes}
        assert not gone & self.in_hand(), "what is being sent has gone"
        due = due or set()
        assert due <= gone, "too old and still there"
        self.lose(gone & due, "expired_age")
        evicted = gone - due
        # What is left of what this commit has thinned stays, where others go whole besides.
        stays = (self.in_hand() | {*now.changed}) - evicted
        order = [unit for unit in order if unit in self.units and unit not in stays]
        first = order[: len(evicted)]
        # Of those whom nobody waits for any more it depends on where the walk among them stands who goes first.
        assert set(first) == evicted or evicted <= left, "others should have gone first"
        if evicted:
            assert self.when_full != "refuse" or evicted <= left
            assert brought_bytes
            # What is set aside with the commit takes room like what comes.
            brought_bytes += now.set_aside_bytes(before)
            log_may_grow = max(self.log_bytes_max + brought_bytes - before.log_bytes, 0)
            if self.when_full == "dilute" and not evicted <= left:
                dilutable = self.dilutable(before.sizes)
                # Where that and all else that may go would not be enough, it goes whole. What is written anew takes
                # room in the log as well.
                rewritten_bytes = sum(before.sizes[unit] for unit in dilutable) // 2
                free_bytes = sum(before.sizes.get(unit, 0) for unit in {*self.units} - self.in_hand()) - rewritten_bytes
                may_grow = max(self.log_bytes_max + brought_bytes + rewritten_bytes - before.log_bytes, 0)
                used_bytes = before.used_bytes + brought_bytes + may_grow + TOLERANCE - free_bytes
                assert not dilutable or used_bytes > self.limit, "it could have been diluted"
            room_bytes = self.limit - now.used_bytes - log_may_grow
            # As above: which of them was the last depends on the walk, so that it may have been the largest.
            last_bytes = max(before.sizes[unit] for unit in (evicted if evicted <= left else first[-1:]))
            spare = room_bytes - last_bytes - self.limit // 64
            is_enough = spare < TOLERANCE + brought_bytes // 16 or now.changed
            assert is_enough, f"the last need not have gone: {spare} bytes to spare"
        if brought_bytes:
            # What a commit wrote anew, the next one may thin further.
            is_bounded = len(evicted) >= EVICT_MAX or now.changed
            if self.is_over and is_bounded:
                assert now.used_bytes <= before.used_bytes + TOLERANCE
            else:
                assert now.used_bytes <= self.limit + began_bytes, (
                    f"{now.used_bytes - self.limit} bytes more than max_bytes"
                )
            self.is_over &= now.used_bytes > self.limit
        self.lose(evicted, "evicted_full")
        assert {*now.sizes} == {*self.units} | {*self.bodies}
        self.is_broken = False

    @property
    def log_bytes_max(self) -> int:
        """At this size the log begins anew: an eighth of what the shelf may use, 128 KiB at least."""
        return max(self.limit // 8, 128 * KIB)

    def take_note(self, brought: dict[tuple[Priority, Signal], list[tuple[int, int, bytes]]]) -> None:
        """Take what a commit has put on the disk; it is what was brought: value or body, Unix time, stamp of each."""
        found: dict[tuple[Priority, Signal], list[tuple[int, int]]] = {}
        for unit, body in sorted(self.bodies.items(), key=lambda pair: where_from(pair[0])[2]):
            priority, signal, _ = where_from(unit)
            if signal is Signal.LOGS:
                records = decode_logs(body)
                readings = list(zip(records.bodies, records.time_ns.tolist(), strict=True))
            else:
                batch = decode_metrics(body)
                readings = list(zip(batch.bits.tolist(), batch.time_ns.tolist(), strict=True))
            found.setdefault((priority, signal), []).extend(readings)
            wall = {value: wall_ns for value, wall_ns, _ in brought[priority, signal]}
            times = [wall[value] for value, _ in readings]
            self.came += 1
            self.accepted += len(readings)
            self.units[unit] = Unit(
                *(self.came, priority, len(readings), min(times), max(times), self.clock.wall_ns(), body),
                origin=read_header(body).origin,
            )
            for name, share in self.shares.items():
                if share.came_since is None and self.is_taken(name, unit):
                    share.lacking.add(unit)
                elif share.came_since is None:
                    share.left_out += len(readings)
                else:
                    share.came_since.append(unit)
                    share.lost["while_removed"] += len(readings)
            if not self.lackers(unit):
                self.unwanted.add(unit)
        expected = {shelf: sorted((value, stamp) for value, _, stamp in what) for shelf, what in brought.items()}
        assert {shelf: sorted(what) for shelf, what in found.items()} == expected

    # What comes.

    def bring(self, pieces, logs, *, past_s=0, is_monotonic=False, meanwhile=()):
        """Append; return whether it was taken."""
        brought: dict = {}
        batches, size_bytes = [], 0
        series = self.store.resolve(Series((), "m"))
        wall_ns = self.clock.wall_ns() - past_s * NS_PER_S
        for priority, size in pieces:
            count = max(size // 8, 1)
            values = self.noise.integers(-(2**62), 2**62, count)
            steps = np.arange(count) * int(self.noise.choice(SPACINGS_NS))
            ahead_ns = self.clock.wall_ns() - self.clock.monotonic_ns() if is_monotonic else 0
            stamps = wall_ns - ahead_ns + steps
            batch = Batch.of(series, stamps, values, flags=MONOTONIC * is_monotonic)
            batches.append((priority, replace(batch, origin=int(self.noise.choice(ORIGINS)))))
            rows = zip(values.tolist(), (wall_ns + steps).tolist(), stamps.tolist(), strict=True)
            brought.setdefault((priority, Signal.METRICS), []).extend(rows)
            size_bytes += 8 * count
        bodies = tuple(self.noise.bytes(size) for size in logs)
        records = LogRecords(np.full(len(logs), series, np.uint32), np.full(len(logs), wall_ns), bodies)
        if logs:
            brought[Priority.CRITICAL, Signal.LOGS] = [(body, wall_ns, wall_ns) for body in bodies]
            size_bytes += sum(logs)
        before, in_hand = self.seen, self.in_hand()
        error = self.run(self.append_and(self.bring_in(batches, logs=records), meanwhile))
        if error is not None:
            self.pushed_back(error, size_bytes)
            return False
        # What they got is compared below.
        self.see(before, brought_bytes=size_bytes, began=self.in_hand() - in_hand)
        self.take_note(brought)
        for lease in self.hand:
            assert {*lease.ids()} <= self.shares[lease.uplink].lacking
            assert [segment.body for segment in lease.segments] == [self.units[unit].body for unit in lease.ids()]
        return True

    async def append_and(self, append, meanwhile) -> FullError | None:
        answer, *_ = await asyncio.gather(append, *meanwhile, return_exceptions=True)
        assert answer is None or isinstance(answer, FullError), answer
        return answer

    def pushed_back(self, error: FullError, size_bytes: int) -> None:
        """Nothing of it was kept and nothing went for it, and there really is no room."""
        assert "raise it, or see why so much is held" in str(error)
        before = self.seen
        # Who is not needed any more only by an ack of this commit goes for whoever comes again.
        may_go = self.leftovers() - self.in_hand()
        self.commit()
        if self.when_full != "refuse":
            may_go = {*self.units} - self.in_hand()
        # The commit after it has set aside what this one would have.
        size_bytes += self.seen.set_aside_bytes(before)
        needed = size_bytes + max(self.log_bytes_max + 2 * size_bytes - before.log_bytes, 0) + TOLERANCE
        may_go_bytes = sum(before.sizes[unit] for unit in may_go)
        assert before.used_bytes - may_go_bytes + needed > self.limit, "there is room"

    @rule(
        pieces=st.lists(PIECE, max_size=3),
        logs=LOGS,
        past_s=st.integers(-100, 5000),
        is_monotonic=st.booleans(),
        acking=st.sets(st.sampled_from(NAMES)),
    )
    def append(self, pieces, logs, past_s, is_monotonic, acking) -> None:
        """What some uplinks have acked since the last commit is written with what comes."""
        if acking:
            self.send(acking, 60 * KIB, 3)
        if pieces or logs:
            self.bring(pieces, logs, past_s=past_s, is_monotonic=is_monotonic)

    @rule(
        pieces=st.lists(PIECE, min_size=1, max_size=3),
        leasing=st.lists(
            st.tuples(st.sampled_from(NAMES), st.integers(1, 100 * KIB), st.integers(0, 12)), min_size=1, max_size=4
        ),
    )
    def append_while_leasing(self, pieces, leasing) -> None:
        """Who begins to be sent while somebody looks for who has to go stays."""
        tasks = [self.loop.create_task(self.lease_soon(*one)) for one in leasing if one[0] in self.uplinks]
        self.bring(pieces, [], meanwhile=tasks)

    async def lease_soon(self, name, bytes_max, turns) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        lease = await self.store.lease(name, readings_max=10**6, bytes_max=bytes_max)
        if lease is not None:
            self.hand.append(lease)

    @rule(priority=st.sampled_from(Priority), count=st.integers(1, 16), size=st.integers(60 * KIB, 120 * KIB))
    def pour(self, priority, count, size) -> None:
        """Until it is nearly full, or over."""
        for _ in range(count):
            if not self.bring([(priority, size)], []):
                break

    @rule(priority=st.sampled_from(Priority), count=st.integers(1, 30), size=st.integers(8, 2000))
    def drizzle(self, priority, count, size) -> None:
        """Many small ones."""
        for _ in range(count):
            if not self.bring([(priority, size)], []):
                break

    @rule()
    def commit(self) -> None:
        before = self.seen
        self.run(self.bring_in([]))
        self.see(before)

    # What goes.

    def take(self, name, readings_max, bytes_max):
        commit = self.store._committer.state.commit
        lease = self.run(self.store.lease(name, readings_max=readings_max, bytes_max=bytes_max))
        if self.store._committer.state.commit != commit:
            # Its allowance had to be written first.
            self.saved()
            self.seen = self.look()
        free = self.shares[name].lacking - self.in_hand(name)
        if lease is None:
            assert not free
            return None
        assert {*lease.ids()} <= free
        assert [segment.body for segment in lease.segments] == [self.units[unit].body for unit in lease.ids()]
        self.hand.append(lease)
        return lease

    @rule(name=st.sampled_from(NAMES), bytes_max=st.integers(1, 200 * KIB), leases=st.integers(1, 4))
    def lease(self, name, bytes_max, leases) -> None:
        for _ in range(leases if name in self.uplinks else 0):
            self.take(name, 10**6, bytes_max)

    def settle(self, lease: Lease, reason: str) -> None:
        self.hand.remove(lease)
        units, share = {*lease.ids()}, self.shares[lease.uplink]
        if reason == "status_400":
            self.run(acting(self.store.refuse, lease, reason, "no"))
        else:
            self.run(acting(self.store.ack, lease, rejected=lease.readings if reason else 0))
        delivered = 0 if reason else lease.readings
        share.lacking -= units
        share.delivered += delivered
        share.lost[reason] += lease.readings - delivered
        self.unsaved.append((lease.uplink, units, delivered, reason))

    @rule(which=WHICH, reason=st.sampled_from(["", "", "", "rejected", "status_400"]))
    def answer(self, which, reason) -> None:
        for number in which:
            if self.hand:
                self.settle(self.hand[number % len(self.hand)], reason)

    @rule(which=WHICH)
    def release(self, which) -> None:
        for number in which:
            if self.hand:
                lease = self.hand.pop(number % len(self.hand))
                self.run(acting(self.store.release, lease, maybe_delivered=True))

    @rule(name=st.sampled_from(NAMES))
    def link_up(self, name) -> None:
        if name in self.uplinks:
            self.store.link_up(name)

    @rule(names=st.sets(st.sampled_from(NAMES)), bytes_max=st.integers(1, 100 * KIB), leases=st.integers(1, 6))
    def send(self, names, bytes_max, leases) -> None:
        """Those who are up, all of them where `names` is empty, get the next of what there is."""
        for name in sorted((names or {*NAMES}) & {*self.uplinks}):
            for _ in range(leases):
                lease = self.take(name, 10**6, bytes_max)
                if lease is not None:
                    self.settle(lease, "")

    @rule(are_all_up=st.booleans())
    def drain(self, are_all_up) -> None:
        """Some get all there is; where all of them do there is room again, whatever was refused before."""
        for name in self.uplinks[: None if are_all_up else 1]:
            while (lease := self.take(name, 10**6, 300 * KIB)) is not None:
                self.settle(lease, "")
        if are_all_up:
            for lease in [*self.hand]:
                self.settle(lease, "")
            self.commit()
            assert {*self.units} == self.leftovers()
            assert self.bring([(Priority.NORMAL, 100 * KIB)], [])

    # Time.

    @rule(seconds=st.integers(1, MAX_AGE_S * 2 // 3))
    def advance(self, seconds) -> None:
        self.clock.advance(seconds * NS_PER_S)

    @rule(seconds=st.integers(0, MAX_AGE_S))
    def tend(self, seconds) -> None:
        self.clock.advance(seconds * NS_PER_S)
        before = self.seen
        now_ns = self.clock.wall_ns()
        self.run(self.store.tend())
        self.run(self.bring_in([]))
        due = {unit for unit, what in self.units.items() if now_ns - what.stored_ns > MAX_AGE_S * NS_PER_S}
        due = {unit for unit in due - self.in_hand() if self.lackers(unit) or unit in self.unwanted}
        self.see(before, due=due)

    # Restarts.

    @rule(limit=LIMITS, when_full=WHEN_FULL, names=st.sets(st.sampled_from(NAMES), min_size=1), takes=TAKES)
    def restart(self, limit, when_full, names, takes) -> None:
        self.run(self.store.close())
        self.saved()
        self.limit, self.when_full, self.uplinks, self.takes = limit, when_full, tuple(sorted(names)), takes
        self.open()

    @rule(
        limit=LIMITS,
        when_full=WHEN_FULL,
        names=st.sets(st.sampled_from(NAMES), min_size=1),
        takes=TAKES,
        off_s=st.integers(0, 500),
    )
    def die(self, limit, when_full, names, takes, off_s) -> None:
        """What is on the disk at this moment is all that is left."""
        self.generation += 1
        new = self.folder / str(self.generation)
        shutil.copytree(self.state_dir, new)
        self.run(self.store.close())
        self.state_dir = new
        for name, units, delivered, reason in self.unsaved:
            share = self.shares[name]
            readings = sum(self.units[unit].readings for unit in units)
            share.lacking |= units
            share.delivered -= delivered
            share.lost[reason] -= readings - delivered
        self.unsaved.clear()
        if off_s:
            self.clock.reboot(f"reboot-{self.generation}", wall=self.clock.wall + off_s * NS_PER_S, synced=True)
        self.limit, self.when_full, self.uplinks, self.takes = limit, when_full, tuple(sorted(names)), takes
        self.open()

    @invariant()
    def accounts_add_up(self) -> None:
        if self.store is None:
            return
        status = self.store.status()
        assert status["accepted"] == self.accepted
        for name, share in self.shares.items():
            uplink = status["uplinks"][name]
            held = sum(self.units[unit].readings for unit in share.lacking)
            assert (uplink["delivered"], uplink["held"], uplink["left_out"]) == (share.delivered, held, share.left_out)
            by_class = {priority.name.lower(): 0 for priority in Priority}
            for unit in share.lacking:
                by_class[self.units[unit].priority.name.lower()] += self.units[unit].readings
            assert uplink["held_by_class"] == by_class
            assert uplink["ledger"] == {reason: n for reason, n in share.lost.items() if n}
            known = uplink["delivered"] + uplink["held"] + sum(uplink["ledger"].values())
            assert self.accepted == known + uplink["left_out"]
            times = {loss["reason"]: (loss["first_ns"], loss["last_ns"]) for loss in uplink["losses"]}
            for reason, (first_ns, last_ns) in share.times.items():
                assert times[reason] == (first_ns, last_ns)


EvictionMachine.TestCase.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestEviction = pytest.mark.slow(pytest.mark.timeout(1200)(EvictionMachine.TestCase))


@pytest.mark.nightly
def test_eviction_at_length() -> None:
    """The same for half an hour."""
    run_state_machine_as_test(EvictionMachine, settings=settings(EvictionMachine.TestCase.settings, max_examples=2000))
