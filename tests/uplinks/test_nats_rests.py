"""What nobody hears at a real nats-server, on the real store, beside other uplinks: counted in their streams."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from gateway.control.reading import decode_hook
from gateway.core.batch import Batch, Series
from gateway.core.clock import SystemClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.net.ports import free_port
from gateway.store.database import Store, StoreSettings
from gateway.uplinks import endings, parked
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.nats import seams_of
from gateway.uplinks.nats_settings import NatsUplinkSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hil.nats_server import NatsServer

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

    async def append(self, start: int, *devices: str, **options: Any) -> None:
        """Append one reading of each device, which all come with one commit."""
        numbers = np.arange(start, start + len(devices))
        batch = Batch.of(self.series(*devices), CLOCK.wall_ns() + np.arange(len(devices)), numbers, **options)
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

    async def make(store_clock=CLOCK, **tables: dict[str, Any]) -> Plant:
        store = await Store.open(
            state_dir=tmp_path / "state",
            settings=StoreSettings(),
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


def taken(server: NatsServer, stream: str) -> Counter[int]:
    """Return how often each number is in a stream of messages of one reading."""
    return Counter(int(msgspec.json.decode(one.data)["value"]) for one in server.stored(stream))


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
