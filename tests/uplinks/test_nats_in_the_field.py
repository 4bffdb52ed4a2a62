"""Uplinks to real nats-servers, several of them, and clusters that lose one: counted in their streams."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from gateway.control.reading import decode_hook
from gateway.core.batch import MONOTONIC, Batch, ResourceRecords, Series
from gateway.core.clock import SystemClock
from gateway.core.contracts import Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.units import Size
from gateway.net.ports import free_port
from gateway.store.database import Store, StoreSettings
from gateway.store.reading import read_held, verify
from gateway.store.room import Room
from gateway.store.segments import read_header
from gateway.uplinks import endings, parked
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.nats import seams_of
from gateway.uplinks.nats_settings import NatsUplinkSettings
from hil.otlp_readings import parse_metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hil.nats_server import NatsCluster, NatsServer

CLOCK = SystemClock()
QUICK = {
    "type": "nats",
    "payload": "json",
    "timeout": "20s",
    "batch_interval": "50ms",
    "retry": {"initial": "50ms", "max": "60s"},
}


class Plant:
    """A store, and uplinks to streams by their names. Every reading's value is a number of its own."""

    def __init__(self, store: Store, tables: dict[str, dict[str, Any]]) -> None:
        self.store = store
        self.is_closed = False
        self.uplinks: dict[str, Uplink] = {}
        for name, table in tables.items():
            settings = msgspec.convert({**QUICK, "name": name, **table}, NatsUplinkSettings, dec_hook=decode_hook)
            shared: dict[str, Any] = {
                "gateway_attributes": (("tidegate.gateway.id", "g1"),),
                "version": "1",
                "clock": CLOCK,
                "random": random.Random(1),
            }
            seams = seams_of(settings, series=store.series, **shared)
            self.uplinks[name] = Uplink(settings, store=store, telemetry=Telemetry(), seams=seams, **shared)
        self.tasks = [asyncio.create_task(uplink.run()) for uplink in self.uplinks.values()]

    def series(self, *devices: str) -> np.ndarray:
        return np.array([self.store.resolve(Series((("device.id", device),), "n")) for device in devices])

    async def append(self, start: int, *devices: str, time_ns: int = 0, flags: int = 0) -> None:
        """Append one reading of each device, which all come with one commit."""
        numbers = np.arange(start, start + len(devices))
        times = (time_ns or CLOCK.wall_ns()) + np.arange(len(devices))
        batch = Batch.of(self.series(*devices), times, numbers, flags=flags)
        await self.store.append([(Priority.NORMAL, batch)])

    def account(self, name: str) -> dict[str, Any]:
        status = self.store.status()
        account = status["uplinks"][name]
        assert status["accepted"] == account["delivered"] + account["held"] + sum(account["ledger"].values())
        return account

    def arrived(self, name: str) -> int:
        return int(self.account(name)["delivered"] + self.uplinks[name].status()["in_hand_taken"])

    async def until(self, condition, *, within_s: float = 100.0) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    for task in self.tasks:
                        if task.done() and not task.cancelled():
                            task.result()
                    await asyncio.sleep(0.005)
        except TimeoutError as error:
            for name, uplink in self.uplinks.items():
                error.add_note(f"{name}: {uplink.status()} {self.store.status()['uplinks'][name]}")
            raise

    async def drain(self, name: str) -> dict[str, Any]:
        await self.until(lambda: not self.account(name)["held"])
        return self.account(name)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if not self.is_closed:
            self.is_closed = True
            await self.store.close()


@pytest.fixture
async def make_plant(tmp_path: Path) -> AsyncIterator[Any]:
    """Open a store and start its uplinks."""
    made: list[Plant] = []

    async def make(store_clock=CLOCK, settings=None, **tables: dict[str, Any]) -> Plant:
        store = await Store.open(
            state_dir=tmp_path / "state",
            settings=settings or StoreSettings(),
            clock=store_clock,
            uplinks=list(tables),
            max_series=1000,
            telemetry=Telemetry(),
            commit_interval_s=0.01,
        )
        made.append(Plant(store, tables))
        return made[-1]

    yield make
    for plant in made:
        await plant.close()


