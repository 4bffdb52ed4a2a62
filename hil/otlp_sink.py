"""A real OTLP/HTTP receiver on loopback that keeps or counts what it gets, and misbehaves by script.

    with OtlpSink() as sink:
        ...                                  # send to sink.url
        sink.readings()                      # every reading with how often it came

Mode "keep" parses with the official classes and knows each reading; mode "count" only counts, more than ten
million a second. `python -m hil.otlp_sink --port 0 --count` runs one in a process of its own: it prints its
address as a line of JSON, answers GET /stats, and prints its totals when it is told to end.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

from hil.otlp_count import count_points, count_records
from hil.otlp_readings import (
    LogLine,
    Reading,
    answer_for,
    json_answer_for,
    json_to_protobuf,
    parse_logs,
    parse_metrics,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from hil.certificates import Identity

BODY_BYTES_MAX: Final = 256 << 20
KEPT_BODIES_BYTES_MAX: Final = 256 << 20
REQUESTS_KEPT_MAX: Final = 100_000
SIGNALS: Final = {"/v1/metrics": "metrics", "/v1/logs": "logs", "/v1/traces": "traces"}
PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
Cut = Literal["", "before_read", "after_read", "mid_answer"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one request is answered. The default takes it and says so.

    `cut` resets the connection before the body is read, after it (no answer), or halfway through the answer.
    `takes` says whether the data count as received: by default when the status is 2xx and the body was read,
    so a cut after reading is the lost answer that makes duplicates. `rejected` and `message` make a partial
    success; `answer` replaces the answer's body with these bytes. `refuse_encoding` answers 400 to that
    Content-Encoding and takes all else; `refuses` says of which metric readings a request may not hold one, which is
    answered with `refuses_with` (and is taken all the same with `takes_refused`), and `knows_not` names a signal whose
    path answers 404. `takes_type` is the one content type it takes.
    """

    status: int = 200
    retry_after: str = ""
    delay_s: float = 0.0
    cut: Cut = ""
    takes: bool | None = None
    rejected: int = 0
    message: str = ""
    answer: bytes | None = None
    content_type: str = PROTOBUF
    refuse_encoding: str = ""
    refuses: Callable[[Reading], bool] | None = None
    refuses_with: int = 400
    takes_refused: bool = False
    knows_not: str = ""
    takes_type: str = ""

    @property
    def is_taken(self) -> bool:
        """Whether what was sent counts as received."""
        return self.takes if self.takes is not None else self.status < 300 and self.cut != "before_read"


@dataclass(slots=True)
class Request:
    """What is remembered of one request. `body` is decompressed; kept in mode "keep" while there is room."""

    number: int
    signal: str
    encoding: str
    wire_bytes: int
    readings: int = 0
    status: int = 0
    is_taken: bool = False
    is_answered: bool = False
    arrived_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(slots=True)
class Totals:
    """What has been received and taken. `header_bytes` are the requests' own header bytes."""

    requests: int = 0
    readings: int = 0
    records: int = 0
    body_bytes: int = 0
    header_bytes: int = 0
    decoded_bytes: int = 0
    refused: int = 0


