"""Checks for an uplink with a budget: a month of it in virtual time, judged by what has left in each hour and day."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.core.batch import Batch
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Rate, Size
from gateway.uplinks import delivery
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.guards import Answer, TryLaterError, UnreachableError
from gateway.uplinks.link_probe import PROBE_BYTES
from gateway.uplinks.link_settings import LinkSettings
from gateway.uplinks.links import Links, Seen
from gateway.uplinks.ration import SAVED_SHARE, SHARE, SPENT_SHARE
from gateway.uplinks.scheduling import Decision, Scheduler
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.spending import SMALL_BYTES
from gateway.uplinks.windows import UTC
from gateway.uplinks.worker import Seams
from hil import virtual_threads, virtual_time
from hil.otlp_readings import parse_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.uplinks.flow import Sent
    from gateway.uplinks.links import Road

NOON_S = 1_789_948_800 + 43_200
HOUR_S, DAY_S = 3600, 86_400
TRY_BYTES = 440


@dataclass
class LoopClock(FakeClock):
    """A clock that goes with the loop's virtual time; `set_by` seconds before or behind it."""

    set_by: float = 0.0

    def monotonic_ns(self) -> int:
        return 1000 * NS_PER_S + int(asyncio.get_running_loop().time() * NS_PER_S)

    def wall_ns(self) -> int:
        if self.wall == 0:
            return 0
        return int((NOON_S + self.set_by + asyncio.get_running_loop().time()) * NS_PER_S)


class Link:
    """A metered wire: each byte costs a tenth more, each request 300 bytes, each answer what the script says."""

    def __init__(self, wire, clock: LoopClock) -> None:
        self._wire = wire
        self._clock = clock
        self.wire_bytes = 0
        self.head_bytes = 200
        self.is_connected = self.is_encrypted = False
        self.piece_bytes_max = 8192
        self.before_piece = lambda _: None
        self.left: Counter = Counter()

    def send(self, packed) -> Answer:
        self.is_connected = True
        self.before_piece(len(packed.body))
        self.cost(int(1.1 * len(packed.body)) + 300)
        return self._wire.send(packed)

    def cost(self, size_bytes: int) -> None:
        self.wire_bytes += size_bytes
        now_s = NOON_S + asyncio.get_running_loop().time()
        for window in ("hour", "day", "month"):
            self.left[window, UTC.start_of(window, now_s)] += size_bytes

    def pause(self, seconds: float) -> None:
        assert seconds == 0

    def __getattr__(self, name: str):
        return getattr(self._wire, name)


@dataclass
class Metered:
    """One uplink with a budget, and all that is around it."""

    store: object
    wire: object
    link: Link
    clock: LoopClock
    settings: OtlpUplinkSettings
    worker: object
    uplink: Uplink | None = None
    on_server_time: Callable[[int, float], None] | None = None
    road: Road | None = None

    def start(self) -> asyncio.Task:
        self.uplink = Uplink(
            self.settings,
            store=self.store,
            gateway_attributes=(),
            version="0.1.0",
            clock=self.clock,
            telemetry=Telemetry(),
            random=random.Random(7),
            seams=Seams(
                wire=self.link,
                start_worker=lambda _: self.worker(self.wire),
                on_server_time=lambda unix_s, rtt_s: self.on_server_time and self.on_server_time(unix_s, rtt_s),
                road=self.road,
            ),
        )
        return asyncio.create_task(self.uplink.run())

    async def stop(self, task: asyncio.Task) -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
def make(make_store, make_road):
    """Make one: `make(per_day=Size(…))`."""

    def build(*script, wall: int = NOON_S * NS_PER_S, synced: bool = True, **budget) -> Metered:
        clock = LoopClock(synced=synced)
        parts = make_road(*script)
        store = make_store(FakeClock(wall=wall, synced=synced))
        store.clock = clock
        settings = OtlpUplinkSettings(name="cloud", endpoint="http://127.0.0.1:1", budget=BudgetSettings(**budget))
        return Metered(
            store, parts.wire, Link(parts.wire, clock), clock, settings, type(parts.uplink._sending._start_worker("x"))
        )

    return build


