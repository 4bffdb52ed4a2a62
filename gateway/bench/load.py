"""A cheap load: QoS 1 PUBLISHes from prebuilt bytes over a few connections, PUBACKs counted by their length.

It does no work per message while it runs, so that what is measured is the server. Run as a process of its own
(`python -m gateway.bench.load --port N`), it prints one JSON object. With `--rate` it is a plant instead: so many
messages a second with the time of now, spread over the second.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import cbor2
import numpy as np

from gateway.core.clock import SystemClock
from gateway.net.mqtt_packets import connect_bytes, publish_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

PUBACK_BYTES: Final = 4
RECEIVE_BYTES: Final = 1 << 18
# Messages written at a time; the buffer is cut at these only, so that a window is counted in whole messages.
SLICE_MESSAGES: Final = 500
STALLED_S: Final = 30.0
READINGS_PER_BATCH: Final = 800
CLOCK: Final = SystemClock()


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
    messages: int,
    *,
    kind: str = "json",
    connection: int = 0,
    devices: int = 50,
    version: int = 4,
    payload_bytes: int = 0,
) -> Block:
    """Build a window of messages: small JSON ones, or CBOR ones of READINGS_PER_BATCH readings each.

    `payload_bytes` pads a JSON payload to that many.
    """
    assert 0 < messages <= 65535
    parts: list[bytes] = []
    cuts = [0]
    slice_messages = slice_of(messages)
    started_ns = CLOCK.wall_ns()
    noise = np.random.default_rng(connection)
    for k in range(messages):
        device = b"d%d-%d" % (connection, k % devices)
        if kind == "cbor":
            topic, payload = b"bulk/%b/wave" % device, _wave(started_ns, k, noise)
        else:
            topic = b"plant/%b/climate" % device
            payload = b'{"ts":%d,"temp":%.2f}' % (started_ns // 1_000_000 + k, 20 + k % 400 / 40)
            payload = payload.ljust(payload_bytes)
        parts.append(publish_bytes(topic, payload, qos=1, packet_id=k + 1, version=version))
        if (k + 1) % slice_messages == 0 or k + 1 == messages:
            cuts.append(cuts[-1] + sum(map(len, parts[-((k % slice_messages) + 1) :])))
    return Block(b"".join(parts), tuple(cuts), messages)


def slice_of(messages: int) -> int:
    """Return how many messages are written at a time: a window has several slices."""
    return max(1, min(SLICE_MESSAGES, messages // 8))


def _wave(started_ns: int, number: int, noise: np.random.Generator) -> bytes:
    """Return 800 readings at 1 kHz as an RFC 8746 array of doubles (tag 86): a walk in steps of 0.01."""
    walk = np.round(20 + np.cumsum(noise.integers(-2, 3, READINGS_PER_BATCH)) / 100, 2).astype("<f8")
    t0_ns = started_ns + number * READINGS_PER_BATCH * 1_000_000
    return cbor2.dumps({"t0": t0_ns, "dt": 1_000_000, "v": cbor2.CBORTag(86, walk.tobytes())})


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
                size = slice_of(self.block.messages)
                count = min(size, self.block.messages - self._slice * size)
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


def run_plant(address: tuple[str, int], *, rate: float, seconds: float, devices: int, fields: int) -> Load:
    """Send `rate` messages a second for `seconds`, each with `fields` readings and the time of now."""
    # Ids and window are those of a client that waits for nothing: far more than a second's worth.
    empty = Block(b"", (0, 0), 60_000)
    client = _Client(address, empty, client_id=b"plant", version=4)
    client.socket.setblocking(True)
    client.socket.settimeout(STALLED_S)
    cpu_before_s, began_s = _cpu_s(), time.monotonic()
    sent = 0
    while (elapsed_s := time.monotonic() - began_s) < seconds:
        due = int(elapsed_s * rate) - sent
        ts = CLOCK.wall_ns() // 1_000_000
        parts = []
        for k in range(sent, sent + due):
            walk = 20 + (k // devices % 200) / 100
            body = (
                b'{"ts":%d,"temp":%.2f,"hum":%.1f}' % (ts, walk, 2 * walk)
                if fields == 2
                else b'{"ts":%d,"temp":%.2f}' % (ts, walk)
            )
            parts.append(
                publish_bytes(b"plant/p%d/climate" % (k % devices), body, qos=1, packet_id=k % 60_000 + 1, version=4)
            )
        client.socket.sendall(b"".join(parts))
        sent += due
        time.sleep(min(0.1, max(1 / rate, 0.005)))
        while select.select([client.socket], [], [], 0)[0]:
            client.read()
    while client.acknowledged_bytes < sent * PUBACK_BYTES:
        client.read()
    took_s = time.monotonic() - began_s
    client.socket.close()
    return Load(sent, sent, took_s, sent / took_s, _cpu_s() - cpu_before_s)


def main() -> None:
    """Run one load and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kind", choices=("json", "cbor"), default="json")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--window", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--messages", type=int, default=sys.maxsize)
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--version", type=int, choices=(4, 5), default=4)
    parser.add_argument("--payload-bytes", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--fields", type=int, choices=(1, 2), default=1)
    arguments = parser.parse_args()
    address = (arguments.host, arguments.port)
    if arguments.rate:
        load = run_plant(
            address, rate=arguments.rate, seconds=arguments.seconds, devices=arguments.devices, fields=arguments.fields
        )
    else:
        blocks = [
            build_block(
                arguments.window,
                kind=arguments.kind,
                connection=k,
                devices=arguments.devices,
                version=arguments.version,
                payload_bytes=arguments.payload_bytes,
            )
            for k in range(arguments.connections)
        ]
        load = run_load(
            address, blocks, seconds=arguments.seconds, messages_max=arguments.messages, version=arguments.version
        )
    print(json.dumps(asdict(load)), flush=True)  # noqa: T201  the parent reads it


if __name__ == "__main__":
    main()
