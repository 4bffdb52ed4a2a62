"""What leaves reaches a collector that nobody here wrote, over each protocol, and comes out of it as it went in."""

from __future__ import annotations

import time
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.net.ports import free_port
from hil.children import wait_until
from hil.gateway_child import Site
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from google.protobuf.message import Message

    from hil.children import Child
    from hil.collector import Collector
    from hil.otlp_sink import OtlpSink

PROTOCOLS = ["http/protobuf", "http/json", "grpc"]
ENOUGH = 500
# As doubles: the agent of rotel (0.0.1a15) reads integers in OTLP's JSON, which are strings there, as nothing, and no
# histogram that has some.
MAPPING = """
[[mappings]]
match = "plant/{device}/level"
payload = "json"
resource = { "device.id" = "{device}" }
metrics = [ { field = "n", name = "level", type = "double" } ]
"""
pytestmark = pytest.mark.slow


class Place(Site):
    """A gateway whose uplink speaks `protocol`, and that takes OTLP of programs."""

    def __init__(self, folder: Path, *, protocol: str, compression: str, **options: object) -> None:
        folder.mkdir(exist_ok=True)
        self.otlp = free_port()
        source = f'[[sources]]\ntype = "otlp"\nname = "local"\nhttp = "127.0.0.1:{self.otlp}"\n'
        super().__init__(folder, source=source, mappings=MAPPING, **options)
        self.speak(protocol, compression)

    def speak(self, protocol: str, compression: str) -> None:
        before, uplink, after = self.config.read_text().partition('name = "cloud"\n')
        kept = after[after.index("endpoint") :]
        self.config.write_text(f'{before}{uplink}protocol = "{protocol}"\ncompression = "{compression}"\n{kept}')

    def send(self, signal: str, request: Message) -> None:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.otlp}/v1/{signal}",
            data=request.SerializeToString(),
            headers={"Content-Type": "application/x-protobuf"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert answer.status == 200


def log_line(text: str) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=1).body.string_value = text
    return request


def span(name: str) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.add(name=name, trace_id=bytes(range(16)), span_id=bytes(range(8)), start_time_unix_nano=1)
    return request


def histogram() -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="waits")
    metric.exponential_histogram.aggregation_temporality = 2
    point = metric.exponential_histogram.data_points.add(time_unix_nano=time.time_ns(), count=3, scale=-2)
    point.positive.bucket_counts.extend([1, 2])
    return request


def spans_of(sink: OtlpSink) -> list[tuple[str, bytes]]:
    bodies = [request.body for request in sink.requests if request.signal == "traces" and request.is_taken]
    return [
        (one.name, one.trace_id)
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for one in scope.spans
    ]


def histograms_of(sink: OtlpSink) -> list[list[int]]:
    bodies = [request.body for request in sink.requests if request.signal == "metrics" and request.is_taken]
    return [
        list(point.positive.bucket_counts)
        for body in bodies
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.exponential_histogram.data_points
    ]


@pytest.mark.parametrize("compression", ["auto", "none"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_real_collector_takes_all_three_signals(
    tmp_path: Path,
    otlp_sink: OtlpSink,
    make_collector: Callable[..., Collector],
    make_child: Callable[..., Child],
    protocol: str,
    compression: str,
) -> None:
    """Each reading, record and span once, whatever it thinks of zstd."""
    collector = make_collector(otlp_sink.url)
    endpoint = collector.grpc if protocol == "grpc" else collector.http
    site = Place(tmp_path, protocol=protocol, compression=compression, endpoint=endpoint, make_child=make_child)
    child = site.start()
    site.send("logs", log_line("a door opened"))
    site.send("traces", span("refill"))
    if protocol != "http/json":
        site.send("metrics", histogram())
    with Publisher(port=site.mqtt, topic=b"plant/d1/level", pause_s=0.01) as publisher:
        wait_until(lambda: len(publisher.acknowledged) >= ENOUGH, "messages to be acknowledged")
        publisher.stop()
    account = site.drain()
    assert (account.gap, account.ledger, account.maybe_twice) == (0, {}, 0), site.status()
    numbers: Counter[int] = Counter()

    def has_all() -> bool:
        # The collector has a batch of its own.
        numbers.clear()
        numbers.update({int(one.value): count for one, count in otlp_sink.readings().items() if one.metric == "level"})
        return publisher.acknowledged <= set(numbers) and bool(otlp_sink.logs() and spans_of(otlp_sink))

    wait_until(has_all, "what the collector passes on")
    assert set(numbers.values()) == {1}
    assert [line.body for line in otlp_sink.logs()] == ["a door opened"]
    assert spans_of(otlp_sink) == [("refill", bytes(range(16)))]
    if protocol != "http/json":
        wait_until(lambda: histograms_of(otlp_sink), "the histogram")
        assert histograms_of(otlp_sink) == [[1, 2]]
    child.terminate()


@pytest.mark.parametrize("protocol", ["http/json", "grpc"])
def test_a_real_collector_that_takes_no_zstd_costs_no_reading(
    tmp_path: Path,
    otlp_sink: OtlpSink,
    make_collector: Callable[..., Collector],
    make_child: Callable[..., Child],
    protocol: str,
) -> None:
    """A lone first record is no bad record: it is held, status says what to set, and with that it goes."""
    collector = make_collector(otlp_sink.url)
    endpoint = collector.grpc if protocol == "grpc" else collector.http
    site = Place(tmp_path, protocol=protocol, compression="zstd", endpoint=endpoint, make_child=make_child)
    child = site.start()
    site.send("logs", log_line("a door opened"))
    wait_until(lambda: site.account().delivered or site.status()["uplinks"]["cloud"]["held_back"], "an answer")
    if site.account().delivered:
        pytest.skip("this collector takes zstd")
    account, said = site.account(), site.status()["uplinks"]["cloud"]["held_back"]["logs"]
    assert (account.held, account.ledger, account.gap) == (1, {}, 0), site.status()
    assert 'compression = "auto"' in said
    assert "zstd" in said
    child.terminate()
    child.wait(within_s=60)
    site.config.write_text(site.config.read_text().replace('compression = "zstd"', 'compression = "auto"'))
    child = site.start()
    account = site.drain()
    assert (account.ledger, account.gap, account.maybe_twice) == ({}, 0, 0), site.status()
    wait_until(otlp_sink.logs, "what the collector passes on")
    child.terminate()
