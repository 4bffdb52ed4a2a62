"""What uplinks cost each other, and how long their guards think. Must not start a gateway of its own.

Three uplinks on one store, two of them to counting receivers and one to somebody who takes connections and bytes and
never answers; beside it, in turn, the same two with the third at rest. All of it goes over real sockets: over lines of
a rate, where nobody is to lose anything, and as fast as the box can, where whoever hangs has its own part of the
processor for what it sends in vain.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.bench.processes import SinkUnderTest
from gateway.bench.report import Figure, Result
from gateway.core.batch import Batch, Series
from gateway.core.clock import SystemClock
from gateway.core.contracts import Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.timeouts import timeout
from gateway.core.units import Duration, Rate
from gateway.core.words import plural
from gateway.store.database import Store, StoreSettings
from gateway.store.policy import Lane
from gateway.store.spots import Outlook
from gateway.uplinks.breaker import Breaker, Limits
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.endpoints import Endpoints
from gateway.uplinks.flow import LOOK_S_MIN
from gateway.uplinks.retry import SCHEDULES, Backoff
from gateway.uplinks.scheduling import Scheduler, WindowLeft
from gateway.uplinks.settings import OtlpUplinkSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLOCK: Final = SystemClock()
WELL: Final = ("first", "second")
HANGING: Final = "hanging"
PIECE_READINGS: Final = 20_000
SERIES: Final = 200
# So that it hangs several times in a round.
HANGS_S: Final = 1.0
LINE: Final = Rate(4e6 / 8)
WITHIN_S: Final = 120.0
DECISION_US_MAX: Final = 20.0
# As often as an uplink with much to send asks.
BETWEEN_S: Final = 0.1


def hanging(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure what two uplinks deliver beside a third that hangs, as a part of what they deliver without it."""
    yield _compare("over lines of 4 Mbit/s", readings=500_000 if quick else 2_000_000, rounds=1, rate=LINE, floor=95)
    yield _compare("as fast as can be", readings=1_000_000 if quick else 4_000_000, rounds=3 if quick else 5)


def _compare(what: str, *, readings: int, rounds: int, rate: Rate | None = None, floor: float | None = None) -> Figure:
    alone, beside = [], []
    with contextlib.ExitStack() as stack:
        sinks = {}
        for name in WELL:
            sink = SinkUnderTest()
            stack.callback(sink.end)
            sinks[name] = sink.endpoint
        silent = stack.enter_context(_silent())
        for _ in range(rounds):
            alone.append(asyncio.run(_deliver(readings, sinks, rate=rate)))
            beside.append(asyncio.run(_deliver(readings, {**sinks, HANGING: silent}, rate=rate)))
    # Whatever else the machine does makes a round longer and never shorter.
    return Figure(
        f"roads: one of three hanging, throughput of the others {what}", 100 * min(alone) / min(beside), "% of alone",
        floor=floor, better="more",
        note=f"{2 * readings / min(beside) / 1e6:.2f} M readings/s beside it, {2 * readings / min(alone) / 1e6:.2f} "
        f"alone; the best of {plural(rounds, 'round')} each, in turn",
    )  # fmt: skip


@contextlib.contextmanager
def _silent() -> Iterator[str]:
    """Somebody who takes what comes and says nothing; give the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                while connection.recv(1 << 16):
                    pass

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=take, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


async def _deliver(readings: int, addresses: dict[str, str], *, rate: Rate | None) -> float:
    """Fill a shelf for three uplinks, start those that have an address; return how long the two that are well take."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        store = await Store.open(
            state_dir=Path(folder),
            settings=StoreSettings(),
            clock=CLOCK,
            uplinks=[*WELL, HANGING],
            max_series=2 * SERIES,
            telemetry=Telemetry(),
            commit_interval_s=0.05,
        )
        try:
            await _fill(store, readings)
            tasks = []
            if HANGING in addresses:
                third = _uplink(store, HANGING, addresses[HANGING], rate=rate)
                tasks.append(asyncio.create_task(third.run()))
                # It hangs when the others begin, and again and again while they deliver.
                await _until(lambda: third.status()["bytes_sent"])
            began_s = time.monotonic()
            well = [_uplink(store, name, addresses[name], rate=rate) for name in WELL]
            tasks += [asyncio.create_task(uplink.run()) for uplink in well]
            await _until(lambda: not any(store.status()["uplinks"][name]["held"] for name in WELL))
            took_s = time.monotonic() - began_s
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await store.close()
    return took_s


