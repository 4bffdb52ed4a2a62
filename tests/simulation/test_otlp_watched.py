"""What programs send as OTLP is watched on the box: what is found arrives, and brings its evidence first."""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
from importlib.util import find_spec
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from gateway.bench.virtual_time import VirtualClock, run
from gateway.codecs import protobuf, zstd
from gateway.codecs.mapping import Mapper, default_mappings
from gateway.control.reading import decode_hook
from gateway.core.batch import ResourceRecords
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Messages, Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.detect.engine import Engine
from gateway.detect.settings import Match, ZScoreSettings
from gateway.net.ports import free_port
from gateway.pipeline import Pipeline
from gateway.store.database import Store, StoreSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.worker import Seams
from hil.at_once import AtOnce, TakingWire
from hil.children import wait_until
from hil.gateway_child import Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.uplinks.guards import Packed
    from hil.children import Child
    from hil.otlp_sink import OtlpSink

# A program that measures a level as OpenTelemetry's SDK does it; at the end it is odd once.
PROGRAM = """
import sys
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
way, port = sys.argv[1], sys.argv[2]
if way == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    exporter = OTLPMetricExporter(f"http://127.0.0.1:{port}", insecure=True)
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    compression = Compression.Gzip if way == "gzip" else Compression.NoCompression
    exporter = OTLPMetricExporter(f"http://127.0.0.1:{port}/v1/metrics", compression=compression)
reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
provider = MeterProvider([reader], resource=Resource.create({"service.name": "boiler"}))
meter = provider.get_meter("burner", "1.0")
level, steps = meter.create_gauge("level", unit="m"), meter.create_up_down_counter("steps")
took = meter.create_histogram("took", unit="s")
for k in [*range(90), 10_000]:
    level.set(20.0 + k % 5, {"tank": "a"})
    level.set(float(k % 7) if k < 1000 else k, {"tank": "b"})
    steps.add(k % 2 * 2 - 1, {"kind": "up"})
    took.record(0.1 * k)
    assert provider.force_flush()
provider.shutdown()
"""


