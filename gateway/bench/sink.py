"""A counting OTLP/HTTP receiver: decompresses, counts readings without building one, answers 200.

`python -m gateway.bench.sink --port N` prints its port, then serves until it is ended; GET / answers with the counts
as JSON. With `--grpc` it takes gRPC as well, at the port that it prints then. Must not be taken for a collector: it
keeps nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import zlib
from typing import TYPE_CHECKING, Final

from gateway.codecs.protobuf import count
from gateway.codecs.zstd import decompress
from gateway.core.clock import NS_PER_S, SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOCK: Final = SystemClock()

BODY_BYTES_MAX: Final = 256 * 1024 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
SUM_TAIL_BYTES: Final = 4  # aggregation temporality and is_monotonic behind the points of a sum
POINT_BYTES: Final = 20  # tag, length, time and value: what a point without attributes takes


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at `at` and where it ends.

    >>> varint(bytes([0xAC, 0x02]), 0)
    (300, 2)
    """
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data: bytes, at: int, end: int) -> list[tuple[int, int, int]]:
    """Return (tag, start, end) of each length-delimited field in data[at:end]; others are stepped over."""
    found = []
    while at < end:
        tag, at = varint(data, at)
        wire = tag & 7
        if wire == 2:
            length, at = varint(data, at)
            found.append((tag, at, at + length))
            at += length
        elif wire == 0:
            _, at = varint(data, at)
        else:
            at += 8 if wire == 1 else 4
    return found


def columns(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the points of each gauge and sum of an ExportMetricsServiceRequest begin and end."""
    for tag, start, end in fields(data, 0, len(data)):
        if tag != 0x0A:  # resource_metrics
            continue
        for tag_scope, scope_start, scope_end in fields(data, start, end):
            if tag_scope != 0x12:  # scope_metrics
                continue
            for tag_metric, metric_start, metric_end in fields(data, scope_start, scope_end):
                if tag_metric != 0x12:  # metrics
                    continue
                for tag_data, at, data_end in fields(data, metric_start, metric_end):
                    if tag_data in {0x2A, 0x3A}:  # gauge, sum
                        yield at, data_end


def count_points(data: bytes) -> int:
    """Return how many data points an ExportMetricsServiceRequest holds in gauges and sums."""
    points = 0
    for at, data_end in columns(data):
        even, odd = divmod(data_end - at, POINT_BYTES)
        plain = data[at : at + even * POINT_BYTES]
        # A column of plain points: the same two bytes every POINT_BYTES.
        if odd <= SUM_TAIL_BYTES and even and plain[0::20].count(0x0A) == plain[1::20].count(0x12) == even:
            points += even
        else:
            points += count(data, at, data_end, 1)
    return points


def count_records(data: bytes) -> int:
    """Return how many log records or spans an export request holds."""
    return sum(
        count(data, at, end, 2)
        for _, start, stop in fields(data, 0, len(data))
        for tag, at, end in fields(data, start, stop)
        if tag == 0x12
    )


def newest_ns(data: bytes) -> int:
    """Return the newest time in a request, taking the last plain point of each column to be its newest."""
    newest = 0
    for at, data_end in columns(data):
        last = at + (data_end - at) // POINT_BYTES * POINT_BYTES - POINT_BYTES
        if last >= at and data[last : last + 3] == b"\x0a\x12\x19":
            newest = max(newest, int.from_bytes(data[last + 3 : last + 11], "little"))
    return newest


class Counts:
    """What arrived."""

    def __init__(self) -> None:
        self.requests = 0
        self.points = 0
        self.wire_bytes = 0
        self.first_s = 0.0
        self.first_points = 0
        self.first_age_s = 0.0
        self.last_s = 0.0

    def take(self, path: str, encoding: str, head_bytes: int, body: bytes) -> None:
        """Count one request."""
        self.last_s = time.monotonic()
        self.requests += 1
        self.wire_bytes += head_bytes + len(body)
        if encoding == "zstd":
            body = decompress(body, bytes_max=BODY_BYTES_MAX)
        elif encoding == "gzip":
            body = zlib.decompress(body, wbits=31)
        if path != "/v1/metrics":
            self.points += count_records(body)
        else:
            points = count_points(body)
            self.points += points
            if points and not self.first_s:
                self.first_s, self.first_points = self.last_s, points
                self.first_age_s = (CLOCK.wall_ns() - newest_ns(body)) / NS_PER_S


class Receiver(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection, as an OTLP client makes it."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._pieces: list[bytes] = []
        self._held = 0
        self._needed = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect until a request is whole."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._needed:
            return
        held = b"".join(self._pieces)
        while held:
            head_end = held.find(b"\r\n\r\n")
            if head_end < 0:
                assert len(held) < HEAD_BYTES_MAX
                break
            head = held[:head_end].decode("latin-1").split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (text.partition(":") for text in head[1:])}
            self._needed = head_end + 4 + int(headers.get("content-length", "0"))
            if len(held) < self._needed:
                break
            self._answer(head[0], headers, head_end + 4, held[head_end + 4 : self._needed])
            held = held[self._needed :]
            self._needed = 0
        self._pieces = [held] if held else []
        self._held = len(held)

    def _answer(self, request: str, headers: dict[str, str], head_bytes: int, body: bytes) -> None:
        assert self._transport is not None
        method, path, _ = request.split(" ", 2)
        answer = b""
        if method == "POST":
            self._counts.take(path, headers.get("content-encoding", ""), head_bytes, body)
        else:
            answer = json.dumps(vars(self._counts)).encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: %d\r\n\r\n" % len(answer)
            + answer
        )


async def serve(port: int, *, with_grpc: bool = False) -> None:
    """Listen on loopback until cancelled."""
    counts, loop = Counts(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Receiver(counts), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  the parent reads it
    if with_grpc:
        from gateway.bench.grpc_sink import GrpcReceiver  # noqa: PLC0415  only where the extra is installed

        def take(is_metrics: bool, encoding: str, message: bytes) -> None:  # noqa: FBT001  as it is called
            counts.take("/v1/metrics" if is_metrics else "", encoding, 0, message)

        calls = await loop.create_server(lambda: GrpcReceiver(take), "127.0.0.1", 0)
        print(calls.sockets[0].getsockname()[1], flush=True)  # noqa: T201  the same
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--grpc", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, with_grpc=arguments.grpc))