async def _until(is_so: Callable[[], object]) -> None:
    async with timeout(WITHIN_S):
        while not is_so():  # noqa: ASYNC110  as somebody would who looks from outside
            await asyncio.sleep(0.01)


async def _fill(store: Store, readings: int) -> None:
    numbers = [store.resolve(Series((("device.id", f"d{k}"),), "n")) for k in range(SERIES)]
    series = np.resize(np.array(numbers, np.uint32), PIECE_READINGS)
    for start in range(0, readings, PIECE_READINGS):
        times = CLOCK.wall_ns() + np.arange(PIECE_READINGS) // SERIES * 1_000_000_000
        values = np.sin(np.arange(start, start + PIECE_READINGS)).astype(np.float64).round(2)
        await store.append([(Priority.NORMAL, Batch.of(series, times, values))])


def _uplink(store: Store, name: str, address: str, *, rate: Rate | None) -> Uplink:
    return Uplink(
        OtlpUplinkSettings(
            name=name,
            endpoint=address,
            timeout=Duration(HANGS_S),
            batch_interval=Duration(0.05),
            budget=BudgetSettings(rate=rate),
        ),
        store=store,
        gateway_attributes=(),
        version="bench",
        clock=CLOCK,
        telemetry=Telemetry(),
        random=random.Random(1),  # noqa: S311  jitter is no secret
    )


def decisions(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Measure how long guards take to decide, in the median of small rounds. It is processor time: they do not wait."""
    dice, rounds = random.Random(1), 20 if quick else 200  # noqa: S311  the same

    breaker = Breaker(Limits(), dice)

    def ask_breaker(k: int) -> None:
        breaker.allows(k)
        breaker.begin(k)
        (breaker.failed if k % 3 == 0 else breaker.succeeded)(k)

    yield _figure("a breaker's question, beginning and end", ask_breaker, rounds)
    waits = [Backoff(1.0, 60.0, dice, strategy=strategy) for strategy in SCHEDULES]
    yield _figure("a wait after a failure", lambda k: waits[k % len(waits)].failed(), rounds)
    settings = OtlpUplinkSettings(
        name="bench", endpoints=("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"), balance="weighted"
    )
    three = Endpoints.of(settings, version="bench", clock=CLOCK, random=dice)
    yield _figure("who of three receivers is next", lambda _: three.order(Signal.METRICS), rounds)
    yield _budgeted(rounds)


def _budgeted(rounds: int) -> Figure:
    """Measure how long it takes to say what may go over an allowance that is too small, of three classes."""
    scheduler, spots = Scheduler(1.0), frozenset((Lane.LIVE, priority) for priority in Priority)
    window, looks, now_s = WindowLeft("day", 8e5, 40_000.0), 0, 0.0

    def look(later_s: float) -> None:
        nonlocal looks, now_s
        looks, now_s = looks + 1, now_s + later_s
        outlook = Outlook(spots, 0, (looks, 10 * looks, 10 * looks), 0.3)
        scheduler.decide(now_s, windows=[window], rate=None, outlook=outlook)

    planned = _figure("", lambda _: look(LOOK_S_MIN), rounds)
    figure = _figure("what may go over an allowance", lambda _: look(BETWEEN_S), rounds)
    note = f"planned anew each {LOOK_S_MIN:.0f} s, which takes {planned.value:.0f} µs"
    return Figure(figure.name, figure.value, figure.unit, floor=figure.floor, note=note)


def _figure(name: str, decide: Callable[[int], object], rounds: int) -> Figure:
    took_us = []
    for _ in range(rounds):
        began_ns = time.thread_time_ns()
        for k in range(100):
            decide(k)
        took_us.append((time.thread_time_ns() - began_ns) / 100 / 1000)
    return Figure(f"decision: {name}", float(np.median(took_us)), "µs", floor=DECISION_US_MAX)
