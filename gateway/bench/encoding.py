"""How quickly batches become OTLP requests: P50 and P99 of 10,000 readings in runs of several lengths.

`measure()` returns the figures; `tidegate bench --only encode` prints the ones that matter. "steady" is the run
structure of the batch before (the common case: the layout is kept), "new" a structure seen first with series
that are known, "peer" the same request built with the official protobuf classes in the same run. "cpu" is the
thread's own time: on a machine with other work the wall's P99 is the scheduler's, in slices of 4 ms. Must not be
imported by the gateway.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.codecs.otlp import NO_MARKS, MetricsEncoder
from gateway.core.batch import Batch, Series

if TYPE_CHECKING:
    from collections.abc import Callable

READINGS = 10_000
SHAPES = ((10, 1000), (100, 100), (1000, 10), (10_000, 1))


def measure(*, rounds: int = 400) -> dict[str, dict[str, float]]:
    """Return, for each shape "series x points", microseconds and million readings a second."""
    return {f"{series} x {points}": _measure(series, points, rounds) for series, points in SHAPES}


def _measure(series_count: int, points: int, rounds: int) -> dict[str, float]:
    series = [Series((("device.id", f"d{k // 5}"),), f"metric.{k % 5}", "Cel") for k in range(series_count)]
    encoder = MetricsEncoder(
        series=series.__getitem__, gateway_attributes=(("tidegate.gateway.id", "site-7"),), version="0.1.0"
    )
    dice = np.random.default_rng(1)
    time_ns = np.tile(1_790_000_000 * 10**9 + np.arange(points) * 10**9, series_count)
    batch = Batch.of(np.repeat(np.arange(series_count), points), time_ns, dice.normal(size=len(time_ns)))
    groups = [(batch, NO_MARKS)]

    def new() -> None:
        encoder.forget_layouts()
        encoder.encode(groups)

    steady_us = _times_us(lambda: encoder.encode(groups), rounds)
    cpu_us = _times_us(lambda: encoder.encode(groups), rounds, clock=time.thread_time)
    new_us = _times_us(new, max(5, rounds // 10))
    peer_us = _times_us(lambda: _peer(series, batch), max(2, rounds // 100))
    return {
        "steady_p50_us": _quantile(steady_us, 0.5),
        "steady_p99_us": _quantile(steady_us, 0.99),
        "steady_p99_cpu_us": _quantile(cpu_us, 0.99),
        "steady_m_per_s": round(READINGS / _quantile(steady_us, 0.5), 1),
        "new_p50_us": _quantile(new_us, 0.5),
        "new_p99_us": _quantile(new_us, 0.99),
        "peer_p50_us": _quantile(peer_us, 0.5),
        "times_peer": round(_quantile(peer_us, 0.5) / _quantile(steady_us, 0.5), 1),
        "bytes_per_reading": round(len(encoder.encode(groups)) / len(batch), 2),
    }


def _peer(series: list[Series], batch: Batch) -> bytes:
    request = ExportMetricsServiceRequest()
    bounds = [*batch.run_starts().tolist(), len(batch)]
    times, values = batch.time_ns.tolist(), batch.values().tolist()
    for start, end in pairwise(bounds):
        stream = series[int(batch.series[start])]
        resource = request.resource_metrics.add()
        for key, value in stream.resource:
            resource.resource.attributes.add(key=key).value.string_value = str(value)
        metric = resource.scope_metrics.add().metrics.add(name=stream.name, unit=stream.unit)
        add = metric.gauge.data_points.add
        for k in range(start, end):
            add(time_unix_nano=times[k], as_double=values[k])
    return request.SerializeToString()


def _times_us(
    call: Callable[[], object], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    call()
    found = []
    for _ in range(rounds):
        started = clock()
        call()
        found.append((clock() - started) * 1e6)
    return sorted(found)


def _quantile(ordered: list[float], share: float) -> float:
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 1)
