"""A flood of long topics: memory stays bounded, the honest keep flowing, and when it is over all is as before."""

from __future__ import annotations

import gc
import random
import sqlite3
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from gateway.codecs.mapping import MapLimits, Mapper, MappingSettings
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Arrivals, FullError
from gateway.core.telemetry import Telemetry
from gateway.core.units import Size
from gateway.detect.engine import Engine
from gateway.detect.settings import ZScoreSettings
from gateway.pipeline import Pipeline
from gateway.store import committer
from gateway.store.database import SeriesBounds, Store, StoreSettings
from gateway.store.reading import verify
from gateway.store.segments import decode_metrics
from gateway.store.uses import ONCE_IDLE_S
from hil import attacks
from hil.gateway_child import Site
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from hil.children import Child
    from hil.otlp_sink import OtlpSink

MIB = 1 << 20
SERIES_BYTES = MIB
LETTERS = 1000
FLOOD_TOPICS = 28_000
# An idle gateway takes 50 MiB; before there was a bound in bytes this flood took it to 158.
CHILD_RSS_MAX = 105 * MIB
MAPPINGS = (
    MappingSettings(match="plant/{device}", resource={"device.id": "{device}"}, fields="*"),
    MappingSettings(match="#", resource={"mqtt.topic": "{topic}"}, fields="*"),
)


class Desk:
    """Everything from the door to the shelf in this process, with a clock that tests turn."""

    def __init__(self, store: Store, clock: FakeClock, telemetry: Telemetry) -> None:
        self.store = store
        self.clock = clock
        mapper = Mapper(MAPPINGS, resolve=store.resolve, limits=MapLimits(routes_bytes_max=MIB))
        engine = Engine([ZScoreSettings(series_max=50)], series=store.series)
        self.pipeline = Pipeline(mapper=mapper, engine=engine, store=store, clock=clock, telemetry=telemetry)
        self.delivered: dict[str, int] = {}
        self._floods = 0

    async def send(self, user: str, *topics: str) -> int:
        """Publish 1 to each topic; return how many readings were taken."""
        raw = [topic.encode() for topic in topics]
        arrivals = Arrivals("direct", raw, [b'{"n":1}'] * len(raw), self.clock.monotonic_ns(), users=[(len(raw), user)])
        return (await self.pipeline.accept(arrivals)).readings

    async def flood(self, topics: int) -> int:
        """Publish to topics that nobody has seen before; return how many readings were taken."""
        self._floods += 1
        name = f"flood/{self._floods}/"
        taken = 0
        for start in range(0, topics, 100):
            taken += await self.send("flood", *(f"{name}{start + k}/" + "x" * LETTERS for k in range(100)))
        return taken

    async def deliver(self) -> None:
        """Let an uplink have all that is held; count it by device."""
        while (lease := await self.store.lease("cloud", readings_max=10_000, bytes_max=MIB)) is not None:
            for segment in lease.segments:
                for number in decode_metrics(segment.body).series.tolist():
                    resource = dict(self.store.series(number).resource)
                    device = str(resource.get("device.id", "flood"))
                    self.delivered[device] = self.delivered.get(device, 0) + 1
            self.store.ack(lease)
        await self.store.append([])

    async def wait(self, seconds: int) -> None:
        """Let time pass, and let the store look after itself until all of its rows are gone."""
        self.clock.advance(seconds * NS_PER_S)
        await self.store.tend()
        for _ in range(4):
            await self.store.append([])

    def memory(self) -> int:
        """Return what all of it takes now."""
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.store.status()["store"])


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock, telemetry = FakeClock(), Telemetry()
    tracemalloc.start()
    store = await Store.open(
        state_dir=tmp_path / "state",
        settings=StoreSettings(recent_bytes=Size(100_000), quarantine_bytes=Size(100_000)),
        clock=clock,
        uplinks=["cloud"],
        max_series=10_000,
        telemetry=telemetry,
        commit_interval_s=0.0,
        series=SeriesBounds(SERIES_BYTES, ("direct/flood", "direct/honest")),
    )
    yield Desk(store, clock, telemetry)
    tracemalloc.stop()
    await store.close()
    report = verify(tmp_path / "state")
    assert report.problems == []
    assert report.uplinks["cloud"]["held"] == 0