def add(store, count: int, make_readings) -> None:
    """Readings that nothing compresses."""
    batch = make_readings(count, start=store.accepted)
    noise = random.Random(store.accepted).getrandbits(64 * count).to_bytes(8 * count, "little")
    batch.bits[:] = memoryview(noise).cast("q")
    batch.bits[:] &= 0x3FFF_FFFF_FFFF_FFFF
    store.add(batch)


def in_virtual_time(test):
    """Run a coroutine in virtual time."""
    return virtual_time.run(test)


def test_a_month_is_never_over_by_a_byte(make, make_readings, monkeypatch) -> None:
    """Ten times as much comes as may leave: each hour, day and month holds, and all is sent, at least in part, or held."""
    monkeypatch.setattr(delivery, "PACE_LOOK_S", 60.0)

    async def month() -> None:
        limits = {"hour": 100_000, "day": 1_000_000, "month": 12_000_000}
        way = make(**{f"per_{window}": Size(limit) for window, limit in limits.items()})
        task = way.start()
        for hour in range(12 * 24):
            for _ in range(6):
                add(way.store, 1500, make_readings)
                await asyncio.sleep(600)
            if hour % 24 == 5:
                # Killed: what the note covered is spent.
                task.cancel()
                await asyncio.wait({task})
                task = way.start()
        await way.stop(task)
        assert max(way.link.left.values()) > 1_000_000
        for (window, _), size in way.link.left.items():
            assert size <= limits[window], window
        # Of the first month's allowance nearly all is used when it ends.
        assert max(size for (window, _), size in way.link.left.items() if window == "month") > 0.6 * 12_000_000
        way.store.check()
        assert way.store.delivered > 10_000

    in_virtual_time(month())


def test_a_spent_budget_says_so_and_what_is_fresh_goes_first(make, make_readings) -> None:
    """State, reason and how long; in the next window what waited is backlog."""

    async def wait() -> None:
        way = make(per_hour=Size(64 * 1024))
        # More in one segment than fits in what is left.
        add(way.store, 20_000, make_readings)
        task = way.start()
        await asyncio.sleep(12 * 60)
        status = way.uplink.status()
        assert status["state"] == "over budget"
        assert re.search("64KiB per hour is spent; the next begins in 4[89] min", status["reason"])
        assert status["budget"]["per_hour"]["limit_bytes"] == 65_536
        assert status["budget"]["per_hour"]["ends_in_s"] == 48 * 60
        assert status["last_error"] == ""
        assert ("link_up",) not in way.store.events
        await asyncio.sleep(48 * 60 + 5)
        assert ("link_up",) in way.store.events
        await way.stop(task)
        way.store.check()

    in_virtual_time(wait())


def test_a_clock_that_comes_ends_the_wait(make, make_readings) -> None:
    """Without one nobody knows when the window ends; it is looked for each minute."""

    async def wait() -> None:
        way = make(per_hour=Size(64 * 1024), wall=5)
        task = way.start()
        for _ in range(10):
            add(way.store, 500, make_readings)
            await asyncio.sleep(1)
        assert "no clock says when the next begins" in way.uplink.status()["reason"]
        before = way.store.delivered
        way.store.timeline.observe(way.clock)
        await asyncio.sleep(HOUR_S + 61)
        assert way.store.delivered > before
        await way.stop(task)

    in_virtual_time(wait())


def test_a_disk_that_takes_nothing_does_not_stop_the_road(make, make_readings) -> None:
    """What is held is worth more than the account of what it costs; the limit holds while the process lives."""

    async def go() -> None:
        way = make(per_day=Size(200_000))
        way.store.notes.is_mute = True
        task = way.start()
        for _ in range(40):
            add(way.store, 500, make_readings)
            await asyncio.sleep(60)
        assert way.store.delivered + way.store.thinned_readings > 500
        assert way.link.wire_bytes > 0.5 * 200_000 / 18
        assert way.uplink.status()["state"] == "pacing"
        await way.stop(task)
        assert way.link.wire_bytes <= 200_000

    in_virtual_time(go())


