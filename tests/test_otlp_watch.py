"""OTLP metrics before real detectors."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToJson
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from gateway import otlp_watch
from gateway.codecs.device_time import Moment
from gateway.codecs.otlp_points import IDLE_S
from gateway.core.batch import DEVICE_TIME_REJECTED, MONOTONIC, Batch
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Signal
from gateway.core.telemetry import Telemetry
from gateway.core.turns import TURN_S_MAX
from gateway.detect.engine import Engine
from gateway.detect.settings import Match, ZScoreSettings
from gateway.otlp_watch import ROOM_S, OtlpWatch
from gateway.sources.otlp import _open_json

NOW_NS = 1_790_000_000 * NS_PER_S
MOMENT = Moment(5 * NS_PER_S, NOW_NS - 1000 * NS_PER_S, NOW_NS + 1000 * NS_PER_S)


def message(*values: float, name: str = "level", at_ns: int = NOW_NS, program: str = "shop") -> bytes:
    found = ResourceMetrics()
    found.resource.attributes.add(key="service.name").value.string_value = program
    metric = found.scope_metrics.add().metrics.add(name=name, unit="m")
    for k, value in enumerate(values):
        metric.gauge.data_points.add(as_double=value, time_unix_nano=at_ns and at_ns + k * NS_PER_S)
    return found.SerializeToString()


class Watched:
    """A watch with its parts."""

    def __init__(self, **settings: Any) -> None:
        self.clock, self.telemetry = FakeClock(), Telemetry()
        settings = {"match": Match(metric="level*"), "warmup": 20} | settings
        self.engine = Engine([ZScoreSettings(**settings)], series={7: None}.__getitem__)
        self.watch = OtlpWatch(self.engine, clock=self.clock, telemetry=self.telemetry, bytes_max=1 << 20)

    async def look(self, *bodies: bytes):
        return await self.watch.look(bodies, MOMENT)

    @property
    def detector(self) -> dict[str, int]:
        return self.engine.status()["zscore"]


STEADY = [20.0 + k % 5 for k in range(100)]


@pytest.mark.parametrize("here_bytes_max", [otlp_watch.HERE_BYTES_MAX, 0])
async def test_a_reading_that_is_odd_is_found(monkeypatch, here_bytes_max: int) -> None:
    """With what it is of and when it was; read here, or what is much in a thread."""
    monkeypatch.setattr(otlp_watch, "HERE_BYTES_MAX", here_bytes_max)
    one = Watched()
    assert await one.look(message(*STEADY), message(*STEADY, name="flow")) == []
    (found,) = await one.look(message(500.0, at_ns=NOW_NS + 60 * NS_PER_S))
    assert found.text.startswith("level of service.name=shop is 500 m, ")
    assert (found.value, found.time_ns, found.flags) == (500.0, NOW_NS + 60 * NS_PER_S, 0)
    assert one.watch.points.series(found.series).resource == (("service.name", "shop"),)
    assert one.watch.status() == {
        "series": 1,
        "max_series": 10_000,
        "bytes": one.watch.points.size_bytes,
        "max_bytes": 3 << 18,
        "points": 101,
        "points_over_limit": 0,
    }


async def test_what_is_laid_out_as_before_needs_no_thread(monkeypatch) -> None:
    """However much it is; one of several that is not is enough for one."""
    monkeypatch.setattr(otlp_watch, "HERE_BYTES_MAX", 0)
    asked: list[object] = []

    async def to_thread(work, *arguments):
        asked.append(work)
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    one = Watched()
    for k in range(6):
        await one.look(message(20.0 + k), message(30.0 + k, name="level 2"))
    assert len(asked) == 3
    await one.look(message(20.0), message(*STEADY, name="level 2"))
    assert len(asked) == 4
    assert one.detector["readings"] == 6 * 2 + 101


async def test_what_comes_as_json_is_watched() -> None:
    """It is kept in protobuf, as all else."""
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add().MergeFromString(message(*STEADY, 500.0))
    taken = _open_json(MessageToJson(request).encode(), Signal.METRICS)
    one = Watched()
    (found,) = await one.look(*taken.bodies)
    assert found.value == 500.0


async def test_what_was_learnt_of_a_series_outlives_a_restart() -> None:
    """By its name, whatever number it has then."""
    one, other = Watched(), Watched()
    await one.look(message(*STEADY, name="level first"), message(*STEADY))
    assert other.engine.restore(one.engine.save())
    (found,) = await other.look(message(500.0))
    assert found.value == 500.0


@pytest.mark.parametrize("at_ns", [0, 10**18, (1 << 63) + 5])
async def test_times_that_cannot_be_right_are_those_of_arrival(at_ns: int) -> None:
    """None at all, one of long ago, one that is no time."""
    one = Watched()
    await one.look(message(*STEADY))
    (found,) = await one.look(message(500.0, at_ns=at_ns))
    assert (found.time_ns, found.flags) == (MOMENT.arrived_ns, MONOTONIC | DEVICE_TIME_REJECTED)


async def test_much_is_watched_a_part_at_a_time(monkeypatch) -> None:
    """Others have their turn in between, but for who wants to watch too."""
    monkeypatch.setattr(otlp_watch, "AT_ONCE_READINGS", 10)
    one = Watched()
    turns: list[int] = []
    watch = one.engine.watch
    monkeypatch.setattr(one.engine, "watch", lambda batch: turns.append(len(batch)) or watch(batch))

    async def other() -> None:
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    await asyncio.gather(one.look(message(*STEADY[:35])), one.look(message(500.0)))
    beside.cancel()
    looked = [turn for turn in turns if turn]
    assert looked == [10, 10, 10, 5, 1]
    assert turns[turns.index(10) + 1] == 0


async def test_requests_that_take_long_leave_turns_to_others(monkeypatch) -> None:
    """Each was quick enough by itself, and all that came at once were one turn of the event loop."""
    one, turn, looked = Watched(), 0, []

    def watch(_: Batch) -> list[object]:
        looked.append(turn)
        time.sleep(2 * TURN_S_MAX)
        return []

    async def others() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(one.engine, "watch", watch)
    task = asyncio.create_task(others())
    await asyncio.gather(*(one.look(message(20.0)) for _ in range(30)))
    task.cancel()
    assert len(set(looked)) == 30


async def test_series_above_what_is_watched_are_counted_and_said(caplog) -> None:
    """Once in the log; who is idle makes room, looked at once a minute."""
    one = Watched(series_max=2)
    await one.look(message(*STEADY), message(1.0, program="other"), message(1.0, 2.0, program="third"))
    await one.look(message(1.0, program="third"))
    assert one.telemetry.value("tidegate_otlp_points_unwatched") == 3
    assert caplog.text.count("more series than are watched: 2,") == 1
    one.clock.advance((IDLE_S + 1) * NS_PER_S)
    await one.look(message(21.0))
    await one.look(message(1.0, program="third"))
    assert one.telemetry.value("tidegate_otlp_points_unwatched") == 3
    assert (one.detector["series"], one.detector["series_over_limit"]) == (2, 0)
    one.clock.advance((ROOM_S - 1) * NS_PER_S)
    await one.look(message(1.0, program="fourth"))
    assert one.watch.status()["points_over_limit"] == 4
    # What was learnt of those who stayed is there.
    (found,) = await one.look(message(500.0))
    assert found.value == 500.0


async def test_who_gives_up_waits_for_the_thread(monkeypatch) -> None:
    """Nobody else reads meanwhile."""
    monkeypatch.setattr(otlp_watch, "HERE_BYTES_MAX", 0)
    one = Watched()
    goes_on, reads = threading.Event(), []
    read = one.watch.points.read

    def slow(bodies, *, now_s: int) -> Batch:
        reads.append("begins")
        goes_on.wait(60)
        batch = read(bodies, now_s=now_s)
        reads.append("ends")
        return batch

    monkeypatch.setattr(one.watch.points, "read", slow)
    first = asyncio.create_task(one.look(message(1.0)))
    while not reads:
        await asyncio.sleep(0.001)
    second = asyncio.create_task(one.look(message(2.0)))
    first.cancel()
    await asyncio.sleep(0.01)
    assert not first.done()
    goes_on.set()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert first.cancelled()
    await second
    assert reads == ["begins", "ends"] * 2
    assert one.detector["readings"] == 1


async def test_values_that_are_none_are_not_judged() -> None:
    """They are counted as with devices."""
    one = Watched()
    await one.look(message(np.nan, np.inf, 1.0))
    assert (one.detector["not_finite"], one.detector["readings"]) == (2, 1)
