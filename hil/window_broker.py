"""A broker that delivers a backlog through a window of strict size. Knows subscribers and QoS 1 alone.

Most brokers keep to the number of messages that they let wait for their PUBACK; Debian's mosquitto (2.0.11) lets 20
become 400 and 8,000 with each burst of PUBACKs. By itself it serves a measurement: `python -m hil.window_broker
--window 20 --messages 10000` prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from gateway.net.mqtt import VERSION_UNKNOWN, Packet, PublishScanner
from gateway.net.mqtt_fields import VERSION_3_1_1, PacketType, ReasonCode
from gateway.net.mqtt_packets import (
    PINGRESP_BYTES,
    connack_bytes,
    connect_version,
    publish_bytes,
    read_filters,
    suback_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

READ_BYTES: Final = 1 << 16


class WindowBroker:
    """Listens on loopback from `async with` on; `window` may be changed at any time.

    Each subscriber gets what `backlog` holds, in order; what it has not acknowledged is gone with its connection.
    """

    def __init__(self, backlog: Iterable[bytes] = (), *, window: int = 20, topic: bytes = b"plant/d1") -> None:
        self.window = window
        self.backlog = deque(backlog)
        self.acknowledged = 0
        self.most_under_way = 0
        self._topic = topic
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [task for task in self._clients.values() if task is not None]
        for writer in list(self._clients):
            writer.transport.abort()
        await asyncio.gather(*tasks)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients[writer] = asyncio.current_task()
        scanner = PublishScanner(packet_bytes_max=READ_BYTES, version=VERSION_UNKNOWN)
        under_way: set[bytes] = set()
        version, packet_id, is_subscribed = VERSION_3_1_1, 0, False
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(READ_BYTES):
                items = scanner.feed(data)
                while items:
                    item = items.pop(0)
                    assert isinstance(item, Packet), "it takes no messages"
                    if item.type is PacketType.CONNECT:
                        version = scanner.version = connect_version(item.body)
                        writer.write(connack_bytes(version=version, code=ReasonCode.SUCCESS))
                        # What stands behind it is cut only now that the version is known.
                        items = scanner.feed(b"")
                    elif item.type is PacketType.SUBSCRIBE:
                        asked, filters = read_filters(item.body, version, item.type)
                        writer.write(suback_bytes(asked, [1] * len(filters), version=version))
                        is_subscribed = True
                    elif item.type is PacketType.PUBACK:
                        under_way.discard(item.body[:2])
                        self.acknowledged += 1
                    elif item.type is PacketType.PINGREQ:
                        writer.write(PINGRESP_BYTES)
                while is_subscribed and self.backlog and len(under_way) < self.window and not writer.is_closing():
                    packet_id = packet_id % 65535 + 1
                    under_way.add(packet_id.to_bytes(2, "big"))
                    payload = self.backlog.popleft()
                    writer.write(publish_bytes(self._topic, payload, qos=1, packet_id=packet_id, version=version))
                self.most_under_way = max(self.most_under_way, len(under_way))
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        del self._clients[writer]


async def _main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--window", type=int, default=20)
    options.add_argument("--messages", type=int, default=10_000)
    given = options.parse_args()
    backlog = [b'{"temp": %d}' % number for number in range(given.messages)]
    async with WindowBroker(backlog, window=given.window) as broker:
        print(broker.port, flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(_main())