def test_failures_are_paid_and_waited_for_as_ever(make, make_readings) -> None:
    """A receiver that throttles is another matter than a budget."""

    async def go() -> None:
        way = make(TryLaterError("429", 5.0), per_day=Size(1 << 20))
        task = way.start()
        add(way.store, 100, make_readings)
        await asyncio.sleep(2)
        assert way.uplink.status()["state"] == "waiting"
        await asyncio.sleep(10)
        assert way.store.delivered == 100
        assert way.link.wire_bytes == sum(int(1.1 * len(packed.body)) + 300 for _, packed, _ in way.wire.sent)
        await way.stop(task)

    in_virtual_time(go())


def test_without_a_budget_nothing_is_in_between(make) -> None:
    """Neither a meter nor a word in the status; a rate alone needs no note."""

    async def go() -> None:
        way = make()
        task = way.start()
        await asyncio.sleep(0)
        assert way.uplink._wire is way.link
        assert "budget" not in way.uplink.status()
        await way.stop(task)
        way = make(rate=Rate(8000))
        task = way.start()
        await asyncio.sleep(0)
        assert way.uplink.status()["budget"] == {"rate_bit_s": 64_000, "wire_bytes": 0}
        assert way.store.notes.kept is None
        assert way.link.piece_bytes_max == 2000
        await way.stop(task)

    in_virtual_time(go())


def test_what_is_left_is_used_by_smaller_requests(make, make_readings) -> None:
    """A request that finds no room waits for the next window only where next to nothing would find any."""

    async def go() -> None:
        way = make(per_hour=Size(175_000))
        add(way.store, 40_000, make_readings)
        task = way.start()
        await asyncio.sleep(HOUR_S - 1)
        assert way.uplink.status()["state"] == "over budget"
        (used,) = (size for (window, _), size in way.link.left.items() if window == "hour")
        assert 175_000 - SMALL_BYTES <= used <= 175_000
        await way.stop(task)

    in_virtual_time(go())


def test_a_stop_does_not_wait_for_the_next_window(make, make_readings) -> None:
    """What is held is sent by the next run; one that waits for its turn at a rate is another matter."""

    async def go() -> None:
        way = make(per_hour=Size(64 * 1024))
        task = way.start()
        add(way.store, 20_000, make_readings)
        await asyncio.sleep(60)
        assert way.uplink.status()["state"] == "over budget"
        before_s = asyncio.get_running_loop().time()
        await way.stop(task)
        assert asyncio.get_running_loop().time() - before_s < 0.1
        task = way.start()
        before_s = asyncio.get_running_loop().time()
        # Not yet at the wait, but about to come to it.
        await asyncio.sleep(0)
        await way.stop(task)
        assert asyncio.get_running_loop().time() - before_s < 0.1
        way.store.check()

    in_virtual_time(go())


def test_who_has_no_clock_and_nothing_left_asks_for_the_time_now_and_then(make, make_readings) -> None:
    """Out of what is kept for that: else a spent window would never be known to have ended."""

    async def go() -> None:
        way = make(per_month=Size(2 << 20), wall=5)
        heard: list[float] = []
        way.on_server_time = lambda unix_s, rtt_s: heard.append(asyncio.get_running_loop().time())
        task = way.start()
        for _ in range(20):
            add(way.store, 20_000, make_readings)
        await asyncio.sleep(5 * HOUR_S)
        assert "no clock says when the next begins" in way.uplink.status()["reason"]
        probes = [packed for _, packed, _ in way.wire.sent if packed.is_probe]
        assert 4 <= len(probes) <= 6
        assert way.link.wire_bytes <= 2 << 20
        assert way.store.held > 0
        way.wire.judge = lambda signal, body: Answer(server_time_s=NOON_S + 40 * DAY_S)

        def learn(unix_s: int, rtt_s: float) -> None:
            heard.append(unix_s)
            way.clock.wall = unix_s * NS_PER_S
            way.clock.set_by = unix_s - NOON_S - asyncio.get_running_loop().time()
            way.store.timeline.observe(way.clock)

        way.on_server_time = learn
        await asyncio.sleep(HOUR_S + 120)
        assert heard
        await way.stop(task)

    in_virtual_time(go())