@pytest.fixture
def few(monkeypatch) -> None:
    """Have rests kept apart when there are some, so that a test is short."""
    monkeypatch.setattr(parked, "UNHEARD_MANY", 8)
    monkeypatch.setattr(endings, "APART_S", 0.1)


def taken(server: NatsServer | NatsCluster, stream: str) -> Counter[int]:
    """Return how often each number is in a stream."""
    found: Counter[int] = Counter()
    for one in server.stored(stream):
        if one.subject.endswith(".metrics"):
            found.update(int(reading.value) for reading in parse_metrics(one.data))
        else:
            found[int(msgspec.json.decode(one.data)["value"])] += 1
    return found


@pytest.mark.usefixtures("few")
async def test_an_uplink_that_is_configured_later_gets_each_once(make_nats, make_plant) -> None:
    """While one waits for a subject, and another is down that lacks all: neither of them loses anything by it."""
    server, late = make_nats(), make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    late.make_stream("ALL", "tidegate.>")
    down = {"url": f"nats://127.0.0.1:{free_port()}"}
    plant = await make_plant(waits={"url": server.url}, down=down)
    for start in range(0, 80, 2):
        await plant.append(start, "good", "odd")
        await plant.until(lambda start=start: plant.arrived("waits") >= start // 2 + 1)
    await plant.until(lambda: plant.account("waits")["delivered"] >= 30)
    await plant.close()
    plant = await make_plant(waits={"url": server.url}, down=down, late={"url": late.url})
    account = await plant.drain("late")
    assert (account["delivered"], account["ledger"], account["maybe_twice"]) == (80, {}, 0)
    assert taken(late, "ALL") == Counter(range(80))
    await plant.close()
    late.make_stream("DOWN", "down.>")
    plant = await make_plant(
        waits={"url": server.url}, down={"url": late.url, "subject": "down.{device}.{metric}"}, late={"url": late.url}
    )
    await plant.drain("down")
    assert taken(late, "DOWN") == Counter(range(80))
    server.make_stream("LATE", "tidegate.g1.odd.>")
    await plant.drain("waits")
    assert taken(server, "GOOD") == Counter(range(0, 80, 2))
    assert taken(server, "LATE") == Counter(range(1, 80, 2))
    assert taken(late, "ALL") == Counter(range(80))


@pytest.mark.usefixtures("few")
async def test_an_uplink_in_the_place_of_the_only_one_gets_what_is_left(make_nats, make_plant) -> None:
    """As with all that is held: it never got what had been delivered, and says so."""
    server, late = make_nats(), make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    late.make_stream("ALL", "tidegate.>")
    plant = await make_plant(waits={"url": server.url})
    for start in range(0, 80, 2):
        await plant.append(start, "good", "odd")
        await plant.until(lambda start=start: plant.arrived("waits") >= start // 2 + 1)
    await plant.until(lambda: plant.account("waits")["delivered"] >= 30)
    await plant.close()
    plant = await make_plant(late={"url": late.url})
    account = await plant.drain("late")
    found = taken(late, "ALL")
    assert account["ledger"] == {"before_uplink": 80 - len(found)}
    assert set(range(1, 80, 2)) <= found.keys()
    assert set(found.values()) == {1}


class NextBoot(SystemClock):
    """The same box after a power cut, as far as anybody can tell."""

    def __init__(self) -> None:
        super().__init__()
        self._began_ns = CLOCK.monotonic_ns()

    def monotonic_ns(self) -> int:
        return super().monotonic_ns() - self._began_ns

    def boot_uuid(self) -> str:
        return "the next one"


ONE_BY_ONE = {"batch_readings_max": 2, "retry": {"initial": "1s", "max": "60s"}}


@pytest.mark.usefixtures("few")
async def test_what_waits_of_an_earlier_boot_holds_nobody_up(make_nats, make_plant, monkeypatch) -> None:
    """A box that had no link and was switched off: its readings have no other time than that boot's clock."""
    monkeypatch.setattr(parked, "PUT_OFF_MAX", 16)
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    plant = await make_plant(waits={"url": f"nats://127.0.0.1:{free_port()}"})
    began_ns = CLOCK.wall_ns()
    for start in range(0, 120, 2):
        await plant.append(start, "good", "odd", time_ns=CLOCK.monotonic_ns(), flags=MONOTONIC)
    ended_ns = CLOCK.wall_ns()
    await plant.close()
    waits = {"url": server.url, **ONE_BY_ONE}
    clock = NextBoot()
    plant = await make_plant(store_clock=clock, waits=waits)
    await plant.until(lambda: plant.arrived("waits") == 60)
    status = plant.uplinks["waits"].status()
    assert status["put_off"]["overflowed"] == 0
    await plant.close()
    plant = await make_plant(store_clock=clock, waits=waits)
    server.make_stream("LATE", "tidegate.g1.odd.>")
    account = await plant.drain("waits")
    assert (account["delivered"], account["ledger"]) == (120, {})
    assert taken(server, "GOOD") == Counter(range(0, 120, 2))
    assert taken(server, "LATE") == Counter(range(1, 120, 2))
    times = [msgspec.json.decode(one.data)["ts"] for one in (*server.stored("GOOD"), *server.stored("LATE"))]
    assert began_ns // 10**6 - 1000 <= min(times) <= max(times) <= ended_ns // 10**6 + 1000


USERS = """authorization {
  users = [
    { user: "admin", password: "top" }
    { user: "box", password: "secret",
      permissions: { publish: ["tidegate.g1.good.>", "tidegate.g1.odd.>"], subscribe: "_INBOX.>" } }
  ]
}"""


@pytest.mark.usefixtures("few")
async def test_what_waits_beside_what_is_refused_holds_nobody_up(make_nats, make_plant, monkeypatch) -> None:
    """What nobody may publish is in the ledger, what nobody hears is kept apart, and the others arrive."""
    monkeypatch.setattr(parked, "PUT_OFF_MAX", 16)
    monkeypatch.setenv("TIDEGATE_TEST_PASSWORD", "secret")
    server = make_nats(lines=(USERS,), admin={"user": "admin", "pass": "top"})
    server.make_stream("GOOD", "tidegate.g1.good.>")
    who = {"username": "box", "password": {"env": "TIDEGATE_TEST_PASSWORD"}}
    waits = {"url": server.url, **who, **ONE_BY_ONE, "batch_readings_max": 3}
    plant = await make_plant(waits=waits)
    for start in range(0, 180, 3):
        await plant.append(start, "good", "odd", "bad")
    await plant.until(lambda: plant.arrived("waits") == 60)
    assert plant.uplinks["waits"].status()["put_off"]["overflowed"] == 0
    assert plant.account("waits")["ledger"]["rejected"] >= 40
    await plant.close()
    plant = await make_plant(waits=waits)
    server.make_stream("LATE", "tidegate.g1.odd.>")
    account = await plant.drain("waits")
    assert (account["delivered"], account["ledger"]) == (120, {"rejected": 60})
    assert taken(server, "GOOD") == Counter(range(0, 180, 3))
    assert taken(server, "LATE") == Counter(range(1, 180, 3))


def otlp_of(number: int) -> ResourceRecords:
    """Return a message with one reading, as a program sends it."""
    message = ResourceMetrics()
    point = message.scope_metrics.add().metrics.add(name="n").gauge.data_points.add()
    point.as_int, point.time_unix_nano = number, CLOCK.wall_ns()
    columns = np.ones(1, np.int64), np.full(1, CLOCK.wall_ns(), np.int64)
    return ResourceRecords(Signal.METRICS, *columns, (message.SerializeToString(),))


@pytest.mark.usefixtures("few")
async def test_what_waits_of_otlp_that_is_passed_on_holds_nobody_up(make_nats, make_plant, monkeypatch) -> None:
    """It has a subject of its own, which the stream of the readings may lack."""
    monkeypatch.setattr(parked, "PUT_OFF_MAX", 16)
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    waits = {"url": server.url, **ONE_BY_ONE}
    plant = await make_plant(waits=waits)
    for start in range(0, 120, 2):
        batch = Batch.of(plant.series("good"), CLOCK.wall_ns(), np.array([start]))
        await plant.store.append([(Priority.NORMAL, batch)], records=[(Priority.NORMAL, otlp_of(start + 1))])
    await plant.until(lambda: plant.arrived("waits") == 60)
    assert plant.uplinks["waits"].status()["put_off"]["overflowed"] == 0
    assert plant.account("waits")["delivered"] >= 40
    await plant.close()
    plant = await make_plant(waits=waits)
    server.make_stream("LATE", "tidegate.g1.metrics")
    account = await plant.drain("waits")
    assert (account["delivered"], account["ledger"]) == (120, {})
    assert taken(server, "GOOD") == Counter(range(0, 120, 2))
    assert taken(server, "LATE") == Counter(range(1, 120, 2))


@pytest.mark.usefixtures("few")
async def test_what_waits_of_what_was_thinned_on_the_shelf_holds_nobody_up(
    make_nats, make_plant, monkeypatch, tmp_path: Path
) -> None:
    """After an outage that filled the shelf; what is kept apart of it still says that it was thinned."""
    monkeypatch.setattr(Room, "limit_bytes", property(lambda _: 192 << 10))
    # Few segments are many readings here.
    monkeypatch.setattr(parked, "PUT_OFF_MAX", 2)
    monkeypatch.setattr(endings, "APART_MIN", 1)
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    full = StoreSettings(max_bytes=Size(1 << 20), when_full="dilute")
    plant = await make_plant(settings=full, waits={"url": f"nats://127.0.0.1:{free_port()}"})
    noise, series = np.random.default_rng(1), plant.series("good", "odd")
    for minute in range(100):
        if plant.store.status()["uplinks"]["waits"]["ledger"].get("diluted", 0) > 2000:
            break
        times = CLOCK.wall_ns() - (10_000 - 600 * minute) * 10**9 + np.arange(600) // 2 * 10**9
        batch = Batch.of(np.tile(series, 300), times, noise.integers(0, 1 << 40, 600)).sorted()
        await plant.store.append([(Priority.NORMAL, batch)])
    await plant.close()
    before = plant.store.status()["uplinks"]["waits"]
    assert before["ledger"]["diluted"] > 2000
    waits = {"url": server.url, **ONE_BY_ONE, "batch_readings_max": 200}
    plant = await make_plant(settings=full, waits=waits)
    await plant.until(lambda: plant.arrived("waits") >= before["held"] // 2 - 300)
    await plant.until(lambda: plant.account("waits")["delivered"] > 0)
    await plant.close()
    with read_held(tmp_path / "state") as held:
        steps = [read_header(segment.body).step_s for segment in held]
    assert any(steps)
    plant = await make_plant(settings=full, waits=waits)
    server.make_stream("LATE", "tidegate.g1.odd.>")
    account = await plant.drain("waits")
    assert account["ledger"] == before["ledger"]
    assert account["delivered"] == before["held"]
    counts = [len(server.stored(stream)) for stream in ("GOOD", "LATE")]
    assert sum(counts) == before["held"]
    assert verify(tmp_path / "state").problems == []


class Flow:
    """Readings of many devices that come one commit after the other."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.sent = 0

    async def __call__(self, times: int) -> None:
        for _ in range(times):
            await self.plant.append(self.sent, *(f"d{number}" for number in range(20)))
            self.sent += 20
            await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("payload", ["otlp", "json"])
async def test_a_cluster_that_loses_who_leads_the_stream(make_cluster, make_plant, payload: str) -> None:
    """While messages flow, and once more when it is back: nothing is lost, and nothing is there twice."""
    cluster = make_cluster()
    cluster.make_stream("ALL", "tidegate.>", num_replicas=3)
    urls, retry = [server.url for server in cluster.servers], {"initial": "250ms", "max": "2s"}
    plant = await make_plant(up={"urls": urls, "payload": payload, "inflight_max": 16, "retry": retry})
    flow = Flow(plant)
    for _ in range(2):
        leader = await asyncio.to_thread(cluster.leader_of, "ALL")
        await flow(10)
        leader.kill()
        await flow(30)
        await plant.until(lambda: plant.arrived("up") > flow.sent - 400)
        await asyncio.to_thread(leader.start)
    account = await plant.drain("up")
    assert (account["delivered"], account["ledger"]) == (flow.sent, {})
    assert await asyncio.to_thread(taken, cluster, "ALL") == Counter(range(flow.sent))


@pytest.mark.slow
async def test_a_server_that_is_not_named_is_gone_to_where_that_is_allowed(make_cluster, make_plant) -> None:
    """One is named, and it is killed: its cluster has told of the others."""
    cluster = make_cluster()
    cluster.make_stream("ALL", "tidegate.>", num_replicas=3)
    cluster.make_stream("SHUT", "shut.>", num_replicas=3)
    named = cluster.servers[0]
    retry = {"initial": "250ms", "max": "2s"}
    plant = await make_plant(
        open={"url": named.url, "discover": ["127.0.0.0/8"], "retry": retry},
        shut={"url": named.url, "discover": ["10.0.0.0/8"], "retry": retry, "subject": "shut.{device}.{metric}"},
    )
    flow = Flow(plant)
    await flow(10)
    await plant.drain("open")
    await plant.drain("shut")
    named.kill()
    await flow(10)
    account = await plant.drain("open")
    assert (account["delivered"], account["ledger"]) == (400, {})
    assert await asyncio.to_thread(taken, cluster, "ALL") == Counter(range(400))
    status = plant.uplinks["open"].status()
    others = {str(server.port) for server in cluster.servers[1:]}
    assert status["server_address"].rpartition(":")[2] in others
    shut = plant.uplinks["shut"].status()
    assert plant.account("shut")["held"] == 200
    assert shut["server_address"].endswith(f":{named.port}")
    assert shut["discovered"]["servers"] == []
    assert {one.rpartition(":")[2] for one in shut["discovered"]["not_allowed"]} == others


@pytest.mark.slow
@pytest.mark.parametrize("is_right", [True, False], ids=["right", "wrong"])
async def test_over_tls_another_server_proves_the_same_name(
    make_cluster, make_plant, authority, is_right: bool
) -> None:
    """An address that was told has the certificate of the name that told it, or nothing goes there."""
    ours = authority.issue(alternatives="DNS:localhost")
    other = ours if is_right else authority.issue("other", alternatives="DNS:other.example")
    cluster = make_cluster(identities=[ours, other, None])
    cluster.make_stream("ALL", "tidegate.>", num_replicas=3)
    named = cluster.servers[0]
    plant = await make_plant(
        up={
            "url": f"tls://localhost:{named.port}",
            "discover": ["127.0.0.1"],
            "tls": {"ca_file": str(authority.certificate)},
            "retry": {"initial": "250ms", "max": "2s"},
        }
    )
    flow = Flow(plant)
    await flow(10)
    await plant.drain("up")
    named.kill()
    await flow(10)
    if not is_right:
        await plant.until(lambda: plant.uplinks["up"].status()["attempt"] > 3)
        assert "localhost" in plant.uplinks["up"].status()["last_error"]
        assert plant.account("up")["held"] == 200
        named.start()
    account = await plant.drain("up")
    assert (account["delivered"], account["ledger"]) == (400, {})
    assert await asyncio.to_thread(taken, cluster, "ALL") == Counter(range(400))
    port = (cluster.servers[1] if is_right else named).port
    assert plant.uplinks["up"].status()["server_address"].endswith(f":{port}")
