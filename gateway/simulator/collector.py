"""A small OTLP/HTTP receiver that remembers what it was sent. For the demo; must not be taken for a real collector."""

from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.codecs.zstd import decompress

if TYPE_CHECKING:
    from collections.abc import Iterable

BODY_BYTES_MAX: Final = 64 * 1024 * 1024


class Collector:
    """Listens on loopback; `close` and `open` are the link going away and coming back, on the same port."""

    def __init__(self) -> None:
        self.readings: Counter[tuple[str, str, int]] = Counter()  # (device, metric, its counter) → times seen
        self.findings: list[tuple[str, str]] = []  # (device, text)
        self.points = 0
        self.wire_bytes = 0
        self.first_after_open: tuple[float, int, int] | None = None  # (monotonic s, points, newest time ns)
        self.backfill_points = 0
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self.port = 0
        self.open()

    @property
    def endpoint(self) -> str:
        """Return the URL for an uplink."""
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Listen."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = min(int(self.headers.get("content-length", 0)), BODY_BYTES_MAX)
                body = self.rfile.read(length)
                head = f"{self.requestline}\r\n{self.headers}"
                collector.take(self.path, self.headers.get("content-encoding", ""), body, head_bytes=len(head))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it so
                """Say nothing; the story is told elsewhere."""

        self.first_after_open = None
        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="collector", daemon=True).start()

    def close(self) -> None:
        """Go away: the port refuses, open connections are cut."""
        if self._server is not None:
            self._server.shutdown()
            self._server.cut()
            self._server.server_close()
            self._server = None

    def take(self, path: str, encoding: str, body: bytes, *, head_bytes: int) -> None:
        """Remember one request."""
        with self._lock:
            self.wire_bytes += head_bytes + len(body)
            if encoding == "zstd":
                body = decompress(body, bytes_max=BODY_BYTES_MAX)
            elif encoding == "gzip":
                body = gzip.decompress(body)
            if path.endswith("/v1/metrics"):
                self._take_metrics(ExportMetricsServiceRequest.FromString(body))
            elif path.endswith("/v1/logs"):
                self._take_logs(ExportLogsServiceRequest.FromString(body))

    def _take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        newest = points = 0
        for resource in request.resource_metrics:
            device = _attribute(resource.resource.attributes, "device.id")
            for scope in resource.scope_metrics:
                backfill = bool(_attribute(scope.scope.attributes, "tidegate.backfill"))
                for metric in scope.metrics:
                    data = metric.gauge.data_points
                    points += len(data)
                    self.backfill_points += len(data) * backfill
                    newest = max([newest, *(point.time_unix_nano for point in data)])
                    if metric.name == "n":
                        self.readings.update((device, "n", point.as_int) for point in data)
        self.points += points
        if points and self.first_after_open is None:
            self.first_after_open = (time.monotonic(), points, newest)

    def _take_logs(self, request: ExportLogsServiceRequest) -> None:
        for resource in request.resource_logs:
            device = _attribute(resource.resource.attributes, "device.id")
            for scope in resource.scope_logs:
                self.findings += [(device, record.body.string_value) for record in scope.log_records]

    def seen(self, device: str) -> dict[int, int]:
        """Return how often each of the device's counted messages was seen."""
        with self._lock:
            return {n: times for (name, _, n), times in self.readings.items() if name == device}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        self._open: set[Any] = set()
        super().__init__(*arguments)

    def get_request(self) -> Any:
        request, address = super().get_request()
        self._open.add(request)
        return request, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, *_: Any) -> None:
        """Say nothing: a cut connection is part of the story."""

    def cut(self) -> None:
        """End every open connection, as a link that goes away does."""
        for request in list(self._open):
            super().shutdown_request(request)


def _attribute(attributes: Iterable[Any], key: str) -> str:
    for attribute in attributes:
        if attribute.key == key:
            value = attribute.value
            return str(value.string_value or value.bool_value or "")
    return ""
