"""A plant that remembers everything: what its devices said, what was promised to them, what came out at the far side.

`Truth` is the simplest thing that can be right: a table of readings, each with a value that is used once. Must not
know how the gateway works.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.codecs.mapping_settings import AttributeValue, MappingSettings, MetricSettings, TimeSettings
from gateway.core.clock import NS_PER_S, WALL_FLOOR_NS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

EPOCH_NS: Final = 1_790_000_000 * NS_PER_S
"""True Unix time at the simulation's second 0."""
TOLERANCE_NS: Final = 2 * NS_PER_S
# A device whose clock never worked.
NEVER_SET_MS: Final = 5_000

# Fields that one piece of rubbish can have.
RUBBISH_LOSSES_MAX: Final = 2

Key: TypeAlias = tuple[str, str, int]
"""Device, metric, and the value's 64 bits."""


class Point(NamedTuple):
    """One delivered reading, and what was said about its time."""

    key: Key
    time_ns: int
    quality: str
    is_backfill: bool


@dataclass(slots=True)
class Origin:
    """Where a reading comes from. `copies` counts how often it may rightly stand in the store."""

    arrived_ns: int = 0
    kept_ns: int = 0  # when it was acknowledged: it may have been pushed back for long before
    device_ns: int | None = None
    promised: int = 0
    perhaps: int = 0


@dataclass(slots=True)
class Message:
    """One message of a device, with the readings that it must become."""

    topic: bytes
    payload: bytes
    keys: list[Key] = field(default_factory=list)


def mappings() -> list[MappingSettings]:
    """Return how the plant's messages are to be understood."""
    resource: dict[str, AttributeValue] = {"device.id": "{device}"}
    metrics = (MetricSettings(field="n", name="n", type="int"), MetricSettings(field="v", name="v", type="double"))
    wave = (MetricSettings(field="v", name="v"),)
    at = TimeSettings(field="ts", unit="ms")
    steps = TimeSettings(start="t0", step="dt", unit="ms")
    common: dict[str, Any] = {"payload": "json", "resource": resource}
    return [
        MappingSettings(match="alarm/{device}", time=at, metrics=metrics, class_="critical", **common),
        MappingSettings(match="meter/{device}", time=at, metrics=metrics, **common),
        MappingSettings(match="wave/{device}", time=steps, metrics=wave, class_="bulk", **common),
    ]


class Truth:
    """What was sent, promised and delivered, by reading."""

    def __init__(self, random: Random) -> None:
        self.origins: dict[Key, Origin] = {}
        self.promised_readings = 0
        self.promised_malformed = 0
        self.perhaps_readings = 0
        self._random = random
        self._number = 0

    def message(self, kind: str, device: str, *, now_ns: int) -> Message:
        """Make up a message: meter or alarm (one number, one double), wave (many doubles), or rubbish."""
        if kind == "rubbish":
            rubbish = [b"", b"{", b'{"n": "many"}', b"\xff\xfe", b'{"n": 1e999, "v": {}}', b"null", b"[" * 2000]
            return Message(b"meter/" + device.encode(), self._random.choice(rubbish))
        if kind == "wave":
            return self._wave(device, now_ns)
        self._number += 1
        value = self._double()
        document: dict[str, float | int] = {"n": self._number, "v": value}
        device_ns = None
        if self._random.random() < 0.3:
            device_ms = now_ns // 1_000_000 - self._random.randint(0, 5000)
            document["ts"] = device_ms if self._random.random() < 0.8 else NEVER_SET_MS
            device_ns = device_ms * 1_000_000 if document["ts"] == device_ms else None
        keys = [(device, "n", self._number), (device, "v", bits_of(value))]
        for key in keys:
            self.origins[key] = Origin(device_ns=device_ns)
        return Message(f"{kind}/{device}".encode(), json.dumps(document).encode(), keys)

    def _wave(self, device: str, now_ns: int) -> Message:
        count = self._random.randint(2, 400)
        values = [self._double() for _ in range(count)]
        start_ms = now_ns // 1_000_000 - count
        keys = [(device, "v", bits_of(value)) for value in values]
        for k, key in enumerate(keys):
            self.origins[key] = Origin(device_ns=(start_ms + k) * 1_000_000)
        document = {"t0": start_ms, "dt": 1, "v": values}
        return Message(f"wave/{device}".encode(), json.dumps(document).encode(), keys)

    def _double(self) -> float:
        # Never a whole number, so that it is a double on every way, and never the same twice but by a miracle.
        return self._random.uniform(-1, 1) * 10.0 ** self._random.randint(-300, 15) + self._random.random() * 1e-12

    def arrived(self, messages: Iterable[Message], now_ns: int) -> None:
        """Note when the gateway read them."""
        for message in messages:
            for key in message.keys:
                self.origins[key].arrived_ns = now_ns

    def promised(self, messages: Iterable[Message], now_ns: int, *, malformed: int) -> None:
        """Note that these were acknowledged."""
        self.promised_malformed += malformed
        for message in messages:
            self.promised_readings += len(message.keys)
            for key in message.keys:
                self.origins[key].promised += 1
                self.origins[key].kept_ns = now_ns

    def perhaps(self, messages: Iterable[Message]) -> None:
        """Note that these were offered when the power went: they may be kept, and will be offered again."""
        for message in messages:
            self.perhaps_readings += len(message.keys) or RUBBISH_LOSSES_MAX
            for key in message.keys:
                self.origins[key].perhaps += 1


