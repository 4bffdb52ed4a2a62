"""A program that sends OTLP: requests of a thousand log records, spans or data points, made once and sent many times.

`python -m gateway.bench.otlp_load --port N --signal logs --seconds S` prints as JSON how many were answered with 200,
or with OK where `--grpc` has it speak gRPC.
Must not be taken for a client library: a request that is not taken is counted and not sent again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import socket
import threading
import time
from typing import Final

from gateway.codecs import protobuf
from gateway.codecs.grpc import CONTENT_TYPE, METHODS, prefix
from gateway.codecs.otlp import NO_MARKS, encode_log_record, encode_resource, encode_scope
from gateway.core.clock import SystemClock
from gateway.core.contracts import Signal
from gateway.net.line import Address

CLOCK: Final = SystemClock()
RECORDS: Final = 1000
CONNECTIONS: Final = 16
PATHS: Final = {"logs": "/v1/logs", "traces": "/v1/traces", "metrics": "/v1/metrics"}
SIGNALS: Final = {"logs": Signal.LOGS, "traces": Signal.TRACES, "metrics": Signal.METRICS}
METRICS: Final = 20
HEADERS: Final = (("te", "trailers"), ("content-type", CONTENT_TYPE))
ANSWER_S: Final = 60.0


def log_record(number: int, now_ns: int) -> bytes:
    """Return a record as a web service writes one for each request that it answers."""
    return encode_log_record(
        time_ns=now_ns + number * 1_000_003,
        observed_ns=now_ns + number * 1_000_003 + 51_000,
        severity_number=9,
        severity_text="INFO",
        body=f"GET /api/v1/items/{number * 7919 % 10_007} answered 200 in {number * 31 % 97} ms",
        attributes=(
            ("http.request.method", "GET"),
            ("http.response.status_code", 200),
            ("thread.name", f"worker-{number % 8}"),
        ),
    )


def span(number: int, now_ns: int) -> bytes:
    """Return a span of such a request, in a trace of its own."""
    ids = hashlib.blake2b(str(number).encode(), digest_size=24).digest()
    start_ns = now_ns + number * 1_000_003
    attribute = protobuf.text(1, "http.route") + protobuf.delimited(2, protobuf.text(1, "/api/v1/items/{id}"))
    return b"".join(
        (
            protobuf.delimited(1, ids[:16]),
            protobuf.delimited(2, ids[16:]),
            protobuf.text(5, "GET /api/v1/items/{id}"),
            protobuf.integer(6, 2),
            protobuf.fixed64(7, start_ns),
            protobuf.fixed64(8, start_ns + number * 31 % 97 * 1_000_000),
            protobuf.delimited(9, attribute),
            protobuf.delimited(9, protobuf.text(1, "item") + protobuf.delimited(2, protobuf.integer(3, number))),
        )
    )


def metric(number: int, now_ns: int) -> bytes:
    """Return a gauge with a point for each of the items that the service has, one of METRICS."""
    points = RECORDS // METRICS
    data = b"".join(
        protobuf.delimited(
            1,
            b"".join(
                (
                    protobuf.fixed64(3, now_ns),
                    protobuf.double(4, (number * points + k) * 7919 % 10_007 / 8),
                    protobuf.delimited(7, protobuf.text(1, "item") + protobuf.delimited(2, protobuf.text(1, f"i-{k}"))),
                    protobuf.delimited(
                        7, protobuf.text(1, "shelf") + protobuf.delimited(2, protobuf.integer(3, k % 7))
                    ),
                )
            ),
        )
        for k in range(points)
    )
    return protobuf.text(1, f"items.gauge.{number}") + protobuf.text(3, "1") + protobuf.delimited(5, data)


def make_request(signal: str, port: int) -> bytes:
    """Return a whole HTTP request with RECORDS of one program."""
    body = make_body(signal)
    head = f"POST {PATHS[signal]} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/x-protobuf\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def make_body(signal: str) -> bytes:
    """Return RECORDS of one program as an export request."""
    now_ns = CLOCK.wall_ns()
    make = {"logs": log_record, "traces": span, "metrics": metric}[signal]
    count = METRICS if signal == "metrics" else RECORDS
    items = b"".join(protobuf.delimited(2, make(number, now_ns)) for number in range(count))
    resource = encode_resource((("service.name", "items"), ("service.instance.id", "items-1")), ())
    scope = protobuf.delimited(1, encode_scope("items.web", NO_MARKS, version=""))
    return protobuf.delimited(1, protobuf.delimited(1, resource) + protobuf.delimited(2, scope + items))


class Load:
    """Connections that each send the same request, one after the other's answer, until the time is over."""

    def __init__(self, port: int, request: bytes, *, seconds: float) -> None:
        self.taken = self.refused = 0
        self._lock = threading.Lock()
        self._port = port
        self._request = request
        self._until_s = time.monotonic() + seconds

    def run(self) -> None:
        """Send over CONNECTIONS at once; return when all are answered."""
        threads = [threading.Thread(target=self._send) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_S) as connection:
            while self._may_go_on():
                connection.sendall(self._request)
                self._count(is_taken=connection.recv(65536).startswith(b"HTTP/1.1 200 "))

    def _may_go_on(self) -> bool:
        """Whether one more may be sent: the first of all may, however late it is."""
        return time.monotonic() < self._until_s or not (self.taken or self.refused)

    def _count(self, *, is_taken: bool) -> None:
        with self._lock:
            self.taken += is_taken
            self.refused += not is_taken


class GrpcLoad(Load):
    """The same with calls of gRPC, each of a signal's `Export`."""

    def __init__(self, port: int, signal: str, *, seconds: float) -> None:
        body = make_body(signal)
        super().__init__(port, prefix(len(body), is_compressed=False) + body, seconds=seconds)
        self._method = METHODS[SIGNALS[signal]]

    def _send(self) -> None:
        from gateway.net.http2 import Http2Connection  # noqa: PLC0415  only where the extra is installed

        with contextlib.closing(Http2Connection(to=Address("127.0.0.1", self._port), timeout_s=ANSWER_S)) as connection:
            while self._may_go_on():
                answer = connection.call(
                    self._method,
                    headers=HEADERS,
                    size_bytes=len(self._request),
                    pieces=(self._request,),
                    answer_bytes_max=65536,
                )
                self._count(is_taken=answer.trailers.get("grpc-status") == "0")


def main() -> None:
    """Run the load that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--signal", choices=PATHS, default="logs")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--grpc", action="store_true")
    arguments = parser.parse_args()
    load = (
        GrpcLoad(arguments.port, arguments.signal, seconds=arguments.seconds)
        if arguments.grpc
        else Load(arguments.port, make_request(arguments.signal, arguments.port), seconds=arguments.seconds)
    )
    load.run()
    print(json.dumps({"acknowledged": load.taken * RECORDS, "refused": load.refused}), flush=True)  # noqa: T201  the parent reads it


if __name__ == "__main__":
    main()