def post(port: int, body: bytes, headers: dict[str, str], path: str) -> int:
    """Send one request; return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


class Place(Site):
    """A gateway with an OTLP receiver and a detector."""

    def __init__(self, folder: Path, *, uplink: str = "", **options: object) -> None:
        self.http, self.grpc = free_port(), free_port()
        source = f'[[sources]]\ntype = "otlp"\nname = "local"\nhttp = "127.0.0.1:{self.http}"\n'
        source += f'grpc = "127.0.0.1:{self.grpc}"\n'
        more = '[[detectors]]\ntype = "zscore"\nmatch = { metric = "level" }\n'
        super().__init__(folder, source=source, mappings=more, **options)
        self.config.write_text(self.config.read_text().replace('name = "cloud"', f'name = "cloud"\n{uplink}'))


def sdk_is_here() -> bool:
    return all(find_spec(f"opentelemetry.{name}") for name in ("sdk", "exporter"))


def requests_of(sink: OtlpSink, signal_name: str, kind: Any) -> list[Any]:
    return [kind.FromString(one.body) for one in sink.requests if one.signal == signal_name and one.is_taken]


def findings(sink: OtlpSink) -> list[tuple[dict[str, str], Any]]:
    """Return records of watchers with the attributes of their resource."""
    return [
        ({pair.key: pair.value.string_value for pair in message.resource.attributes}, record)
        for request in requests_of(sink, "logs", ExportLogsServiceRequest)
        for message in request.resource_logs
        for scope in message.scope_logs
        for record in scope.log_records
        if any(pair.key == "tidegate.finding.detector" for pair in record.attributes)
    ]


@pytest.mark.slow
@pytest.mark.skipif(not sdk_is_here(), reason="OpenTelemetry's SDK is not installed (pip install -e .[dev])")
@pytest.mark.parametrize("way", ["http", "gzip", "grpc"])
def test_a_program_with_opentelemetrys_own_sdk(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child], way: str
) -> None:
    """Its one odd value is found, of the right series, at its time, as a log of the program; all else arrives as it was."""
    site = Place(tmp_path, endpoint=otlp_sink.url, make_child=make_child)
    child = site.start()
    port = site.grpc if way == "grpc" else site.http
    subprocess.run([sys.executable, "-c", PROGRAM, way, str(port)], check=True, timeout=120)
    account = site.drain()
    assert (account.gap, account.ledger) == (0, {})
    ((resource, record),) = findings(otlp_sink)
    assert resource["service.name"] == "boiler"
    assert resource["telemetry.sdk.language"] == "python"
    assert "tidegate.gateway.id" in resource
    assert record.body.string_value.startswith("level of tank=b, ")
    assert " is 10000 m, " in record.body.string_value
    levels = [
        point
        for request in requests_of(otlp_sink, "metrics", ExportMetricsServiceRequest)
        for message in request.resource_metrics
        for scope in message.scope_metrics
        for metric in scope.metrics
        if metric.name == "level"
        for point in metric.gauge.data_points
    ]
    # It is exported once more at the end.
    assert record.time_unix_nano == min(point.time_unix_nano for point in levels if point.as_int == 10_000)
    status = site.status()
    assert (status["watched_otlp"]["series"], status["watched_otlp"]["points_over_limit"]) == (2, 0)
    assert status["watched_otlp"]["points"] == status["detectors"]["zscore"]["readings"] == len(levels)
    child.terminate()


NOON_NS = 1_789_992_000 * NS_PER_S
MINUTES, FOUND = 40, 20


def minute_of(k: int) -> Messages:
    """What a program says in minute k: a level, odd in one of them, and much besides."""
    message = ResourceMetrics()
    message.resource.attributes.add(key="service.name").value.string_value = "boiler"
    metrics = message.scope_metrics.add().metrics
    points = metrics.add(name="level").gauge.data_points
    for second in range(60):
        level = 9999.0 if (k, second) == (FOUND, 30) else 20.0 + second % 5
        points.add(as_double=level, time_unix_nano=NOON_NS + (60 * k + second) * NS_PER_S)
    dice = Random(k)
    for n in range(500):
        metrics.add(name=f"other {n}").gauge.data_points.add(as_double=dice.random(), time_unix_nano=NOON_NS)
    records = ResourceRecords(Signal.METRICS, np.array([560]), np.zeros(1, np.int64), (message.SerializeToString(),))
    return Messages("local", records, Priority.NORMAL, 0)


async def live_through(folder: Path, *, evidence: str) -> list[Packed]:
    """Let a program talk for a while without a link; return what leaves when there is one, over a small allowance."""
    clock, wire, telemetry = VirtualClock(NOON_NS), TakingWire(), Telemetry()
    table = {"name": "far", "endpoint": "http://h:1", "evidence": evidence, "budget": {"per_hour": "768KiB"}}
    settings = msgspec.convert(table, OtlpUplinkSettings, dec_hook=decode_hook)
    store = await Store.open(
        state_dir=folder, settings=StoreSettings(), clock=clock, uplinks=["far"], max_series=100,
        telemetry=telemetry, commit_interval_s=0.2,
    )  # fmt: skip
    store.evidence.keep("far", float(settings.evidence))
    engine = Engine([ZScoreSettings(match=Match(metric="level"))], series=store.series)
    mapper = Mapper(default_mappings(), resolve=store.resolve)
    pipeline = Pipeline(mapper=mapper, engine=engine, store=store, clock=clock, telemetry=telemetry)
    for k in range(MINUTES):
        messages = minute_of(k)
        messages.arrived_ns = clock.monotonic_ns()
        await pipeline.accept_messages(messages)
        await asyncio.sleep(60)
    assert telemetry.value("tidegate_findings") == 1
    uplink = Uplink(
        settings, store=store, clock=clock, telemetry=telemetry, random=Random(4), gateway_attributes=(), version="0",
        seams=Seams(wire=wire, start_worker=lambda _: AtOnce()),
    )  # fmt: skip
    task = asyncio.create_task(uplink.run())
    await asyncio.sleep(1800)
    task.cancel()
    await asyncio.wait([task])
    await store.close()
    return wire.sent


def unpacked(packed: Packed) -> bytes:
    return zstd.decompress(packed.body, bytes_max=1 << 26) if packed.encoding == "zstd" else packed.body


@pytest.mark.parametrize(("evidence", "is_first"), [("90s", True), ("0s", False)])
def test_an_anomaly_of_a_program_brings_its_evidence(tmp_path: Path, evidence: str, is_first: bool) -> None:
    """What came a little before and after goes before all else that waits but the newest, whole, as it was sent."""
    order: list[int] = []
    logs: list[Any] = []
    for packed in run(live_through(tmp_path, evidence=evidence)):
        if packed.signal is Signal.LOGS:
            logs += ExportLogsServiceRequest.FromString(unpacked(packed)).resource_logs
            continue
        for message in ExportMetricsServiceRequest.FromString(unpacked(packed)).resource_metrics:
            if message.scope_metrics[0].metrics[0].name != "level":
                continue
            first_ns = message.scope_metrics[0].metrics[0].gauge.data_points[0].time_unix_nano
            order.append((first_ns - NOON_NS) // (60 * NS_PER_S))
            del message.resource.attributes[1:]
            assert message.SerializeToString() == minute_of(order[-1]).records.bodies[0]
    around = {FOUND - 1, FOUND, FOUND + 1}
    assert (around <= set(order[:4])) is is_first
    (about,) = logs
    assert about.resource.attributes[0].value.string_value == "boiler"
    assert about.scope_logs[0].log_records[0].time_unix_nano == NOON_NS + (60 * FOUND + 30) * NS_PER_S


def crowd(k: int, points: int) -> bytes:
    """A request of points that are each of a series of its own."""
    item = 'level of {"%d"}'
    data = b"".join(
        protobuf.delimited(
            1,
            protobuf.fixed64(3, NOON_NS)
            + protobuf.double(4, float(n))
            + protobuf.delimited(
                7, protobuf.text(1, "of") + protobuf.delimited(2, protobuf.text(1, item % (k * points + n)))
            ),
        )
        for n in range(points)
    )
    metric = protobuf.delimited(2, protobuf.text(1, "level") + protobuf.delimited(5, data))
    return protobuf.delimited(1, protobuf.delimited(2, metric))


@pytest.mark.slow
def test_programs_that_make_up_series_harm_nobody(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """All that they send is kept; what is watched and remembered is bounded, and who was there before is watched on."""
    bounds = 'series_bytes = "4MiB"'
    site = Place(tmp_path, endpoint=otlp_sink.url, make_child=make_child, gateway=bounds)
    child = site.start()

    def send(body: bytes) -> None:
        assert post(site.http, body, {"Content-Type": "application/x-protobuf"}, "/v1/metrics") == 200

    send(protobuf.delimited(1, minute_of(0).records.bodies[0]))
    send(protobuf.delimited(1, minute_of(1).records.bodies[0]))
    before = child.rss_bytes()
    for k in range(6):
        send(crowd(k, 10_000))
    watched = site.status()["watched_otlp"]
    assert watched["series"] <= watched["max_series"] == 10_000
    assert watched["bytes"] < watched["max_bytes"] + 1000
    assert watched["points_over_limit"] > 40_000
    # A series has its row with the detector, too; and requests of 10,000 points are on their way.
    assert child.rss_bytes() < before + (40 << 20)
    send(protobuf.delimited(1, minute_of(FOUND).records.bodies[0]))
    assert site.status()["detectors"]["zscore"]["findings"] == 1
    # It is found before it is kept.
    wait_until(lambda: site.account().accepted >= 6 * 10_000 + 3 * 560 + 1, "the finding to be kept")
    account = site.drain()
    assert (account.gap, account.ledger) == (0, {})
    child.terminate()
