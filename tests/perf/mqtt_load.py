"""A cheap load: QoS 1 PUBLISHes from prebuilt bytes over a few connections, PUBACKs counted by their length.

It does no work per message while it runs, so that what is measured is the server. Run as a process of its own
(`python mqtt_load.py --port N`), it prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from gateway.net.mqtt_packets import connect_bytes, publish_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

PUBACK_BYTES: Final = 4
RECEIVE_BYTES: Final = 1 << 18
# Messages written at a time; the buffer is cut at these only, so that a window is counted in whole messages.
SLICE_MESSAGES: Final = 500
STALLED_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Block:
    """Prebuilt PUBLISHes with the ids 1 to `messages`, and where each slice of them begins and ends."""

    data: bytes
    cuts: tuple[int, ...]
    messages: int


@dataclass(frozen=True, slots=True)
class Load:
    """What a run did: all times in seconds. `cpu_s` is the generator's own."""

    sent: int
    acknowledged: int
    seconds: float
    per_second: float
    cpu_s: float


def build_block(
    messages: int, *, connection: int = 0, devices: int = 50, version: int = 4, payload_bytes: int = 0
) -> Block:
    """Build a window of small JSON messages; `payload_bytes` pads each payload to that many."""
    assert 0 < messages <= 65535
    parts: list[bytes] = []
    cuts = [0]
    for k in range(messages):
        payload = b'{"ts":%d,"temp":%.2f}' % (1_790_000_000_000 + k, 20 + k % 400 / 40)
        topic = b"plant/d%d-%d/climate" % (connection, k % devices)
        parts.append(publish_bytes(topic, payload.ljust(payload_bytes), qos=1, packet_id=k + 1, version=version))
        if (k + 1) % SLICE_MESSAGES == 0 or k + 1 == messages:
            cuts.append(cuts[-1] + sum(map(len, parts[-((k % SLICE_MESSAGES) + 1) :])))
    return Block(b"".join(parts), tuple(cuts), messages)


class _Client:
    """One connection: what is left of the slice being written, and how many messages are in flight."""

    def __init__(self, address: tuple[str, int], block: Block, *, client_id: bytes, version: int) -> None:
        self.block = block
        self.sent = 0
        self.acknowledged_bytes = 0
        self._slice = 0
        self._rest = memoryview(b"")
        self._view = memoryview(block.data)
        self._slices = len(block.cuts) - 1
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(connect_bytes(client_id, version=version))
        head = self._exactly(2)
        assert head[0] == 0x20, head
        body = self._exactly(head[1])
        assert body[1] == 0, f"refused: {body!r}"
        self.socket.setblocking(False)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            got = self.socket.recv(count - len(data))
            assert got, "the server hung up"
            data += got
        return data

    @property
    def in_flight(self) -> int:
        return self.sent - self.acknowledged_bytes // PUBACK_BYTES

    def write(self, messages_left: int) -> bool:
        """Write slices while the window has room; return whether it has, but the socket has not."""
        while True:
            if not self._rest:
                start, stop = self.block.cuts[self._slice], self.block.cuts[self._slice + 1]
                count = min(SLICE_MESSAGES, self.block.messages - self._slice * SLICE_MESSAGES)
                # The ids of a block repeat, so a slice must not overtake its own last time.
                if self.in_flight + count > self.block.messages or messages_left < count:
                    return False
                self._rest = self._view[start:stop]
                self._slice = (self._slice + 1) % self._slices
                self.sent += count
                messages_left -= count
            try:
                written = self.socket.send(self._rest)
            except BlockingIOError:
                return True
            self._rest = self._rest[written:]

    def read(self) -> None:
        data = self.socket.recv(RECEIVE_BYTES)
        assert data, "the server hung up"
        self.acknowledged_bytes += len(data)

    @property
    def has_rest(self) -> bool:
        return bool(self._rest)


def run_load(
    address: tuple[str, int],
    blocks: Sequence[Block],
    *,
    seconds: float,
    messages_max: int = sys.maxsize,
    version: int = 4,
) -> Load:
    """Keep a block's worth of messages in flight on each connection for `seconds`; then wait for the rest."""
    clients = [_Client(address, block, client_id=b"load-%d" % k, version=version) for k, block in enumerate(blocks)]
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
    cpu_before_s, began_s = _cpu_s(), time.monotonic()
    heard_s = began_s
    while True:
        now_s = time.monotonic()
        is_over = now_s - began_s > seconds
        sent = sum(client.sent for client in clients)
        if (is_over or sent >= messages_max) and not any(client.in_flight for client in clients):
            break
        for key, events in selector.select(0.2):
            client = key.data
            if events & selectors.EVENT_READ:
                client.read()
                heard_s = now_s
            left = 0 if is_over else messages_max - sent
            wants = client.write(left) if left or client.has_rest else False
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if wants else 0)
            if mask != key.events:
                selector.modify(client.socket, mask, client)
        assert now_s - heard_s < STALLED_S, "no PUBACK came for too long"
    took_s = time.monotonic() - began_s
    cpu_s = _cpu_s() - cpu_before_s
    for client in clients:
        client.socket.close()
    selector.close()
    acknowledged = sum(client.acknowledged_bytes for client in clients) // PUBACK_BYTES
    return Load(sum(client.sent for client in clients), acknowledged, took_s, acknowledged / took_s, cpu_s)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run one load and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--window", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--messages", type=int, default=sys.maxsize)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--version", type=int, choices=(4, 5), default=4)
    parser.add_argument("--payload-bytes", type=int, default=0)
    arguments = parser.parse_args()
    blocks = [
        build_block(
            arguments.window,
            connection=k,
            devices=arguments.devices,
            version=arguments.version,
            payload_bytes=arguments.payload_bytes,
        )
        for k in range(arguments.connections)
    ]
    load = run_load(
        (arguments.host, arguments.port),
        blocks,
        seconds=arguments.seconds,
        messages_max=arguments.messages,
        version=arguments.version,
    )
    print(json.dumps(asdict(load)))


if __name__ == "__main__":
    main()
