"""The fake devices, against the real doors."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

import cbor2
import pytest

from gateway.core.clock import SystemClock
from gateway.core.contracts import Accepted, Arrivals
from gateway.core.telemetry import Telemetry
from gateway.simulator.plant import MqttPlant, SerialDevice
from gateway.sources.mqtt_server import MqttServerSource
from gateway.sources.mqtt_server_settings import MqttServerSettings
from gateway.sources.serial import SerialSource
from gateway.sources.serial_settings import SerialSettings

if TYPE_CHECKING:
    from pathlib import Path

WAIT_S = 60.0


class Keeper:
    """Accepts everything and remembers it; each third buffer takes a moment."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self._buffers = itertools.count()

    async def __call__(self, arrivals: Arrivals, /) -> Accepted:
        self.messages += [(t.decode(), p) for t, p in zip(arrivals.topics, arrivals.payloads, strict=True)]
        if next(self._buffers) % 3 == 0:
            await asyncio.sleep(0.01)
        return Accepted(len(arrivals.payloads))


async def until(condition: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def door():
    """A real MQTT server source."""
    keeper = Keeper()
    settings = MqttServerSettings(name="direct", listen="127.0.0.1:0")
    source = MqttServerSource(settings, accept=keeper, clock=SystemClock(), telemetry=Telemetry())
    task = asyncio.create_task(source.run())
    await asyncio.wait_for(source.listening.wait(), 60)
    yield source, keeper
    task.cancel()
    await asyncio.wait([task])


async def test_what_the_plant_says_was_acknowledged_was_kept(door) -> None:
    """Fast enough that acknowledgements come while it publishes: nothing is forgotten, nothing hangs."""
    source, keeper = door
    plant = MqttPlant(port=source.address[1], devices=["d1", "d2"], per_second=500)
    plant.start()
    try:
        await until(lambda: plant.published > 600)
        assert await asyncio.to_thread(plant.pause, wait_s=60) == 0
        assert sum(map(len, plant.acknowledged.values())) == plant.published == len(keeper.messages)
        kept = {(topic.split("/")[1], json.loads(payload)["n"]) for topic, payload in keeper.messages}
        assert kept == {(device, n) for device, numbers in plant.acknowledged.items() for n in numbers}
    finally:
        await asyncio.to_thread(plant.stop)


async def test_the_plant_pauses_goes_on_and_runs_hot(door) -> None:
    """Paused it is silent; then one device is 60 degrees warmer than the other."""
    source, keeper = door
    plant = MqttPlant(port=source.address[1], devices=["d1", "d2"], per_second=100)
    plant.start()
    try:
        await until(lambda: plant.published > 20)
        await asyncio.to_thread(plant.pause, wait_s=60)
        count = plant.published
        await asyncio.sleep(0.05)
        assert plant.published == count
        plant.anomaly_on = "d2"
        keeper.messages.clear()
        plant.resume()
        await until(lambda: len(keeper.messages) >= 4)
        warmth = {topic: json.loads(payload)["temp"] for topic, payload in keeper.messages}
        assert warmth["plant/d2/climate"] - warmth["plant/d1/climate"] > 50
    finally:
        await asyncio.to_thread(plant.stop)


def test_devices_that_never_talked_stop_at_once(tmp_path: Path) -> None:
    """The story may end before they begin."""
    MqttPlant(port=1, devices=["d1"], per_second=1).stop()
    SerialDevice(link=tmp_path / "tty", per_second=1).stop()


async def test_the_serial_device_keeps_what_is_not_acknowledged(tmp_path: Path) -> None:
    """Its frames pass the real door; without a gateway they wait; each reading carries the time it was taken."""
    device = SerialDevice(link=tmp_path / "tty", per_second=200)
    device.start()
    try:
        await until(lambda: device._unacknowledged)
        assert await asyncio.to_thread(device.pause, wait_s=0.2) > 0
        assert device.acknowledged == set()
        keeper = Keeper()
        settings = SerialSettings(name="line1", port=str(tmp_path / "tty"), framing="cobs")
        source = SerialSource(settings, accept=keeper, clock=SystemClock(), telemetry=Telemetry())
        task = asyncio.create_task(source.run())
        device.resume()
        await until(lambda: len(device.acknowledged) > 50)
        assert await asyncio.to_thread(device.pause, wait_s=60) == 0
        task.cancel()
        await asyncio.wait([task])
    finally:
        await asyncio.to_thread(device.stop)
    assert {topic for topic, _ in keeper.messages} == {"line1/boiler"}
    frames = [cbor2.loads(payload) for _, payload in keeper.messages]
    assert {n for frame in frames for n in frame["n"]} >= device.acknowledged
    for frame in frames:
        assert max(frame["t"]) <= frame["now"]
        assert frame["t"] == sorted(frame["t"])
