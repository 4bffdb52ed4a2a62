"""How many bytes a reading takes on the wire: a minute of 20 devices with 5 metrics at 1 Hz, in one request.

`measure()` returns bytes per reading, HTTP headers included; `tidegate bench --only wire` prints the ones that matter.
What was tried, and what it taught:

- Series by series, with all series of a device together, is the best order found: a device's metrics share
  their times, which zstd then repeats from a constant distance. Other orders of the metrics, integers first
  or last, move the result by 3 % either way.
- What remains is the first occurrence of each time, about 4 bytes a message, and the values' own news. With
  times on whole seconds all devices share them; with clocks in milliseconds of their own the times alone are
  0.9 bytes a reading, and no order of the points makes that less.
- zstd's levels 4 to 12 are no better than 3 on this. The optimal parsers (from 15 on) save a fifth: level 17
  has nearly all of it at half the time of 19; 22 has nothing more. So there are two levels: 3, and 17 where
  the processor has time to spare (uplinks/pacing.py).
- A request of ten minutes instead of one saves another tenth.

"peer" is how others do it: a request for each timestamp, attributes on each point, gzip; "peer_together" has them all
in one request, metric by metric, as who batches them best. Must not be imported by the gateway.
"""

from __future__ import annotations

import time
import zlib
from typing import Any

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.codecs import zstd
from gateway.codecs.otlp import NO_MARKS, MetricsEncoder
from gateway.core.batch import Batch, Series

DEVICES = 20
SECONDS = 60
START_MS = 1_790_000_000_000
METRICS = (
    ("temperature", "Cel"),
    ("humidity", "%"),
    ("pressure", "hPa"),
    ("battery.voltage", "mV"),
    ("open", ""),
)
CLOCKS = ("whole seconds", "own milliseconds", "jittered milliseconds")
LEVELS = (3, 9, 17, 19)
# The request line and headers of uplinks/senders, with a token; and the same for each of the peer's requests.
HEADER_BYTES = 300

Devices = list[tuple[np.ndarray, list[np.ndarray]]]


def measure() -> dict[str, dict[str, float]]:
    """Return, for each kind of device clock, bytes per reading and milliseconds by level, and the peer's."""
    return {clock: _measure(clock) for clock in CLOCKS}


def _measure(clock: str) -> dict[str, float]:
    devices = simulate(clock)
    body = encode(devices)
    readings = DEVICES * SECONDS * len(METRICS)
    found: dict[str, float] = {"plain": round(len(body) / readings, 2)}
    for level in LEVELS:
        zstd.compress(body, level=level)
        started = time.perf_counter()
        size = len(zstd.compress(body, level=level)) + HEADER_BYTES
        found[f"zstd_{level}_ms"] = round((time.perf_counter() - started) * 1e3, 1)
        found[f"zstd_{level}"] = round(size / readings, 2)
    found["gzip_6"] = round((len(zlib.compress(body, 6, 31)) + HEADER_BYTES) / readings, 2)
    bodies = peer_bodies(devices)
    found["peer"] = round(sum(len(zlib.compress(b, 6, 31)) + HEADER_BYTES for b in bodies) / readings, 2)
    found["peer_together"] = round((len(zlib.compress(peer_body(devices), 6, 31)) + HEADER_BYTES) / readings, 2)
    found["peer_without_headers"] = round(sum(len(zlib.compress(b, 6, 31)) for b in bodies) / readings, 2)
    return found


def simulate(clock: str) -> Devices:
    """Return for each device its times in ns and its metrics' values; the same each time."""
    dice = np.random.default_rng(1)
    devices: Devices = []
    for _ in range(DEVICES):
        time_ms = START_MS + np.arange(SECONDS) * 1000
        if clock != "whole seconds":
            time_ms = time_ms + dice.integers(0, 1000)
        if clock == "jittered milliseconds":
            time_ms = time_ms + dice.integers(-5, 6, SECONDS)
        temperature = dice.uniform(15, 25) + np.cumsum(dice.integers(-2, 3, SECONDS)) * 0.01
        humidity = dice.uniform(30, 60) + np.cumsum(dice.integers(-1, 2, SECONDS)) * 0.1
        pressure = dice.uniform(990, 1030) + np.cumsum(dice.integers(-3, 4, SECONDS)) * 0.01
        battery = dice.integers(3500, 4100) - np.cumsum(dice.random(SECONDS) < 0.1)
        is_open = np.cumsum(dice.random(SECONDS) < 0.02) % 2 == 1
        values = [np.round(temperature, 2), np.round(humidity, 1), np.round(pressure, 2), battery, is_open]
        devices.append((time_ms * 1_000_000, values))
    return devices


def encode(devices: Devices) -> bytes:
    """Return the minute as our request."""
    series = [
        Series((("device.id", f"device-{device:03d}"),), name, unit)
        for device in range(DEVICES)
        for name, unit in METRICS
    ]
    encoder = MetricsEncoder(
        series=series.__getitem__, gateway_attributes=(("tidegate.gateway.id", "site-7"),), version="0.1.0"
    )
    batches = [
        Batch.of(device * len(METRICS) + k, time_ns, column)
        for device, (time_ns, columns) in enumerate(devices)
        for k, column in enumerate(columns)
    ]
    return encoder.encode([(Batch.join(batches).sorted(), NO_MARKS)])


def peer_bodies(devices: Devices) -> list[bytes]:
    """Return the minute as a request for each timestamp, with the device as an attribute of each point."""
    requests: dict[int, PeerRequest] = {}
    for device, (times, columns) in enumerate(devices):
        for row, time_ns in enumerate(times.tolist()):
            request = requests.setdefault(time_ns, PeerRequest())
            for (name, unit), column in zip(METRICS, columns, strict=True):
                request.add(request.gauge(name, unit), device, time_ns, column[row])
    return [request.message.SerializeToString() for request in requests.values()]


def peer_body(devices: Devices) -> bytes:
    """Return the minute as one request: each metric once, with the points of all devices and their attributes."""
    request = PeerRequest()
    for k, (name, unit) in enumerate(METRICS):
        gauge = request.gauge(name, unit)
        for device, (times, columns) in enumerate(devices):
            for time_ns, value in zip(times.tolist(), columns[k], strict=True):
                request.add(gauge, device, time_ns, value)
    return request.message.SerializeToString()


class PeerRequest:
    """A request as a program with OpenTelemetry's SDK makes it: one resource, attributes on points."""

    def __init__(self) -> None:
        self.message = ExportMetricsServiceRequest()
        resource = self.message.resource_metrics.add()
        resource.resource.attributes.add(key="host.name").value.string_value = "site-7"
        self._scope = resource.scope_metrics.add()

    def gauge(self, name: str, unit: str) -> Any:
        """Begin a metric."""
        return self._scope.metrics.add(name=name, unit=unit).gauge

    @staticmethod
    def add(gauge: Any, device: int, time_ns: int, value: Any) -> None:
        """Add a point."""
        point = gauge.data_points.add(time_unix_nano=time_ns)
        point.attributes.add(key="device.id").value.string_value = f"device-{device:03d}"
        point.attributes.add(key="topic").value.string_value = f"plant/device-{device:03d}/climate"
        if value.dtype.kind == "f":
            point.as_double = float(value)
        else:
            point.as_int = int(value)