def ten_seconds(at_s: float, dice: random.Random, *, series: int = 1) -> Batch:
    """A reading a second of one series, as a sensor brings them."""
    times = (NOON_S + int(at_s) + np.arange(10)) * NS_PER_S
    return Batch.of(series, times, np.array([round(20 + dice.gauss(0, 3), 2) for _ in range(10)]))


def steps_of(way: Metered) -> set[int]:
    """At which steps readings were sent, by their own word; 0 for all of them."""
    found: set[int] = set()
    for _, _, body in way.wire.sent:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in resource.scope_metrics:
                marks = {mark.key: mark.value for mark in scope.scope.attributes}
                found.add(marks["tidegate.diluted"].int_value if "tidegate.diluted" in marks else 0)
    return found


def test_what_does_not_fit_is_thinned_and_kept(make) -> None:
    """A day with a third of what it needs: four of each step, at once; the rest when there is room, and no byte over."""

    async def day() -> None:
        way = make(per_day=Size(300_000))
        dice, critical = random.Random(3), 0
        task = way.start()
        for k in range(4 * 360):
            at_s = asyncio.get_running_loop().time()
            way.store.add(ten_seconds(at_s, dice))
            way.store.add(ten_seconds(at_s, dice, series=0))
            if k % 60 == 0:
                way.store.add(ten_seconds(at_s, dice, series=2), priority=Priority.CRITICAL)
                critical += 10
            await asyncio.sleep(10)
        status = way.uplink.status()
        plan = status["budget"]["plan"]
        assert plan["classes"]["normal"]["step_s"] > 0
        assert plan["why"].startswith("normal readings thinned to four a series in ")
        # Half of the day is left, and a third of that is gone.
        assert 0.8 * 300_000 / 3 < way.link.wire_bytes < 1.2 * 300_000 / 3
        # Whatever is held in full is there in its thinned form, but for the last step.
        latest = max(r.time_ns for r in way.wire.readings() if r.metric == "humidity") / NS_PER_S - NOON_S
        assert latest > 4 * HOUR_S - 2 * plan["classes"]["normal"]["step_s"] - 60
        whole = [r for r in way.wire.readings() if r.metric == "temperature" and r.device == "b"]
        assert len(whole) >= critical - 10
        assert {plan["classes"]["normal"]["step_s"]} <= steps_of(way) - {0}
        assert way.store.maybe_twice >= way.store.thinned_readings > 0
        assert way.store.accepted == way.store.delivered + way.store.held
        await way.stop(task)

    in_virtual_time(day())


def test_what_was_thinned_goes_whole_when_the_road_is_free(make) -> None:
    """In the new day what is left over takes the raw of the day before."""

    async def days() -> None:
        way = make(per_day=Size(400_000))
        dice = random.Random(3)
        task = way.start()
        for _ in range(12 * 360):
            way.store.add(ten_seconds(asyncio.get_running_loop().time(), dice, series=0))
            await asyncio.sleep(10)
        held = way.store.held
        for _ in range(6):
            await asyncio.sleep(HOUR_S)
        assert way.store.held < held / 4 or not held
        await way.stop(task)
        for (window, _), size in way.link.left.items():
            assert window != "day" or size <= 400_000

    in_virtual_time(days())


