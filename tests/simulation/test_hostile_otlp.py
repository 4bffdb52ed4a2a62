"""An OTLP receiver among those who mean no good: the honest are served, memory stays bounded, each no has a reason."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from gateway.codecs import protobuf, zstd
from gateway.net.ports import free_port
from hil.children import wait_until
from hil.gateway_child import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hil.children import Child
    from hil.otlp_sink import OtlpSink

RSS_BYTES_MAX = 96 << 20  # up to 84 MiB are seen, as the threads fall together; a bomb that went off takes hundreds
MIB = 1 << 20
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}


def post(port: int, body: bytes, headers: dict[str, str], path: str = "/v1/logs") -> int:
    """Send one request; return the status, 0 where the connection ended without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


class Honest:
    """A program that logs a numbered line at a time, and sends it again until it is taken."""

    def __init__(self, port: int) -> None:
        self.taken: set[str] = set()
        self._port = port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)

    def _run(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            request = ExportLogsServiceRequest()
            message = request.resource_logs.add()
            message.resource.attributes.add(key="service.name").value.string_value = "honest"
            message.scope_logs.add().log_records.add().body.string_value = f"line {number}"
            if post(self._port, request.SerializeToString(), PROTOBUF) == 200:
                self.taken.add(f"line {number}")
            self._ended.wait(0.01)


def wrapped(records: bytes) -> bytes:
    return protobuf.delimited(1, protobuf.delimited(2, records))


def nested(depth: int) -> bytes:
    value = b""
    for _ in range(depth):
        value = protobuf.delimited(5, protobuf.delimited(1, value))
    return wrapped(protobuf.delimited(2, protobuf.delimited(5, value)))


def bombs() -> Iterator[tuple[bytes, dict[str, str], set[int]]]:
    """Requests that are small and become much, or are none: body, headers, what may be answered."""
    zeros = bytes(512 * MIB)
    yield gzip.compress(zeros), PROTOBUF | {"Content-Encoding": "gzip"}, {413}
    yield zstd.compress(zeros), PROTOBUF | {"Content-Encoding": "zstd"}, {413}
    yield gzip.compress(zeros), JSON | {"Content-Encoding": "gzip"}, {413}
    del zeros
    yield wrapped(b"\x12\x00" * (2 * MIB - 99)), PROTOBUF, {413}
    yield wrapped(protobuf.delimited(2, b"\x32\x00" * (2 * MIB - 99))), PROTOBUF, {200}
    yield wrapped(protobuf.delimited(2, protobuf.delimited(5, b"\x2a\x00" * MIB))), PROTOBUF, {200}
    yield protobuf.delimited(1, b"\x0a\x00" * (2 * MIB - 99)), PROTOBUF, {200}
    yield protobuf.delimited(1, b"\x08\x00" * (2 * MIB - 99) + b"\x12\x02\x12\x00"), PROTOBUF, {200}
    yield protobuf.delimited(1, b"\x12\x00" * (2 * MIB - 99) + b"\x12\x02\x12\x00"), PROTOBUF, {200}
    yield protobuf.delimited(1, b"") * (2 * MIB - 99), PROTOBUF, {413}
    yield nested(5000), PROTOBUF, {400}
    yield b"\xff" * (4 * MIB), PROTOBUF, {400}
    yield b"\x0b" * (4 * MIB), PROTOBUF, {400}
    yield b"[" * (2 * MIB), JSON, {400, 413}
    yield b'{"resourceLogs":[' + b"{}," * (MIB // 2) + b"{}]}", JSON, {413}
    yield b'{"resourceLogs":[' + b"{}," * 90_000 + b"{}]}", JSON, {413}
    yield b'{"resourceLogs":[{"scopeLogs":[' + b"{}," * 90_000 + b"{}]}]}", JSON, {200}
    yield b'{"a":' * 300_000, JSON, {400, 413}
    yield b'{"resourceLogs":[{"resource":{"attributes":[' + b'{"key":"k"},' * 60_000 + b"{}]}}]}", JSON, {200}
    yield b'{"x":"' + b"\\u00e9" * 300_000 + b'"}', JSON, {200}


@contextlib.contextmanager
def silent(port: int, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that say nothing, or only begin."""
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                stream = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                stream.sendall(first)
                streams.append(stream)
        yield streams


class Place(Site):
    """A gateway with an OTLP receiver that waits for nobody long."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.otlp = free_port()
        source = f'[[sources]]\ntype = "otlp"\nname = "local"\nhttp = "127.0.0.1:{self.otlp}"\ntimeout = "2s"\n'
        super().__init__(folder, source=source, **options)


@pytest.fixture
def site(tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]) -> Place:
    return Place(tmp_path, endpoint=otlp_sink.url, make_child=make_child)


def settle(site: Place, child: Child, honest: Honest, sink: OtlpSink) -> dict[str, int]:
    """What was promised has arrived, and the gateway stops in order; return what was refused."""
    assert child.is_running, child.tail()
    account = site.drain()
    # Of who has hung up in the middle it is heard a little later.
    wait_until(lambda: not site.status()["sources"]["local"]["in_flight_bytes"], "nothing to be in flight")
    status = site.status()
    assert (account.gap, status["restarts"]) == (0, {}), child.tail()
    peak = child.peak_bytes
    assert child.terminate() == 0
    assert honest.taken <= {line.body for line in sink.logs()}
    assert len(honest.taken) > 20
    assert "Traceback" not in child.output
    assert peak < RSS_BYTES_MAX, f"{peak / MIB:.0f} MiB"
    refused: dict[str, int] = status["sources"]["local"]["refused"]
    return refused


@pytest.mark.slow
def test_who_attacks_the_wire_does_not_disturb_the_honest(site: Place, otlp_sink: OtlpSink) -> None:
    """Hundreds who say nothing, or half of something, or garbage, or too slowly, or do not listen."""
    dice = random.Random(3)
    child = site.start()
    head = b"POST /v1/logs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-protobuf\r\n"
    with Honest(site.otlp) as honest:
        for first in (b"", b"POST /v1/lo", head, head + b"Content-Length: 4000000\r\n\r\n" + bytes(1000)):
            before = len(honest.taken)
            with silent(site.otlp, 100, first):
                wait_until(lambda before=before: len(honest.taken) > before + 3, "the honest to be heard")
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", site.otlp)) as stream:
                stream.sendall(dice.choice([b"", head]) + dice.randbytes(dice.randrange(2000)) + b"\r\n\r\n")
        with silent(site.otlp, 20, head + b"Transfer-Encoding: chunked\r\n\r\n") as drips:
            before, until_s = len(honest.taken), time.monotonic() + 3
            while time.monotonic() < until_s or (len(honest.taken) <= before + 3 and time.monotonic() < until_s + 60):
                for stream in drips:
                    with contextlib.suppress(OSError):
                        stream.sendall(b"1\r\nx\r\n")
                time.sleep(0.1)
            assert len(honest.taken) > before + 3
        with silent(site.otlp, 4, head + b"Content-Length: 4000000\r\n\r\n" + bytes(3_900_000)):
            before = len(honest.taken)
            wait_until(lambda: len(honest.taken) > before + 3, "the honest to be heard")
    refused = settle(site, child, honest, otlp_sink)
    assert {"connections_max", "cut", "bad_request", "too_slow"} <= refused.keys(), refused


@pytest.mark.slow
def test_bombs_are_answered_and_harmless(site: Place, otlp_sink: OtlpSink) -> None:
    """Each as it is meant to be, one after the other and all at once."""
    child = site.start()
    with Honest(site.otlp) as honest:
        found = list(bombs())
        for number, (body, headers, allowed) in enumerate(found):
            status = post(site.otlp, body, headers)
            assert status in allowed, (number, status)
        threads = [threading.Thread(target=post, args=(site.otlp, body, headers)) for body, headers, _ in found * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        before = len(honest.taken)
        wait_until(lambda: len(honest.taken) > before + 3, "the honest to be heard")
    refused = settle(site, child, honest, otlp_sink)
    assert {"too_large", "malformed"} <= refused.keys(), refused
