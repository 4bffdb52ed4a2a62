"""What the OTLP receiver counts: requests, readings by signal, bytes that are on their way. Must not read any of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import Signal
from gateway.net.http_requests import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.core.telemetry import Telemetry

BUSY_S: Final = 1.0
WORDS: Final = {Signal.METRICS: "data_points", Signal.LOGS: "log_records", Signal.TRACES: "spans"}


class Held:
    """Bytes that one request holds."""

    def __init__(self, counts: Counts) -> None:
        self.size_bytes = 0
        self._counts = counts

    def grow(self, size_bytes: int) -> None:
        """Hold so many from now on, if that is more; raise RequestError where there is no room."""
        more = size_bytes - self.size_bytes
        if more <= 0:
            return
        if self._counts.in_flight_bytes + more > self._counts.bytes_max:
            # Nobody waits with half a request in hand for somebody else who does.
            raise RequestError(503, "busy", "too many requests are on their way to the disk", after_s=BUSY_S)
        self._counts.in_flight_bytes += more
        self.size_bytes = size_bytes


class Counts:
    """The numbers of one source."""

    def __init__(self, source: str, *, telemetry: Telemetry, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.in_flight_bytes = 0
        self.last_pushed_back = ""
        self._source = source
        self._telemetry = telemetry
        self._requests = self._kept = self._pushed_back = 0
        self._readings = dict.fromkeys(Signal, 0)

    @property
    def is_full(self) -> bool:
        """Whether the last request found no room."""
        return bool(self.last_pushed_back)

    @contextlib.contextmanager
    def hold(self, size_bytes: int) -> Iterator[Held]:
        """Hold bytes for as long as a request is under way; raise RequestError where there is no room."""
        held = Held(self)
        try:
            held.grow(size_bytes)
            yield held
        finally:
            self.in_flight_bytes -= held.size_bytes

    def connected(self, count: int) -> None:
        """Show how many connections there are."""
        self._telemetry.gauge("tidegate_source_connections", count, source=self._source)

    def came(self, signal: Signal) -> None:
        """Count a request whose head was right."""
        self._requests += 1
        self._telemetry.count("tidegate_otlp_requests", source=self._source, signal=signal.name.lower())

    def kept(self, signal: Signal, readings: int) -> None:
        """Count what is on disk, and about to be answered."""
        self._kept += 1
        self.last_pushed_back = ""
        self._readings[signal] += readings
        self._telemetry.count("tidegate_otlp_readings", readings, source=self._source, signal=signal.name.lower())

    def pushed_back(self, why: str) -> None:
        """Count a request that may come again."""
        self._pushed_back += 1
        self.last_pushed_back = why
        self._telemetry.count("tidegate_otlp_pushed_back", source=self._source)

    def status(self) -> dict[str, object]:
        """Return them as `tidegate status` shows them; readings since the start."""
        return {
            "received": self._requests,
            "acknowledged": self._kept,
            "pushed_back": self._pushed_back,
            "in_flight_bytes": self.in_flight_bytes,
            **{word: self._readings[signal] for signal, word in WORDS.items()},
        }