@pytest.mark.parametrize("is_sure", [True, False])
def test_what_was_thinned_goes_whole_in_free_hours(make, make_readings, is_sure) -> None:
    """The day's allowance is kept to the byte, and what is free is counted beside it; not by a clock that may be wrong."""

    async def days() -> None:
        way = make(per_day=Size(100_000), free=("14:00-18:00",), synced=is_sure)
        dice = random.Random(3)
        task = way.start()
        for _ in range(2 * 360 - 30):
            way.store.add(ten_seconds(asyncio.get_running_loop().time(), dice, series=0))
            await asyncio.sleep(10)
        by_day, held = way.link.wire_bytes, way.store.held
        assert held > 3000
        assert way.store.thinned_readings
        assert way.link.left["day", NOON_S - 43_200] == by_day <= 100_000
        # What no allowance would ever let go.
        for _ in range(10):
            add(way.store, 4000, make_readings)
        await asyncio.sleep(HOUR_S)
        status = way.uplink.status()["budget"]
        if is_sure:
            assert way.store.held == 0
            assert status["free"]["is_free"]
            assert way.link.wire_bytes > 300_000
            assert status["free"]["spent_bytes"] == pytest.approx(way.link.wire_bytes - by_day, abs=9000)
        else:
            assert way.store.held > 30_000
            assert way.link.wire_bytes <= 100_000
            assert (status["free"]["is_free"], status["free"]["spent_bytes"]) == (False, 0)
        await way.stop(task)

    in_virtual_time(days())


def test_what_is_critical_goes_though_the_day_is_spent(make, make_readings) -> None:
    """Whole and within seconds, as far as the overdraft goes; nothing else goes then, and no byte more."""

    async def day() -> None:
        way = make(per_day=Size(200_000), overdraw=("critical",), overdraw_max=Size(70_000))
        task = way.start()
        while way.uplink.status()["state"] != "over budget":
            add(way.store, 2000, make_readings)
            await asyncio.sleep(60)
        dice, begin_s = random.Random(3), asyncio.get_running_loop().time()
        assert way.link.wire_bytes <= 200_000
        lags: list[float] = []
        for k in range(60):
            at_s = asyncio.get_running_loop().time()
            add(way.store, 500, make_readings)
            way.store.add(ten_seconds(at_s, dice, series=2), priority=Priority.CRITICAL)
            await asyncio.sleep(60)
            arrived = [r.time_ns for r in way.wire.readings() if r.device == "b" and r.metric == "temperature"]
            lags.append(NOON_S + at_s + 9 - max(arrived, default=0) / NS_PER_S)
            if k == 30:
                # As much that is critical as could be once more: that stays within the bound.
                noise = make_readings(12_000, start=way.store.accepted)
                noise.bits[:] = memoryview(dice.randbytes(8 * 12_000)).cast("q")
                way.store.add(noise, priority=Priority.CRITICAL)
        status = way.uplink.status()["budget"]["per_day"]
        assert lags[:30] == pytest.approx([0] * 30, abs=1.0)
        assert 0 < status["overdrawn_bytes"] <= 70_000
        assert way.link.left["day", NOON_S - 43_200] <= 270_000
        assert way.store.held > 60 * 500
        assert begin_s < 11 * HOUR_S
        await way.stop(task)

    in_virtual_time(day())


def test_what_may_overdraw_is_not_said_to_be_thinned(make, make_readings) -> None:
    """The plan is for all else; an alert on its steps would tell of what goes whole and as it comes."""

    async def day() -> None:
        way = make(per_day=Size(200_000), overdraw=("critical",), overdraw_max=Size(70_000))
        task = way.start()
        dice, count = random.Random(3), 0
        for _ in range(20):
            add(way.store, 2000, make_readings)
            noise = make_readings(300, start=way.store.accepted)
            noise.bits[:] = memoryview(dice.randbytes(8 * 300)).cast("q")
            way.store.add(noise, priority=Priority.CRITICAL)
            await asyncio.sleep(60)
            plan = way.uplink.status()["budget"]["plan"]
            if "normal" not in plan["classes"]:
                # Nothing is known yet of what comes in.
                continue
            count += bool(plan["classes"]["normal"]["step_s"])
            assert (plan["classes"]["critical"]["step_s"], plan["classes"]["critical"]["bytes_s"]) == (0.0, None)
            assert "critical" not in plan["why"].replace("critical readings go whole, beyond it where they must", "")
        assert count > 10
        assert "critical readings go whole, beyond it where they must" in plan["why"]
        await way.stop(task)

    in_virtual_time(day())