class OtlpSink:
    """The receiver. `behave` and `always` script it; it may be changed while it runs."""

    def __init__(
        self,
        *,
        mode: Literal["keep", "count"] = "keep",
        port: int = 0,
        host: str = "127.0.0.1",
        identity: Identity | None = None,
    ) -> None:
        self.mode = mode
        self.always = Behaviour()
        self.totals = Totals()
        self.requests: list[Request] = []
        self._script: list[Behaviour] = []
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._seen: dict[Reading, list[int]] = {}
        self._logs: list[LogLine] = []
        self._bodies_bytes = 0
        self._server = _Server((host, port), _Handler)
        self._server.sink = self
        if identity is not None:
            self._server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._server.tls.load_cert_chain(identity.certificate, identity.key)
        self.host, self.port = host, int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="otlp sink", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The OTLP base endpoint."""
        return f"http{'s' if self._server.tls else ''}://{self.host}:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """Where a proxy should lead to."""
        return self.host, self.port

    def behave(self, *script: Behaviour) -> None:
        """Answer the next requests by `script`, one each; then as `always` says."""
        with self._lock:
            self._script.extend(script)

    def readings(self) -> Counter[Reading]:
        """Return every reading that was taken, with how often it came. Mode "keep" alone."""
        assert self.mode == "keep"
        with self._lock:
            return Counter({reading: len(numbers) for reading, numbers in self._seen.items()})

    def logs(self) -> list[LogLine]:
        """Return every log record that was taken, in order of arrival."""
        with self._lock:
            return list(self._logs)

    def unexplained_duplicates(self) -> list[Reading]:
        """Return readings that came again although an earlier request with them had been answered in full.

        A sender that got its answer has no reason to send again; one whose answer was lost has.
        """
        with self._lock:
            answered = {request.number for request in self.requests if request.is_answered}
            return [reading for reading, numbers in self._seen.items() if any(n in answered for n in numbers[:-1])]

    def wait_for(self, readings: int, *, within_s: float = 60.0) -> None:
        """Return when `readings` have been taken (repeats included); raise TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self.totals.readings >= readings, within_s):
                raise TimeoutError(f"{self.totals.readings} of {readings} readings within {within_s} s")

    def wait_for_requests(self, count: int, *, within_s: float = 60.0) -> None:
        """Return when `count` requests have come, taken or not; raise TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self.totals.requests >= count, within_s):
                raise TimeoutError(f"{self.totals.requests} of {count} requests within {within_s} s")

    def stats(self) -> dict[str, int]:
        """Return the totals."""
        with self._lock:
            return asdict(self.totals)

    def close(self) -> None:
        """Stop serving and reset what stands."""
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()

    def begin(self, request: Request, header_bytes: int) -> Behaviour:
        """Note a request's arrival; return how it shall be answered. For the connection's thread."""
        with self._arrived:
            self.totals.requests += 1
            self.totals.header_bytes += header_bytes
            request.number = self.totals.requests
            request.arrived_s = time.monotonic()
            if len(self.requests) < REQUESTS_KEPT_MAX:
                self.requests.append(request)
            behaviour = self._script.pop(0) if self._script else self.always
            self._arrived.notify_all()
        if behaviour.refuse_encoding and behaviour.refuse_encoding == request.encoding:
            return Behaviour(status=400, message=f"unknown encoding {request.encoding}")
        return behaviour

    def take(self, request: Request, body: bytes) -> None:
        """Count or keep what `body` holds; ValueError for what is not OTLP."""
        readings: Iterable[Reading] = ()
        logs: list[LogLine] = []
        if request.signal == "metrics":
            if self.mode == "keep":
                readings = parse_metrics(body)
                request.readings = len(readings)
            else:
                request.readings = count_points(body)
        elif request.signal == "logs" and self.mode == "keep":
            logs = parse_logs(body)
        records = 0 if request.signal == "metrics" else len(logs) or count_records(body)
        with self._arrived:
            request.is_taken = True
            self.totals.readings += request.readings
            self.totals.records += records
            self.totals.body_bytes += request.wire_bytes
            self.totals.decoded_bytes += len(body)
            if self.mode == "keep":
                for reading in readings:
                    self._seen.setdefault(reading, []).append(request.number)
                self._logs += logs
                if self._bodies_bytes + len(body) <= KEPT_BODIES_BYTES_MAX:
                    self._bodies_bytes += len(body)
                    request.body = body
            self._arrived.notify_all()

    def end(self, request: Request, status: int, *, is_answered: bool) -> None:
        """Note how a request was answered. For the connection's thread."""
        with self._lock:
            request.status = status
            request.is_answered = is_answered and status < 300
            self.totals.refused += status >= 300


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    sink: OtlpSink
    tls: ssl.SSLContext | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the TLS handshake happens at the first read, in the connection's own thread."""
        connection, address = super().get_request()
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a sender that went away; anything else is a fault of this rig."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | ssl.SSLError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    raw_requestline: bytes
    timeout = 120
    decoders: ClassVar[dict[str, Any]] = {
        "": bytes,
        "identity": bytes,
        "gzip": gzip.decompress,
        "zstd": zstd.decompress,
    }

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it so
        """Say nothing: the requests are in the sink's list."""

    def do_GET(self) -> None:
        """Answer /stats."""
        self._answer(200, json.dumps(self.server.sink.stats()).encode(), "application/json")

    def do_POST(self) -> None:
        """Take an export request."""
        sink = self.server.sink
        length = int(self.headers.get("Content-Length", "0"))
        encoding = self.headers.get("Content-Encoding", "")
        request = Request(0, SIGNALS.get(self.path, ""), encoding, length, headers=dict(self.headers.items()))
        header_bytes = len(self.raw_requestline) + sum(len(k) + len(v) + 4 for k, v in self.headers.items()) + 2
        behaviour = sink.begin(request, header_bytes)
        if behaviour.cut == "before_read":
            self._reset()
            return
        wire = self.rfile.read(min(length, BODY_BYTES_MAX))
        if behaviour.delay_s:
            time.sleep(behaviour.delay_s)
        status, message = self._judge(request, wire, behaviour)
        if behaviour.cut == "after_read":
            sink.end(request, status, is_answered=False)
            self._reset()
            return
        body, content_type = behaviour.answer, behaviour.content_type
        if body is None:
            answer = answer_for
            if self._is_json():
                answer, content_type = json_answer_for, JSON
            body = answer(request.signal, status, behaviour.rejected, message)
        if behaviour.cut == "mid_answer":
            sink.end(request, status, is_answered=False)
            self.wfile.write(f"HTTP/1.1 {status} \r\nContent-Length: {len(body) + 10}\r\nContent-".encode())
            self._reset()
            return
        # Noted before it is sent: whoever has the answer may ask at once.
        sink.end(request, status, is_answered=True)
        self._answer(status, body, content_type, behaviour.retry_after)

    def _judge(self, request: Request, wire: bytes, behaviour: Behaviour) -> tuple[int, str]:  # noqa: PLR0911  a list of what may be wrong
        if not request.signal or request.signal == behaviour.knows_not:
            return 404, f"no such path: {self.path}"
        if not behaviour.is_taken:
            return behaviour.status, behaviour.message
        decode = self.decoders.get(request.encoding)
        if decode is None:
            return 400, f"unknown encoding {request.encoding}"
        if behaviour.takes_type not in {"", self.headers.get("Content-Type")}:
            return 415, f"only {behaviour.takes_type}"
        try:
            body = decode(wire)
            if self._is_json():
                body = json_to_protobuf(request.signal, body)
            refuses = behaviour.refuses if request.signal == "metrics" else None
            if refuses is not None and any(map(refuses, parse_metrics(body))):
                if behaviour.takes_refused:
                    self.server.sink.take(request, body)
                return behaviour.refuses_with, behaviour.message
            self.server.sink.take(request, body)
        except (ValueError, OSError, EOFError, zlib.error, zstd.ZstdError) as error:
            return 400, f"not OTLP: {error}"
        return behaviour.status, behaviour.message

    def _is_json(self) -> bool:
        return bool(self.headers.get("Content-Type") == JSON)

    def _answer(self, status: int, body: bytes, content_type: str, retry_after: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.wfile.flush()
        self.close_connection = True
        self.connection.close()


def main(arguments: list[str] | None = None) -> int:
    """Run one in a process of its own until SIGTERM or the end of stdin's life."""
    parser = argparse.ArgumentParser(prog="python -m hil.otlp_sink", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: the kernel chooses")
    parser.add_argument("--count", action="store_true", help="count only, without objects")
    options = parser.parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with OtlpSink(mode="count" if options.count else "keep", port=options.port) as sink:
        print(json.dumps({"url": sink.url, "port": sink.port}), flush=True)
        ended.wait()
        print(json.dumps(sink.stats()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