@pytest.mark.slow
async def test_a_flood_is_bounded_hurts_nobody_and_heals(desk: Desk) -> None:
    """Twice: honest devices old and new find room all the time, and memory comes back when it is over."""
    honest = [f"plant/d{k}" for k in range(10)]
    await desk.send("honest", *honest)
    await desk.deliver()
    before = desk.memory()
    for turn in range(2):
        taken = 0
        for second in range(40):
            taken += await desk.flood(100)
            assert await desk.send("honest", *honest) == 10
            # Every fourth second a device comes that was never seen before.
            if not second % 4:
                assert await desk.send("honest", f"plant/new{turn}-{second}") == 1
            desk.clock.advance(NS_PER_S)
            await desk.deliver()
        # Series, routes, and what else is remembered of a buffer or two.
        assert desk.memory() - before < SERIES_BYTES + MIB + MIB
        assert desk.status["series_bytes"] <= SERIES_BYTES
        assert (300 if not turn else 100) < taken < 1000
        assert desk.status["series_refused"]["share"] >= 4000 - taken
        await desk.wait(1)
        await desk.wait(ONCE_IDLE_S)
        assert desk.status["series_bytes"] < 0.8 * SERIES_BYTES
    for _ in range(2):
        await desk.wait(8 * 86_400)
    assert desk.status["series"] == 0
    assert desk.memory() - before < 2 * MIB
    uplink = desk.store.status()["uplinks"]["cloud"]
    assert uplink["ledger"] == {"max_series": 8000 - desk.delivered["flood"]}
    assert [desk.delivered[f"d{k}"] for k in range(10)] == [81] * 10
    assert sum(count for device, count in desk.delivered.items() if device.startswith("new")) == 20


async def test_what_a_source_holds_for_weeks_keeps_its_series(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapped, turned away by a disk that failed, and offered again when everything else is long forgotten."""

    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    held = Arrivals("direct", [b"plant/held"], [b'{"n":1}'], desk.clock.monotonic_ns())
    with monkeypatch.context() as patch:
        patch.setattr(committer, "write", fail)
        with pytest.raises(FullError):
            await desk.pipeline.accept(held)
    await desk.send("honest", "plant/other")
    await desk.deliver()
    for _ in range(2):
        await desk.wait(30 * 86_400)
    assert desk.status["series"] == 1
    await desk.pipeline.accept(held)
    await desk.send("honest", "plant/other")
    await desk.deliver()
    assert desk.delivered == {"other": 2, "held": 1}


@pytest.mark.slow
def test_a_flooded_gateway_stays_small(tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]) -> None:
    """28,000 topics of 1 KB into a board with 4 MiB for series: what it cannot tell apart is in the ledger, by its reason."""
    site = Site(
        tmp_path,
        endpoint=otlp_sink.url,
        make_child=make_child,
        gateway='hw_profile = "pi-4"\nseries_bytes = "4MiB"',
        mappings='[[mappings]]\nmatch = "flood/#"\nresource = { "mqtt.topic" = "{topic}" }\nfields = "*"\n',
    )
    child = site.start()
    dice = random.Random(3)
    sent = 0
    with Publisher(port=site.mqtt) as publisher:
        for round_number in range(FLOOD_TOPICS // 4000):
            flood = [
                (f"flood/{round_number}/{k}/".encode() + b"%x" % dice.getrandbits(4 * LETTERS), b'{"n":1}')
                for k in range(4000)
            ]
            sent += attacks.publish_all(site.mqtt, flood, client_id=b"flood")
        publisher.stop()
        peak = child.peak_bytes
        account, status = site.drain(), site.status()
    assert sent == FLOOD_TOPICS
    assert peak < CHILD_RSS_MAX, f"{peak / MIB:.0f} MiB"
    assert account.gap == 0
    store = status["store"]
    assert store["series_bytes"] <= store["max_series_bytes"] == 4 * MIB
    refused = sum(store["series_refused"].values())
    assert account.ledger == {"max_series": refused}
    assert FLOOD_TOPICS - 4 * MIB // LETTERS < refused < FLOOD_TOPICS
    assert publisher.acknowledged <= {int(reading.value) for reading in otlp_sink.readings() if reading.device == "d1"}
    assert child.terminate() == 0