class FarSide:
    """What one receiver got."""

    def __init__(self, truth: Truth) -> None:
        self.times: Counter[Key] = Counter()
        self.qualities: Counter[str] = Counter()
        self._truth = truth

    def take(self, points: Iterable[Point], *, is_time_known: bool) -> None:
        """Check each reading against the truth and keep count; `is_time_known`: the gateway's clock has been right."""
        for point in points:
            origin = self._truth.origins.get(point.key)
            assert origin is not None, f"{point} was never sent"
            assert origin.arrived_ns, f"{point} was never read"
            self.times[point.key] += 1
            self.qualities[point.quality] += 1
            assert point.time_ns >= WALL_FLOOR_NS, f"{point} says it was before this gateway was made"
            if origin.device_ns is not None and not point.quality:
                assert point.time_ns == origin.device_ns, f"{point}: its device said {origin.device_ns}"
            elif point.quality in {"", "arrival"} or (point.quality == "repaired" and is_time_known):
                off_ns = point.time_ns - origin.arrived_ns
                assert abs(off_ns) <= TOLERANCE_NS, f"{point} is {off_ns / NS_PER_S:.3f} s off and does not say so"
            else:
                assert point.quality in {"unsynced", "estimated", "repaired"}, point

    def missing(self) -> int:
        """Return how many promised readings never came."""
        return sum(1 for key, origin in self._truth.origins.items() if origin.promised and key not in self.times)

    def doubled(self) -> int:
        """Return how many came more often than they can have been kept."""
        origins = self._truth.origins
        return sum(
            max(0, times - max(1, origins[key].promised + origins[key].perhaps)) for key, times in self.times.items()
        )


def bits_of(value: float) -> int:
    """Return the 64 bits of a double as an integer.

    >>> bits_of(1.0) == 0x3FF0000000000000
    True
    """
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def read_points(body: bytes) -> list[Point]:
    """Return every point of an OTLP request with the gateway's marks, wherever they stand."""
    request = ExportMetricsServiceRequest()
    request.ParseFromString(body)
    found = []
    for resource_metrics in request.resource_metrics:
        outer = {pair.key: pair.value for pair in resource_metrics.resource.attributes}
        device = outer["device.id"].string_value
        for scope_metrics in resource_metrics.scope_metrics:
            marks = outer | {pair.key: pair.value for pair in scope_metrics.scope.attributes}
            for metric in scope_metrics.metrics:
                for point in metric.gauge.data_points:
                    own = marks | {pair.key: pair.value for pair in point.attributes}
                    is_int = point.WhichOneof("value") == "as_int"
                    bits = point.as_int if is_int else bits_of(point.as_double)
                    quality = own["tidegate.time.quality"].string_value if "tidegate.time.quality" in own else ""
                    key = (device, metric.name, bits)
                    found.append(Point(key, point.time_unix_nano, quality, "tidegate.backfill" in own))
    return found
