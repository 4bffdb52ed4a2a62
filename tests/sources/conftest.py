"""Fixtures of the sources' tests: a door that can be told what to do, and an MQTT server behind a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from gateway.core.clock import FakeClock
from gateway.core.contracts import Accepted, Arrivals, FullError
from gateway.core.telemetry import Telemetry
from gateway.net.mqtt_packets import connect_bytes
from gateway.sources.mqtt_server import MqttServerSource
from gateway.sources.mqtt_server_settings import MqttServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAIT_S = 60.0


class Door:
    """An accept that remembers what came, and can be shut, full, or broken; `lets_in`: shut behind its own door."""

    def __init__(self) -> None:
        self.arrivals: list[Arrivals] = []
        self.opened = asyncio.Event()
        self.opened.set()
        self.full_times = 0
        self.lets_in = False
        self.took_s = 0.0
        self.failure: Exception | None = None
        self.came = asyncio.Event()
        self.offers = 0

    @property
    def payloads(self) -> list[bytes]:
        return [payload for arrivals in self.arrivals for payload in arrivals.payloads]

    @property
    def messages(self) -> list[tuple[bytes, bytes]]:
        return [pair for a in self.arrivals for pair in zip(a.topics, a.payloads, strict=True)]

    async def __call__(self, arrivals: Arrivals, /) -> Accepted:
        self.offers += 1
        self.came.set()
        if self.failure is not None:
            raise self.failure
        if self.full_times:
            self.full_times -= 1
            raise FullError("no room", after_s=0.01)
        if self.lets_in and arrivals.on_prepared is not None:
            arrivals.on_prepared(self.took_s)
        await self.opened.wait()
        if self.failure is not None:
            raise self.failure
        self.arrivals.append(arrivals)
        return Accepted(len(arrivals.payloads))


class RawClient:
    """A client that sends bytes and reads packets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *packets: bytes) -> None:
        self.writer.write(b"".join(packets))
        await self.writer.drain()

    async def packet(self) -> bytes:
        """Return the next whole packet."""
        async with asyncio.timeout(WAIT_S):
            head = await self.reader.readexactly(2)
            assert head[1] < 128
            return head + await self.reader.readexactly(head[1])

    async def rest(self) -> bytes:
        """Return all that comes until the server hangs up."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class MqttServerRig:
    """A running server, its door and its clients; `stop` ends all of them."""

    def __init__(self) -> None:
        self.door = Door()
        self.telemetry = Telemetry()
        self.clock = FakeClock()
        self.source: MqttServerSource
        self.task: asyncio.Task[None]
        self._clients: list[RawClient] = []

    def build(self, **settings: object) -> MqttServerRig:
        """Make the server without starting it."""
        values = {"name": "direct", "listen": "127.0.0.1:0"} | settings
        self.source = MqttServerSource(
            MqttServerSettings(**values), accept=self.door, clock=self.clock, telemetry=self.telemetry
        )
        return self

    async def start(self, **settings: object) -> MqttServerRig:
        """Make it and wait until it listens."""
        self.build(**settings)
        self.task = asyncio.create_task(self.source.run())
        ready = asyncio.create_task(self.source.listening.wait())
        await asyncio.wait([self.task, ready], return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
        ready.cancel()
        if self.task.done():
            await self.task
        return self

    @property
    def port(self) -> int:
        return self.source.address[1]

    @property
    def lost(self) -> list[tuple[bytes, str, str]]:
        """Topic, reason and sentence of what was handed in as lost."""
        return [(a.topics[one.at], one.reason, one.sentence) for a in self.door.arrivals for one in a.lost]

    @property
    def refused(self) -> dict[str, int]:
        refused = self.source.status()["refused"]
        assert isinstance(refused, dict)
        return refused

    async def open(self, address: str = "127.0.0.1") -> RawClient:
        """Return a client that has connected from an address of this machine and said nothing."""
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0)))
        self._clients.append(client)
        return client

    async def connect(self, client_id: bytes = b"d1", **fields: object) -> RawClient:
        """Return a client that was let in; its CONNACK has been read."""
        client = await self.open()
        await client.send(connect_bytes(client_id, **fields))
        connack = await client.packet()
        at = 3
        assert connack[0] == 0x20
        assert connack[at] == 0, f"refused with {connack[at]:#x}"
        return client

    async def until(self, condition: object) -> None:
        """Wait until `condition()` holds."""
        assert callable(condition)
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self.door.opened.set()
        self.task.cancel()
        for client in self._clients:
            await client.close()
        await asyncio.wait([self.task])
        assert self.task.cancelled(), self.task.exception()


@pytest.fixture
async def mqtt_server() -> AsyncIterator[MqttServerRig]:
    """A server that is started by the test: `await mqtt_server.start(…)`."""
    rig = MqttServerRig()
    yield rig
    if hasattr(rig, "task"):
        await rig.stop()


@pytest.fixture(scope="session")
def mqtt_server_rig() -> type[MqttServerRig]:
    """The class, for tests that bring an event loop of their own."""
    return MqttServerRig


@pytest.fixture
async def door() -> Door:
    """An accept that can be told what to do."""
    return Door()


class WindowOfTwo:
    """Knows from the beginning what a real one would learn: two messages are all that a sender sends."""

    def __init__(self, *, now_s: float) -> None:
        self.waiting = 0

    def came(self, count: int, *, now_s: float) -> bool:
        self.waiting += count
        return self.waiting == 2

    def answered(self, count: int, *, now_s: float) -> None:
        self.waiting -= count


@pytest.fixture
def window_of_two() -> type[WindowOfTwo]:
    """Return what stands in the place of a `Window`."""
    return WindowOfTwo
