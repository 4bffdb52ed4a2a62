"""A whole gateway and all around it, simulated from one seed in virtual time: plant, clock, disk, roads, power.

    world = World(tmp_path, seed=7)
    run(world.live())                # plays the story; whoever breaks a promise meanwhile raises AssertionError

Pipeline, mapper, store, uplinks and SQLite are the real ones. What is not: threads (they live in the loop), the
network (hil/bad_road) and the syncs below SQLite (hil/power_cut cuts those). A power cut here is the end of a
process: its files are as it left them, and nothing that it does afterwards reaches them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from gateway.codecs.mapping import Mapper
from gateway.core.clock import NS_PER_S, SAMPLES_PER_BOOT_MAX, Quality, Sample
from gateway.core.contracts import Arrivals, FullError
from gateway.core.telemetry import LABEL_SETS_MAX, Telemetry
from gateway.core.units import Duration
from gateway.pipeline import Pipeline
from gateway.store import room as store_room
from gateway.store.connection import DATABASE
from gateway.store.database import SeriesBounds, Store, StoreSettings
from gateway.store.reading import verify
from gateway.store.recent import ORDER_SPARE
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.endpoints import Endpoints
from gateway.uplinks.settings import OtlpUplinkSettings, RetrySettings
from gateway.uplinks.worker import Seams
from hil.bad_road import BadRoad, InlineWorker, Lane, Weather
from hil.plant_model import FarSide, Message, Truth, mappings
from hil.virtual_threads import Disk, inline_sqlite
from hil.world_plan import HOUR_S, BoxClock, Plan, true_ns

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.uplinks.guards import Wire
    from hil.plant_model import Point

UPLINKS: Final = ("cloud", "archive")
CALM_HOURS_MAX: Final = 24.0
LOOK_S: Final = 300.0
# After so long a time without any answer it counts as an outage.
OUTAGE_S: Final = 600.0
FRESH_REQUESTS_MAX: Final = 4
FRESH_NS: Final = 120 * NS_PER_S
# A request may be so long on its way: what came meanwhile is not in it.
ON_ITS_WAY_S: Final = 30.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Run:
    """One process of the gateway."""

    store: Store
    pipeline: Pipeline
    disk: Disk
    clock: BoxClock
    telemetry: Telemetry
    roads: dict[str, BadRoad]
    uplinks: dict[str, Uplink] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    is_dead: bool = False


class World:
    """One life of one gateway."""

    def __init__(self, folder: Path, *, seed: int, hours: float, receivers: int = 1) -> None:
        self.seed = seed
        self._receivers = receivers
        self.dice = Random(seed)
        self.plan = Plan.of(self.dice, hours=hours)
        self.truth = Truth(self.dice)
        self.far = {name: FarSide(self.truth) for name in UPLINKS}
        self.weather = {name: Weather(trouble=self.plan.trouble, delay_s=0.2) for name in UPLINKS}
        self.stats: Counter[str] = Counter()
        # Readings that were sent while the disk took nothing for long: that is noted nowhere.
        self.unnoted: Counter[str] = Counter()
        self.run: Run | None = None
        # Series that are silent for some seconds are forgotten all the time, or in some lives none ever is.
        self._series_idle_s = (5.0, 30.0, 7 * 86_400.0)[seed % 3]
        self._folder = folder
        self._runs = 0
        self._boots = 0
        self._is_over = False
        self._clock: BoxClock | None = None
        self._disk = Disk(self.dice)
        self._zombies: list[asyncio.Task[None]] = []
        self._up = asyncio.Event()
        self._last_taken_s = dict.fromkeys(UPLINKS, 0.0)
        self._owed_fresh = dict.fromkeys(UPLINKS, (0, 0))
        self._came: deque[tuple[float, int]] = deque([(0.0, 0)])  # when something was accepted, in either time

    # The story.

    async def live(self) -> None:
        """Play it all, then let the weather clear up, let everything drain, and hold the gateway to account."""
        with inline_sqlite(lambda: self._disk), mock.patch.object(store_room, "LOG_BYTES_MIN", 16 << 10):
            await self._boot(self._folder / "state-0")
            story = [self._device(number) for number in range(self.plan.devices)]
            powers = [self._sky(name) for name in UPLINKS] + [self._wear(), self._keep_time(), self._look_around()]
            async with asyncio.TaskGroup() as devices:
                for device in story:
                    devices.create_task(device)
                async with asyncio.TaskGroup() as world:
                    tasks = [world.create_task(power) for power in powers]
                    await self._power()
                    self._is_over = True
                    for task in tasks:
                        task.cancel()
                self._calm()
            await self._drain()
            await self._stop()
            await self._reopen()
            for zombie in self._zombies:
                await zombie

    async def _power(self) -> None:
        """Let hours pass, with as many reboots as planned."""
        spans = self.plan.reboots + 1
        for number in range(spans):
            await asyncio.sleep(self.plan.hours * HOUR_S / spans * self.dice.uniform(0.5, 1.5))
            if number == spans - 1:
                return
            kind = self.dice.choice(["cut", "cut", "killed", "restart"])
            self.stats[kind] += 1
            if kind == "restart":
                await self._stop()
                folder = self._path
            else:
                folder = await self._die()
            if kind == "cut" or self.dice.random() < 0.5:
                self._clock = None
                await asyncio.sleep(self.dice.choice([1.0, 60.0, 3 * HOUR_S]))
            await self._boot(folder)

    def _calm(self) -> None:
        assert self.run is not None
        for weather in self.weather.values():
            weather.is_up, weather.trouble = True, 0.0
        self._disk.fails_with = ""
        self.run.clock.set_right()

    async def _drain(self) -> None:
        deadline_s = _now_s() + CALM_HOURS_MAX * HOUR_S
        while any(self.held(name) for name in UPLINKS):
            assert _now_s() < deadline_s, f"after a calm day still held: {self.status()}"
            await asyncio.sleep(10.0)
            # Nothing is committed while nothing happens, and a clock is looked at when something is.
            self.check()

    # Boots.

    async def _boot(self, path: Path) -> None:
        self._path = path
        self._runs += 1
        if self._clock is None:
            self._boots += 1
            off_ns = self.dice.randint(-(10**7), 10**7) if self.plan.has_rtc else 100 * 86400 * NS_PER_S - true_ns()
            drift = self.dice.uniform(-2e-5, 2e-5)
            self._clock = BoxClock(f"boot-{self._boots}", _now_s(), drift, off_ns)
        fails_with = self._disk.fails_with
        self._disk = Disk(self.dice, statement_s=self.plan.statement_s)
        telemetry = Telemetry()
        store = await Store.open(
            state_dir=path,
            settings=self.plan.settings,
            clock=self._clock,
            uplinks=UPLINKS,
            max_series=1000,
            telemetry=telemetry,
            commit_interval_s=self.plan.commit_interval_s,
            series=SeriesBounds(idle_s=self._series_idle_s),
        )
        odd = [event for event in store.events if "just before the process ended" not in event]
        assert not odd, odd
        self._disk.fails_with = fails_with
        mapper = Mapper(mappings(), resolve=store.resolve)
        pipeline = Pipeline(mapper=mapper, engine=None, store=store, clock=self._clock, telemetry=telemetry)
        run = Run(store, pipeline, self._disk, self._clock, telemetry, {})
        for name in UPLINKS:
            self._start_uplink(run, name, telemetry)
        self.run = run
        self._up.set()

    def _start_uplink(self, run: Run, name: str, telemetry: Telemetry) -> None:
        road = BadRoad(
            self.dice,
            self.weather[name],
            deliver=lambda points: self._deliver(run, name, points),
            now_s=_now_s,
            unix_s=lambda: true_ns() // NS_PER_S,
        )
        run.roads[name] = road
        settings = OtlpUplinkSettings(
            name=name,
            endpoints=tuple(f"http://127.0.0.1:{number + 1}" for number in range(self._receivers)),
            batch_interval=Duration(self.dice.choice([0.0, 1.0, 60.0])),
            batch_readings_max=self.dice.choice([100, 50_000]),
            retry=RetrySettings(initial=Duration(1), max=Duration(60)),
        )
        wire: Wire = road
        if self._receivers > 1:
            wire = Endpoints(settings, [Lane(road) for _ in range(self._receivers)], clock=run.clock, random=self.dice)
        uplink = Uplink(
            settings,
            store=run.store,
            gateway_attributes=(("tidegate.gateway.id", "simulated"),),
            version="0",
            clock=run.clock,
            telemetry=telemetry,
            random=self.dice,
            seams=Seams(
                wire=wire,
                start_worker=lambda _: InlineWorker(road, self.dice),  # type: ignore[arg-type,return-value]
                on_server_time=(lambda unix_s, _: _learn(run, unix_s)) if self.plan.learns_time else None,
            ),
        )
        run.uplinks[name] = uplink
        run.tasks.append(asyncio.create_task(uplink.run(), name=f"uplink {name}"))

    async def _stop(self) -> None:
        """Stop as the gateway does: roads, then the shelf."""
        run = self.run
        assert run is not None
        self._up.clear()
        await _end(run.tasks)
        await run.store.close()
        run.is_dead = True

    async def _die(self) -> Path:
        """End the process between two turns of the loop; return where its files are."""
        run = self.run
        assert run is not None
        self._up.clear()
        run.is_dead = True
        run.disk.cut()
        folder = self._folder / f"state-{self._runs}"
        folder.mkdir()
        for file in self._path.glob(f"{DATABASE}*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, folder)
        for road in run.roads.values():
            road.is_dead = True
        self._zombies.append(asyncio.create_task(_bury(run), name="funeral"))
        return folder

    async def _reopen(self) -> None:
        """Look at what is on the disk: the same numbers as in memory."""
        assert self.run is not None
        before = self.status()
        await self._boot(self._path)
        after = self.status()
        assert before["accepted"] == after["accepted"]
        for name in UPLINKS:
            for word in ("delivered", "held", "ledger", "maybe_twice"):
                assert before["uplinks"][name][word] == after["uplinks"][name][word], (name, word)
        await self._stop()
        report = verify(self._path)
        assert not report.problems, report.problems

    # The plant.

    async def _device(self, number: int) -> None:
        """Publish now and then; hold what was not acknowledged and offer it again, to whoever is there."""
        kinds = [["meter"], ["meter", "alarm"], ["wave"], ["meter", "rubbish"]][number % 4]
        dice = self.dice
        pause_s = 400.0 if kinds == ["wave"] else dice.choice([30.0, 150.0])
        while not self._is_over:
            await asyncio.sleep(dice.expovariate(1 / pause_s))
            count = 1 if kinds == ["wave"] else dice.choice([1, 1, 5, 40])
            now_ns = true_ns()
            messages = [self.truth.message(dice.choice(kinds), f"d{number}", now_ns=now_ns) for _ in range(count)]
            await self._publish(messages)

    async def _publish(self, messages: list[Message]) -> None:
        while True:
            await self._up.wait()
            run = self.run
            assert run is not None
            arrivals = Arrivals(
                "direct",
                [message.topic for message in messages],
                [message.payload for message in messages],
                run.clock.monotonic_ns(),
            )
            self.truth.arrived(messages, true_ns())
            while not run.is_dead:
                try:
                    accepted = await run.pipeline.accept(arrivals)
                except FullError as error:
                    if not run.is_dead:
                        self.stats["pushed back"] += 1
                        await asyncio.sleep(error.after_s)
                        continue
                if run.is_dead:
                    break
                assert accepted.readings == sum(len(message.keys) for message in messages)
                self.truth.promised(messages, true_ns(), malformed=len(accepted.malformed))
                if any(message.keys for message in messages):
                    self._came.append((_now_s(), true_ns()))
                return
            # It was offered when the process ended: kept or not, it will be offered again.
            self.truth.perhaps(messages)

    # Weather, wear and clocks.

    async def _sky(self, name: str) -> None:
        weather, dice = self.weather[name], self.dice
        if name == UPLINKS[1] and dice.random() < 0.5:
            weather.is_up = False
            await asyncio.sleep(self.plan.hours * HOUR_S * 0.8)
        while True:
            weather.is_up = dice.random() < 0.6
            weather.delay_s = dice.choice([0.05, 1.0, 8.0])
            weather.readings_max = dice.choice([1 << 30, 1 << 30, 50])
            await asyncio.sleep(dice.choice([60.0, 600.0, HOUR_S]))

    async def _wear(self) -> None:
        while self.plan.disk_trouble:
            await asyncio.sleep(self.dice.expovariate(1 / HOUR_S))
            self._disk.fails_with = self.dice.choice(["database or disk is full", "disk I/O error"])
            await asyncio.sleep(self.dice.choice([1.0, 30.0, 120.0]))
            self.stats["disk failures"] += self._disk.failures
            self._disk.fails_with = ""

    async def _keep_time(self) -> None:
        dice = self.dice
        while True:
            await asyncio.sleep(dice.choice([5.0, 300.0, HOUR_S]))
            clock = self._clock
            if clock is None:
                continue
            fate = dice.random()
            if fate < 0.6:
                clock.set_right(dice.randint(-(10**6), 10**6))
            elif fate < 0.8:
                clock.synced = False
            elif not self.plan.is_clock_steady:
                # Somebody sets it by hand, wrong by days, and no time server says so.
                clock.set_right(dice.randint(-5, 5) * 86400 * NS_PER_S, synced=False)
                self.stats["clock jumps"] += 1

    # What is looked at.

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / LOOK_S))
            if self._up.is_set():
                self.check()

    def status(self) -> dict[str, Any]:
        """Return the store's status."""
        assert self.run is not None
        return dict(self.run.store.status())

    def held(self, name: str) -> int:
        """Return what is held for an uplink."""
        return int(self.status()["uplinks"][name]["held"])

    def check(self) -> None:
        """Hold what must hold at any moment."""
        assert self.run is not None
        for task in self.run.tasks:
            assert not task.done(), f"{task.get_name()} has ended: {task}"
        status = self.status()
        truth = self.truth
        promised = truth.promised_readings + truth.promised_malformed
        assert status["accepted"] >= promised, f"{status['accepted']} accepted, {promised} promised"
        self.stats["looks"] += 1
        for name, account in status["uplinks"].items():
            gap = status["accepted"] - account["delivered"] - account["held"] - sum(account["ledger"].values())
            assert gap == 0, f"{name}: {gap} readings are nowhere: {account}"
            classes = account["held_by_class"].values()
            assert sum(classes) == account["held"], f"{name}: the classes are not what is held: {account}"
            assert min(classes) >= 0, f"{name}: fewer than none are held: {account}"
        check_memory(self.run.store, self.plan.settings)
        for family in self.run.telemetry.families():
            assert len(family.values) <= LABEL_SETS_MAX

    def _deliver(self, run: Run, name: str, points: list[Point]) -> None:
        assert not run.is_dead
        was_set = any(sample.quality is Quality.SYNCED for sample in run.store.timeline.current.samples)
        self.far[name].take(points, is_time_known=was_set and self._boots == 1)
        if run.store._desks[name].allowance.is_mute:  # noqa: SLF001  white-box, by purpose
            self.unnoted[name] += len(points)
        self._check_fresh(run, name, points)

    @staticmethod
    def _lacks_fresh(run: Run) -> bool:
        """Whether nothing fresh is taken in just now, or none of it can leave because nobody knows the time."""
        is_unknown = run.store.timeline.quality is Quality.UNKNOWN
        return is_unknown or bool(run.store.status()["store"]["trouble"])

    def _check_fresh(self, run: Run, name: str, points: list[Point]) -> None:
        """After an outage something of the last minutes is among the first requests that go through in a row."""
        now_s, failures = _now_s(), run.roads[name].failures
        # One that was cut in parts is one all the same.
        is_same_lease = run.uplinks[name].status()["in_hand_taken"] != 0
        if now_s - self._last_taken_s[name] > OUTAGE_S and self.held(name) > 100:
            self._owed_fresh[name] = (FRESH_REQUESTS_MAX, failures)
            self.stats["outages"] += 1
        self._last_taken_s[name] = now_s
        owed, failures_then = self._owed_fresh[name]
        origins = [self.truth.origins[point.key] for point in points]
        newest_ns = max(origin.kept_ns or origin.arrived_ns for origin in origins)
        while len(self._came) > 1 and self._came[1][0] < now_s - ON_ITS_WAY_S:
            self._came.popleft()
        if not owed or newest_ns >= self._came[0][1] - FRESH_NS:
            self._owed_fresh[name] = (0, failures)
        elif failures != failures_then or self._lacks_fresh(run):
            # The link went down again: from its next first success on.
            self._owed_fresh[name] = (FRESH_REQUESTS_MAX, failures)
        elif not is_same_lease:
            self._owed_fresh[name] = (owed - 1, failures)
            assert owed > 1, f"{name}: {FRESH_REQUESTS_MAX} requests after an outage and nothing is fresh"


