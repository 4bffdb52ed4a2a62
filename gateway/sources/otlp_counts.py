"""What the OTLP receiver counts: requests, readings by signal, bytes that are on their way. Must not read any of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import Signal
from gateway.net.http_requests import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.core.telemetry import Telemetry

BUSY_S: Final = 1.0
# Who has sent nothing for so long, or has not come to an end in so much longer, makes room where there is none: a
# program sends what it has made in one go.
STALLED_S: Final = 1.0
SLOW_S: Final = 10.0
WORDS: Final = {Signal.METRICS: "data_points", Signal.LOGS: "log_records", Signal.TRACES: "spans"}


class Held:
    """Bytes that one request holds. `give_up` is called where it has to make room while it is still coming."""

    def __init__(self, counts: Counts, give_up: Callable[[], None]) -> None:
        self.size_bytes = 0
        self.give_up = give_up
        self.began_s = self.moved_s = counts.now_s()
        self._counts = counts

    def grow(self, size_bytes: int) -> None:
        """Hold so many from now on; raise RequestError where there is no room."""
        counts, more = self._counts, size_bytes - self.size_bytes
        self.moved_s = counts.now_s()
        if counts.in_flight_bytes + more > counts.bytes_max:
            counts.send_away()
            # Nobody waits with half a request in hand for somebody else who does.
            raise RequestError(503, "busy", "too many requests are on their way to the disk", after_s=BUSY_S)
        counts.in_flight_bytes += more
        self.size_bytes = size_bytes

    def has_come(self) -> None:
        """Take note that all of it is there: from now on it only waits for the disk."""
        self._counts.coming.pop(self, None)


class Counts:
    """The numbers of one source; `now_s` is a steady clock."""

    def __init__(self, source: str, *, telemetry: Telemetry, bytes_max: int, now_s: Callable[[], float]) -> None:
        self.bytes_max = bytes_max
        self.in_flight_bytes = 0
        self.now_s = now_s
        self.coming: dict[Held, None] = {}  # of which not all is there
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
    def hold(self, give_up: Callable[[], None]) -> Iterator[Held]:
        """Hold bytes for as long as a request is under way."""
        held = Held(self, give_up)
        self.coming[held] = None
        try:
            yield held
        finally:
            held.has_come()
            self.in_flight_bytes -= held.size_bytes

    def send_away(self) -> None:
        """Have those give up of whom nothing has come for a while, or who drip: they hold what others could use."""
        now_s = self.now_s()
        for held in list(self.coming):
            if now_s - held.moved_s >= STALLED_S or now_s - held.began_s >= SLOW_S:
                held.has_come()
                held.give_up()

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