def test_who_holds_nothing_is_idle(make, make_readings, monkeypatch) -> None:
    """Where there may be something is known sooner than where there is: nobody waits for the turn of nothing."""
    monkeypatch.setattr(Scheduler, "decide", lambda *_, **__: Decision(wait_s=60.0, why="later"))

    async def go() -> None:
        way = make(per_hour=Size(64 * 1024))
        way.store.link_up("cloud")
        way.store._held.set()
        task = way.start()
        await asyncio.sleep(5)
        assert way.uplink.status()["state"] == "idle"
        add(way.store, 10, make_readings)
        await asyncio.sleep(5)
        assert way.uplink.status()["state"] == "pacing"
        await way.stop(task)

    in_virtual_time(go())


def test_no_request_keeps_what_is_fresh_for_an_hour(make, monkeypatch) -> None:
    """While a backlog waits for room, no lease of it costs what live data needs until the hour ends."""
    monkeypatch.setattr(delivery, "PACE_LOOK_S", 30.0)

    async def hours() -> None:
        way = make(per_hour=Size(64 * 1024))
        loop, dice, latest_s, seen, late_s = asyncio.get_running_loop(), random.Random(3), 0.0, 0, 0.0
        task = way.start()
        for k in range(4 * 120):
            way.store.add(Batch.join([ten_seconds(loop.time(), dice) for _ in range(18)]))
            await asyncio.sleep(30)
            readings = [r for _, _, body in way.wire.sent[seen:] for r in parse_metrics(body)]
            seen = len(way.wire.sent)
            latest_s = max([latest_s, *(r.time_ns / NS_PER_S - NOON_S for r in readings)])
            late_s = max(late_s, loop.time() - latest_s)
            if k == 60:
                # An outage is over.
                way.store.link_up("cloud")
                for _ in range(300):
                    way.store.add(Batch.join([ten_seconds(0.0, dice) for _ in range(10)]), lane="backlog")
        assert late_s < 900
        used = [size for (window, _), size in way.link.left.items() if window == "hour"]
        assert max(used) <= 64 * 1024
        assert min(used[:4]) > 0.66 * 64 * 1024
        await way.stop(task)
        way.store.check()

    in_virtual_time(hours())


def test_with_little_to_spend_all_goes_whole_that_fits(make, make_readings) -> None:
    """Devices speak each five minutes: thinned and whole by turns it was 48 times in six hours, and most of it waited."""

    async def hours() -> None:
        way, steps = make(per_day=Size(90_000)), [0.0]
        task = way.start()
        for _ in range(6 * 12):
            add(way.store, 30, make_readings)
            for _ in range(15):
                await asyncio.sleep(20)
                classes = way.uplink.status()["budget"].get("plan", {}).get("classes", {})
                steps.append(classes.get("normal", {}).get("step_s", 0.0))
        await way.stop(task)
        assert sum(one != other for one, other in pairwise(steps)) <= 2
        assert way.store.delivered >= way.store.accepted - 5 * 30
        assert way.store.thinned_readings <= 30
        assert way.link.wire_bytes <= 0.6 * 90_000
        way.store.check()

    in_virtual_time(hours())


def dead(way: Metered, *, until_s: float) -> list[float]:
    """Have nobody take a connection until then; return when one was tried, each of which costs 440 bytes."""
    tried, send = [], way.link.send

    def fail(packed) -> Answer:
        now_s = asyncio.get_running_loop().time()
        if now_s >= until_s:
            return send(packed)
        tried.append(now_s)
        way.link.cost(TRY_BYTES)
        raise UnreachableError("10.0.0.1:4318: No route to host")

    way.link.send = fail
    return tried