def check_memory(store: Store, settings: StoreSettings) -> None:
    """Check that what the store keeps in memory stays within its bounds, whatever the backlog."""
    committer = store._committer  # noqa: SLF001  white-box, by purpose
    recent = committer._recent  # noqa: SLF001
    assert recent.size_bytes <= settings.recent_bytes
    assert len(recent._order) <= 2 * (settings.recent_bytes // 50) + ORDER_SPARE  # noqa: SLF001
    assert len(store.settling.done) <= 20_000
    for desk in store._desks.values():  # noqa: SLF001
        assert len(desk._leased) <= 2000  # noqa: SLF001
        assert len(desk._hidden) <= 20_000  # noqa: SLF001
    for times in store.timeline.boots:
        assert len(times.samples) <= SAMPLES_PER_BOOT_MAX


def _learn(run: Run, unix_s: int) -> None:
    timeline = run.store.timeline
    if timeline.quality is Quality.UNKNOWN:
        monotonic_ns = run.clock.monotonic_ns()
        timeline.add(Sample(monotonic_ns, unix_s * NS_PER_S - monotonic_ns, Quality.UNSYNCED))


async def _bury(run: Run) -> None:
    """Let the tasks of a dead process end; nothing that they do reaches anybody."""
    await _end(run.tasks)
    with contextlib.suppress(Exception):
        await run.store.close()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
