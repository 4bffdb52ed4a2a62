"""The wire benchmark's two requests hold the same readings."""

from __future__ import annotations

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.bench.sink import count_points
from gateway.bench.wire import DEVICES, METRICS, SECONDS, encode, peer_bodies, peer_body, simulate


def test_both_sides_carry_the_same_readings() -> None:
    """Our one request and the peer's many, or its one, have as many points."""
    devices = simulate("jittered milliseconds")
    readings = DEVICES * SECONDS * len(METRICS)
    assert count_points(encode(devices)) == readings
    assert sum(count_points(body) for body in peer_bodies(devices)) == readings
    assert count_points(peer_body(devices)) == readings
    ExportMetricsServiceRequest.FromString(encode(devices))