@pytest.mark.parametrize("is_spent", [False, True])
def test_who_cannot_be_reached_costs_a_twentieth_of_an_allowance(make, make_readings, *, is_spent: bool) -> None:
    """Tried each few seconds it was all of it, and all that may be overdrawn; it is said, and soon found when it is back."""
    over = 512 << 10

    async def go() -> None:
        way = make(per_day=Size(2 << 20), overdraw=("critical",), overdraw_max=Size(over))
        tried = dead(way, until_s=10 * HOUR_S)
        task = way.start()
        await asyncio.sleep(1)
        while is_spent and way.uplink._spending._own.lacking(1 << 15) is None:
            way.uplink._spending._own.mute()
            way.uplink._spending._own.take(1 << 15)
        for _ in range(10):
            add(way.store, 30, make_readings)
            way.store.add(make_readings(1, start=way.store.accepted), priority=Priority.CRITICAL)
            await asyncio.sleep(HOUR_S)
        part = SPENT_SHARE * over if is_spent else SHARE * (2 << 20)
        assert TRY_BYTES * len(tried) <= part * (10 / 24 + SAVED_SHARE) + PROBE_BYTES
        assert len(tried) > 30
        assert "tries have had their part of what may be spent" in way.uplink.status()["reason"]
        assert sum(at_s < 60 for at_s in tried) > 5, "as ever in a short outage"
        last_s = tried[-1]
        await asyncio.sleep(max(later - before for before, later in pairwise(tried)) + 60)
        assert min(at_s for at_s in way.wire.times() if at_s > last_s) < 10 * HOUR_S + 600
        await way.stop(task)

    in_virtual_time(go())


def test_each_turn_of_a_lease_is_charged_by_itself(make, make_readings, monkeypatch) -> None:
    """One that lets fresh data go between its requests has cost each time what was sent then, and not all of it again."""
    seen: list[Sent] = []
    monkeypatch.setattr(Scheduler, "sent", lambda _, sent, now_s: seen.append(sent))

    async def go() -> None:
        way = make(per_day=Size(100 << 20))
        way.wire.takes_s = 2.0
        way.store.add(make_readings(50_000), lane="backlog")
        task = way.start()
        for k in range(10):
            await asyncio.sleep(3)
            way.store.add(make_readings(10, series=1, start=10 * k))
        await asyncio.sleep(60)
        await way.stop(task)
        turns = [sent for sent in seen if sent.lane == "backlog"]
        assert len(turns) > 1
        assert sum(sent.left for sent in turns) == 50_000
        assert sum(sent.wire_bytes for sent in seen) == way.link.wire_bytes

    in_virtual_time(go())


def links_of(tmp_path, way: Metered, *settings: LinkSettings, down: set[str]) -> Links:
    """The links of `settings`, of which those in `down` are."""
    return Links(
        settings,
        clock=way.clock,
        random=random.Random(1),
        store=way.store,
        folder=tmp_path,
        look=lambda one: Seen(one.interface, "no carrier" if one.name in down else ""),
    )


def over(way: Metered, links: Links, *names: str, called: str) -> Metered:
    """`way` over links."""
    way.settings = msgspec.structs.replace(way.settings, name=called, links=names)
    way.road = links.road(way.settings)
    return way


def test_two_share_a_link_for_a_day_and_each_has_its_part(make, make_readings, tmp_path, monkeypatch) -> None:
    """One has fifty times as much to say: never over together by a byte, nobody silent for long, most of it used."""
    monkeypatch.setattr(delivery, "PACE_LOOK_S", 60.0)
    limit = 1_000_000

    async def day() -> None:
        heavy, light = make(), make()
        lte = LinkSettings(name="lte", interface="wwan0", budget=BudgetSettings(per_day=Size(limit)))
        links = links_of(tmp_path, heavy, lte, down=set())
        ways = [over(heavy, links, "lte", called="heavy"), over(light, links, "lte", called="light")]
        looking = asyncio.create_task(links.run())
        tasks = [way.start() for way in ways]
        for _ in range(24 * 6):
            add(heavy.store, 2500, make_readings)
            add(light.store, 50, make_readings)
            await asyncio.sleep(600)
        for way, task in zip(ways, tasks, strict=True):
            await way.stop(task)
            way.store.check()
            gaps = np.diff([at_s for at_s in way.wire.times() if at_s > HOUR_S])
            assert gaps.max() < 2 * HOUR_S
        looking.cancel()
        await asyncio.wait({looking})
        together = heavy.link.left + light.link.left
        by_day = [size for (window, _), size in sorted(together.items()) if window == "day"]
        assert max(by_day) <= limit
        assert by_day[0] > 0.6 * limit
        # What has little to say has all of it said.
        assert light.store.delivered > 0.8 * light.store.accepted

    virtual_threads.run(day())


