"""What an uplink sends first when its road is back, where the gateway ran all the time: what is newest, and marked so."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from gateway.bench.virtual_time import VirtualClock, run
from gateway.codecs import zstd
from gateway.control.reading import decode_hook
from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.store.database import Store, StoreSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.guards import Answer, HoldError, UnreachableError
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.worker import Seams
from hil.at_once import AtOnce, QuietWire
from hil.otlp_readings import parse_metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.uplinks.guards import Packed

NOON_S = 1_789_948_800 + 43_200
OUTAGE_S = 60


class Road(QuietWire):
    """Takes all while it is open, and remembers it; else there is no connection, or no receiver at this path."""

    def __init__(self, *, is_wrong: bool = False) -> None:
        self._is_wrong = is_wrong
        self.requests = self.bytes_sent = 0
        self.is_connected = False
        self.is_open = True
        self.sent: list[Packed] = []

    def send(self, packed: Packed, /) -> Answer:
        if not self.is_open:
            raise HoldError("no such path", 1.0) if self._is_wrong else UnreachableError("no connection")
        self.sent.append(packed)
        return Answer()


def look(packed: Packed) -> tuple[set[int], bool]:
    """Return of which seconds a request is, and whether it says that it comes late."""
    body = zstd.decompress(packed.body, bytes_max=1 << 26) if packed.encoding == "zstd" else packed.body
    return {reading.time_ns // NS_PER_S - NOON_S for reading in parse_metrics(body)}, b"tidegate.backfill" in body


@contextlib.asynccontextmanager
async def living(folder: Path, road: Road, **table: Any) -> AsyncIterator[tuple[VirtualClock, Store]]:
    """A store whose one uplink sends by `road`."""
    clock = VirtualClock(NOON_S * NS_PER_S)
    store = await Store.open(
        state_dir=folder, settings=StoreSettings(), clock=clock, uplinks=["far"], max_series=100,
        telemetry=Telemetry(), commit_interval_s=0.2,
    )  # fmt: skip
    table |= {"name": "far", "endpoint": "http://h:1"}
    settings = msgspec.convert(table, OtlpUplinkSettings, dec_hook=decode_hook)
    uplink = Uplink(
        settings, store=store, gateway_attributes=(), version="0", clock=clock, telemetry=Telemetry(),
        random=Random(4), seams=Seams(wire=road, start_worker=lambda _: AtOnce()),
    )  # fmt: skip
    task = asyncio.create_task(uplink.run())
    yield clock, store
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await store.close()


@pytest.mark.parametrize("is_found", [False, True], ids=["plain", "something was found"])
@pytest.mark.parametrize("is_wrong", [False, True], ids=["no connection", "held back"])
def test_what_is_newest_goes_first_and_the_rest_says_that_it_is_late(
    tmp_path: Path, is_found: bool, is_wrong: bool
) -> None:
    """Almost a minute without a road, and no restart: the first request is of now, and no later one hides its age."""

    async def live() -> None:
        road = Road(is_wrong=is_wrong)
        async with living(tmp_path, road, retry={"initial": "1s", "unreachable_max": "2s"}) as (clock, store):
            store.evidence.keep("far", 60.0)
            series = [store.resolve(Series((("device.id", f"d{k}"),), "n")) for k in range(5)]
            for second in range(OUTAGE_S + 10):
                road.is_open = not 10 <= second < OUTAGE_S
                times = np.full(len(series), (NOON_S + second) * NS_PER_S)
                await store.append([(Priority.NORMAL, Batch.of(np.array(series, np.uint32), times, np.arange(5.0)))])
                if is_found and second == OUTAGE_S - 20:
                    store.evidence.found()
                if second == OUTAGE_S - 1:
                    before = len(road.sent)
                await asyncio.sleep(NOON_S + second + 1 - clock.wall_ns() / NS_PER_S)
        after = [look(packed) for packed in road.sent[before:]]
        first, is_late = after[0]
        if is_wrong and is_late:
            # It was about to try the other end, with one segment that says so.
            assert len(first) == 1
            first = set().union(*(seconds for seconds, _ in after[1:4]))
        assert max(first) >= OUTAGE_S - 3, (min(first), max(first))
        assert is_late or min(first) >= OUTAGE_S - 3, (min(first), max(first))
        assert all(is_late for seconds, is_late in after if min(seconds) < OUTAGE_S - 5)
        assert set().union(*(seconds for seconds, _ in after)) >= set(range(11, OUTAGE_S + 5))

    run(live())


class Breaking(Road):
    """Closes by itself when it has taken the first request."""

    def send(self, packed: Packed, /) -> Answer:
        answer = super().send(packed)
        self.is_open = len(self.sent) != 1
        return answer


@pytest.mark.parametrize("is_wrong", [False, True], ids=["no connection", "held back"])
def test_the_rest_of_what_an_outage_cut_says_that_it_is_late(tmp_path: Path, is_wrong: bool) -> None:
    """A stored segment of many requests, of which one was taken: what is sent of it a minute later is late."""

    async def live() -> None:
        road = Breaking(is_wrong=is_wrong)
        async with living(tmp_path, road, request_bytes_max="16KiB") as (_, store):
            series = store.resolve(Series((("device.id", "d1"),), "n"))
            times = NOON_S * NS_PER_S + np.arange(10_000) * 1_000
            values = np.random.default_rng(4).random(10_000)
            await store.append([(Priority.NORMAL, Batch.of(series, times, values))])
            await asyncio.sleep(OUTAGE_S)
            assert len(road.sent) == 1
            road.is_open = True
            await asyncio.sleep(2 * OUTAGE_S)
        (_, was_late), *after = [look(packed) for packed in road.sent]
        assert not was_late
        assert after
        assert all(is_late for _, is_late in after)

    run(live())
