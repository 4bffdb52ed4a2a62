"""What the uplinks' tests share: a store in memory, a wire that answers by script, a thread that is none."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from gateway.codecs import zstd
from gateway.codecs.otlp import encode_log_record
from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series
from gateway.core.clock import BootTimes, FakeClock, Timeline
from gateway.core.contracts import BootId, Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.store.policy import ALL, Lane, Terms
from gateway.store.segments import encode_logs, encode_metrics, press_records
from gateway.store.spots import Outlook
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.guards import Answer, Packed
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.worker import Seams
from hil.otlp_readings import parse_logs, parse_metrics

NOW_NS = 1_790_000_000 * 10**9
BOOT = BootId(1)
SERIES = [
    Series((("device.id", "a"),), "temperature", "Cel"),
    Series((("device.id", "a"),), "humidity", "%"),
    Series((("device.id", "b"),), "temperature", "Cel"),
    Series((("device.id", "a"),), "", kind="log"),
]


@dataclass
class Segment:
    sequence: int
    boot: BootId
    signal: Signal
    priority: Priority
    readings: int
    body: bytes
    readable: Batch | None = None

    @property
    def id(self) -> int:
        return self.sequence


@dataclass
class FakeLease:
    uplink: str
    lane: str
    segments: list[Segment]
    readings: int
    signal: Signal
    step_s: float = 0.0
    sent_bytes: int = 0
    is_late: bool = False

    @property
    def is_backfill(self) -> bool:
        return self.is_late or self.lane in {"backlog", "thinned"}

    @property
    def size_bytes(self) -> int:
        return sum(len(segment.body) for segment in self.segments)


class FakeNotes:
    """What a notebook says is written the moment that somebody waits for it."""

    def __init__(self) -> None:
        self.kept = None
        self.note = b""
        self.is_mute = False

    def last(self, uplink: str) -> bytes:
        return self.note

    def keep(self, uplink: str, notebook) -> None:
        self.kept = notebook

    async def write(self, uplink: str) -> bool:
        await asyncio.sleep(0)
        if not self.is_mute:
            self.note = self.kept.plan()
            self.kept.written()
        return not self.is_mute


class FakeStore:
    """Keeps segments in two lists and every call in `events`; the sums must always agree."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.notes = FakeNotes()
        self.timeline = Timeline([BootTimes(BOOT, clock.boot)], current=BOOT)
        self.timeline.observe(clock)
        self.lanes: dict[str, list[Segment]] = {"live": [], "backlog": [], "thinned": []}
        self.thinned_readings = 0
        self.arrived = [0, 0, 0]
        self.leased: list[FakeLease] = []
        self.events: list[tuple] = []
        self.leases: list[tuple[int, ...]] = []  # the sizes of what each took
        self.events_of_speed: list[bool] = []
        self.rests: list[float] = []
        self.held_back: set[Signal] = set()
        self.away: list[FakeLease] = []
        self.aside: list[tuple[str, int, bytes]] = []
        self.accepted = self.delivered = self.maybe_twice = 0
        self.ledger: Counter = Counter()
        self._held = asyncio.Event()
        self._grown = asyncio.Event()
        self._sequence = 0

    def series(self, number: int) -> Series:
        return SERIES[number]

    def add(
        self,
        batch: Batch | LogRecords | ResourceRecords,
        *,
        lane: str = "live",
        boot: BootId = BOOT,
        body: bytes | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        self._sequence += 1
        place = {"sequence": self._sequence, "boot": boot, "previous_hash": bytes(16)}
        if isinstance(batch, ResourceRecords):
            signal, whole = batch.signal, press_records(batch).seal(**place)
        elif isinstance(batch, Batch):
            signal, whole = Signal.METRICS, encode_metrics(batch, **place)
        else:
            signal, whole = Signal.LOGS, encode_logs(batch, **place)
        body = whole if body is None else body
        self.lanes[lane].append(Segment(self._sequence, boot, signal, priority, len(batch), body))
        self.accepted += len(batch)
        self.arrived[priority] += len(batch)
        self._held.set()
        self._grown.set()

    def has_some(self, uplink: str) -> bool:
        return self._held.is_set()

    def keeps_up(self, uplink: str, *, keeps_up: bool) -> None:
        self.events_of_speed.append(keeps_up)

    def unleased(self, uplink: str) -> int:
        return sum(s.readings for lane in self.lanes.values() for s in lane)

    async def wait_held(self, uplink: str) -> None:
        await self._held.wait()

    async def wait_for_readings(self, uplink: str, readings: int) -> None:
        while self.accepted - self.delivered - self.ledger.total() < readings:
            self._grown.clear()
            await self._grown.wait()

    def hold(self, uplink: str, signal: Signal, seconds: float) -> None:
        self.held_back.add(signal)
        asyncio.get_running_loop().call_later(seconds, self._go_on_with, signal)

    def _go_on_with(self, signal: Signal) -> None:
        self.held_back.discard(signal)
        self._held.set()

    def rest(self, uplink: str, seconds: float) -> None:
        self.rests.append(round(seconds, 3))

    def outlook(self, uplink: str) -> Outlook:
        spots = frozenset((Lane(lane), s.priority) for lane, waiting in self.lanes.items() for s in waiting)
        backlog = sum(s.readings for s in self.lanes["backlog"])
        return Outlook(spots, backlog, tuple(self.arrived), 0.3)

    async def lease(
        self, uplink: str, *, readings_max: int, bytes_max: int, may_wait: bool = True, terms: Terms = ALL
    ) -> FakeLease | None:
        await asyncio.sleep(0)
        for lane in self.lanes:
            waiting = [
                s for s in self.lanes[lane] if s.signal not in self.held_back and terms.may_take(Lane(lane), s.priority)
            ]
            shelf = [s for s in waiting if (s.signal, s.priority) == (waiting[0].signal, waiting[0].priority)]
            taken: list[Segment] = []
            step_s = (
                terms.step_of(Lane(lane), shelf[0].priority) if shelf and shelf[0].signal is Signal.METRICS else 0.0
            )
            most, bytes_max = (1 << 18, 1 << 20) if step_s else (readings_max, bytes_max)
            most = min(most, terms.most_of(Lane(lane), shelf[0].priority, is_thinned=step_s > 0)) if shelf else most
            for segment in shelf:
                readings, size_bytes = (sum(s.readings for s in taken), sum(len(s.body) for s in taken))
                fits = readings + segment.readings <= most and size_bytes + len(segment.body) <= bytes_max
                if not taken or fits:
                    taken.append(segment)
                    self.lanes[lane].remove(segment)
            if taken:
                lease = FakeLease(uplink, lane, taken, sum(s.readings for s in taken), taken[0].signal, step_s)
                self.leased.append(lease)
                self._look()
                self.events.append(("lease", lane, lease.readings))
                self.leases.append(tuple(len(segment.body) for segment in taken))
                return lease
        self._look()
        if all(s.signal in self.held_back for waiting in self.lanes.values() for s in waiting):
            self._held.clear()
        return None

    def ack(self, lease: FakeLease, *, rejected: int = 0, reason: str = "rejected", aside=()) -> None:
        self.aside += aside
        self._end(lease)
        assert 0 <= rejected <= lease.readings
        self.delivered += lease.readings - rejected
        if rejected:
            self.ledger[reason] += rejected
        self.events.append(("ack", lease.readings, rejected))

    def release(self, lease: FakeLease, *, maybe_delivered: bool, put_off_s: float = 0.0) -> None:
        self._end(lease)
        if put_off_s:
            self.away.append(lease)
            asyncio.get_running_loop().call_later(put_off_s, self._take_up, lease)
        else:
            self.lanes[lease.lane][:0] = lease.segments
        self.maybe_twice += lease.readings * maybe_delivered
        self._look()
        self.events.append(("release", lease.readings, maybe_delivered))

    def _take_up(self, lease: FakeLease) -> None:
        self.away.remove(lease)
        self.lanes[lease.lane][:0] = lease.segments
        self._held.set()

    def put_off_s(self, uplink: str) -> float:
        return float(bool(self.away))

    async def count_maybe_twice(self, lease: FakeLease, readings: int) -> None:
        self.maybe_twice += readings
        self.events.append(("maybe twice", readings))

    def note_maybe_twice(self, lease: FakeLease, readings: int) -> None:
        self.maybe_twice += readings

    def thinned(self, lease: FakeLease, *, readings: int) -> None:
        self._end(lease)
        self.lanes["thinned"] += lease.segments
        self.maybe_twice += readings
        self.thinned_readings += readings
        self._look()
        self.events.append(("thinned", lease.readings, readings))

    def refuse(self, lease: FakeLease, reason: str, message: str) -> None:
        self._end(lease)
        self.ledger[reason] += lease.readings
        self.events.append(("refuse", lease.readings, reason, message))

    def link_up(self, uplink: str) -> None:
        for lease in self.leased:
            lease.is_late = True
        self.lanes["backlog"] += self.lanes["live"]
        self.lanes["live"] = []
        self.events.append(("link_up",))

    def _end(self, lease: FakeLease) -> None:
        self.leased.remove(lease)

    def _look(self) -> None:
        if any(self.lanes.values()):
            self._held.set()
        else:
            self._held.clear()

    @property
    def held(self) -> int:
        leased = sum(lease.readings for lease in self.leased + self.away)
        return leased + sum(s.readings for lane in self.lanes.values() for s in lane)

    def status(self) -> dict:
        return {"uplinks": {"cloud": {"held": self.held}}}

    def kinds(self) -> list[str]:
        return [event[0] for event in self.events]

    def check(self) -> None:
        """Nothing is leased any more, and every accepted reading is delivered, held or in the ledger."""
        assert not self.leased
        assert self.accepted == self.delivered + self.held + self.ledger.total()


class FakeWire:
    """Answers each request by the next of `script` (an Answer or an error), then takes all."""

    def __init__(self, *script: Answer | Exception, takes_s: float = 0.0) -> None:
        self.bytes_sent = self.requests = 0
        self.script = list(script)
        self.takes_s = takes_s
        self.sent: list[tuple[float, Packed, bytes]] = []
        self.aborted = self.stopped = 0
        self.overdue = False

    def open(self) -> None:
        self.stopped = 0

    def send(self, packed: Packed) -> Answer:
        self.requests += 1
        self.bytes_sent += len(packed.body)
        body = zstd.decompress(packed.body, bytes_max=1 << 26) if packed.encoding == "zstd" else packed.body
        self.sent.append((asyncio.get_running_loop().time(), packed, body))
        answer = self.script.pop(0) if self.script else self.judge(packed.signal, body)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def judge(self, signal: Signal, body: bytes) -> Answer | Exception:
        """Say what becomes of a request that is not in the script."""
        return Answer(seconds=self.takes_s)

    def is_overdue(self) -> bool:
        return self.overdue

    def abort(self) -> None:
        self.aborted += 1

    def stop(self) -> None:
        self.stopped += 1

    def close(self) -> None:
        pass

    def told(self) -> dict[str, Any]:
        return {"endpoint": "http://127.0.0.1:1"}

    def times(self) -> list[float]:
        return [at_s for at_s, _, _ in self.sent]

    def readings(self) -> list:
        return [r for _, p, body in self.sent if p.signal is Signal.METRICS for r in parse_metrics(body)]

    def logs(self) -> list:
        return [r for _, p, body in self.sent if p.signal is Signal.LOGS for r in parse_logs(body)]


class InlineWorker:
    """Runs each call in the event loop, `wire.takes_s` of virtual time after it was asked to."""

    def __init__(self, wire: FakeWire) -> None:
        self._wire = wire
        self._free_s = 0.0

    def submit(self, call) -> asyncio.Future:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def act() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(call())
            except Exception as error:  # as the thread hands every error over
                future.set_exception(error)

        if self._wire.takes_s:
            self._free_s = max(self._free_s, loop.time()) + self._wire.takes_s
            loop.call_at(self._free_s, act)
        else:
            act()
        return future

    def close(self) -> bool:
        return True


@dataclass
class Road:
    """One uplink with everything around it."""

    store: FakeStore
    wire: FakeWire
    uplink: Uplink
    clock: FakeClock
    telemetry: Telemetry
    server_times: list = field(default_factory=list)

    async def run_for(self, seconds: float) -> None:
        """Let it deliver for so long, then stop it as the gateway does, and check the sums."""
        await self.stop(await self.start(seconds))

    async def start(self, seconds: float = 0.0) -> asyncio.Task:
        task = asyncio.create_task(self.uplink.run())
        await asyncio.sleep(seconds)
        return task

    async def stop(self, task: asyncio.Task) -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self.store.check()


def build_road(*script, takes_s: float = 0.0, wall: int = NOW_NS, hear_time: bool = False, **settings: Any) -> Road:
    clock = FakeClock(wall=wall)
    store, wire, telemetry = FakeStore(clock), FakeWire(*script, takes_s=takes_s), Telemetry()
    heard: list = []
    seams = Seams(
        wire=wire,
        start_worker=lambda _: InlineWorker(wire),
        on_server_time=(lambda unix_s, rtt_s: heard.append(unix_s)) if hear_time else None,
    )
    uplink = Uplink(
        OtlpUplinkSettings(**{"name": "cloud", "endpoint": "http://127.0.0.1:1", **settings}),
        store=store,
        gateway_attributes=(("tidegate.gateway.id", "site-7"),),
        version="0.1.0",
        clock=clock,
        telemetry=telemetry,
        random=random.Random(7),
        seams=seams,
    )
    return Road(store, wire, uplink, clock, telemetry, heard)


def some_readings(count: int, *, series: int = 0, start: int = 0, flags: int = 0) -> Batch:
    """`count` readings one second apart whose values count on from `start`."""
    numbers = np.arange(start, start + count)
    return Batch.of(series, NOW_NS + numbers * 10**9, numbers.astype(np.float64), flags=flags)


def some_records(count: int) -> LogRecords:
    """`count` log records whose bodies count."""
    bodies = tuple(
        encode_log_record(
            time_ns=NOW_NS + k,
            observed_ns=NOW_NS,
            severity_number=13,
            severity_text="WARN",
            body=str(k),
            attributes=(),
        )
        for k in range(count)
    )
    return LogRecords(np.full(count, 3, np.uint32), NOW_NS + np.arange(count, dtype=np.int64), bodies)


@pytest.fixture(scope="session")
def make_road():
    """Make an uplink with a fake store, wire and thread: `make_road(Answer(), TryLaterError("no"))`."""
    return build_road


@pytest.fixture(scope="session")
def make_store():
    """Make a fake store."""
    return FakeStore


@pytest.fixture(scope="session")
def make_readings():
    """Make a batch: `make_readings(10, series=1)`."""
    return some_readings


@pytest.fixture(scope="session")
def make_records():
    """Make log records."""
    return some_records