def test_what_was_thinned_goes_whole_where_the_way_is_free(make, make_readings, tmp_path) -> None:
    """Over the modem nothing but four readings a step; when the cable is back all of it, and the modem pays nothing."""
    limit = 300_000

    async def go() -> None:
        way, down = make(), {"ethernet"}
        lte = LinkSettings(name="lte", interface="wwan0", budget=BudgetSettings(per_day=Size(limit)))
        ethernet = LinkSettings(name="ethernet", interface="eth0", metered=False)
        links = links_of(tmp_path, way, lte, ethernet, down=down)
        over(way, links, "ethernet", "lte", called="cloud")
        looking, task = asyncio.create_task(links.run()), way.start()
        for _ in range(120):
            add(way.store, 1500, make_readings)
            await asyncio.sleep(60)
        assert way.uplink.status()["link"] == "lte"
        assert way.store.thinned_readings > 100
        spent = links.told()["lte"]["budget"]["per_day"]["spent_bytes"]
        assert 0 < way.link.wire_bytes <= spent <= limit
        down.clear()
        await asyncio.sleep(120)
        status = way.uplink.status()
        assert (status["link"], way.store.held, status["state"]) == ("ethernet", 0, "idle")
        assert links.told()["lte"]["budget"]["per_day"]["spent_bytes"] == spent
        assert links.told()["lte"]["wire_bytes"] + links.told()["ethernet"]["wire_bytes"] == way.link.wire_bytes
        assert "budget" in status
        await way.stop(task)
        looking.cancel()
        await asyncio.wait({looking})

    virtual_threads.run(go())


def test_who_waits_for_a_window_goes_when_another_link_is_there(make, make_readings, tmp_path) -> None:
    """And who has no link says so, and goes when one comes."""

    async def go() -> None:
        way, down = make(), {"ethernet"}
        lte = LinkSettings(name="lte", interface="wwan0", budget=BudgetSettings(per_month=Size(70_000)))
        ethernet = LinkSettings(name="ethernet", interface="eth0", metered=False, settle=Duration(0))
        links = links_of(tmp_path, way, lte, ethernet, down=down)
        over(way, links, "ethernet", "lte", called="cloud")
        add(way.store, 20_000, make_readings)
        looking, task = asyncio.create_task(links.run()), way.start()
        await asyncio.sleep(600)
        status = way.uplink.status()
        assert status["state"] == "over budget"
        assert "the budget of 70000B per month on lte is spent" in status["reason"]
        down.clear()
        await asyncio.sleep(10)
        assert way.uplink.status()["state"] == "idle"
        down.update(("ethernet", "lte"))
        await asyncio.sleep(3)
        add(way.store, 100, make_readings)
        await asyncio.sleep(30)
        status = way.uplink.status()
        assert (status["state"], status["link"]) == ("no link", None)
        assert status["reason"] == "no link of cloud is up: ethernet: no carrier; lte: no carrier"
        down.clear()
        await asyncio.sleep(3)
        assert (way.uplink.status()["state"], way.store.held) == ("idle", 0)
        assert way.store.maybe_twice == way.store.thinned_readings == 0
        await way.stop(task)
        looking.cancel()
        await asyncio.wait({looking})

    virtual_threads.run(go())
