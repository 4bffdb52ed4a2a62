"""OpenTelemetry's own SDK over a client: what its exporters say is true, and what they keep is what the SDK made."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from gateway import Client
from gateway.client import exporters
from hil.children import python
from hil.client_script import quick
from hil.otlp_sink import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hil.children import Child
    from hil.otlp_sink import OtlpSink

RESOURCE = Resource.create({"service.name": "instrumented"})
OURS = {"tidegate.gateway.id", "tidegate.backfill"}


def without_ours(messages: Any) -> list[bytes]:
    """Each message as it was before attributes of the gateway were added."""
    found = []
    for message in messages:
        kept = [pair for pair in message.resource.attributes if pair.key not in OURS]
        del message.resource.attributes[:]
        message.resource.attributes.extend(kept)
        found.append(message.SerializeToString())
    return found


@pytest.fixture
def spans() -> Iterator[list[Any]]:
    """Ended spans, with all that the SDK knows."""
    found: list[Any] = []

    class Keep:
        def on_start(self, span: Any, parent_context: Any = None) -> None: ...
        def _on_ending(self, span: Any) -> None: ...
        def on_end(self, span: Any) -> None:
            found.append(span)

        def shutdown(self) -> None: ...

    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(Keep())  # type: ignore[arg-type]
    tracer = provider.get_tracer("library", "1.2", attributes={"k": "v"})
    with tracer.start_as_current_span("outer", attributes={"list": [1, 2], "n": 1.5}) as outer:
        outer.add_event("event", {"x": True})
        with tracer.start_as_current_span("inner"):
            pass
    yield found
    provider.shutdown()


def bodies_of(sink: OtlpSink, signal: str) -> list[bytes]:
    """What came of a signal, in the order of its coming."""
    return [request.body for request in sink.requests if request.signal == signal]


def large_span() -> Any:
    """A span that nothing compresses to less than 100 KB."""
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    span = provider.get_tracer("t").start_span("large", attributes={"noise": os.urandom(100_000).hex()})
    span.end()
    return span


def test_spans_are_kept_as_the_sdk_made_them(client: Client, otlp_sink: OtlpSink, spans: list[Any]) -> None:
    """Byte for byte but for the gateway's attributes; SUCCESS is said when they are on the disk."""
    exporter = client.span_exporter()
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    assert client.status()["accepted"] == 2
    assert exporter.force_flush()
    assert client.drain(20)
    (request,) = [r for r in otlp_sink.requests if r.signal == "traces"]
    assert without_ours(ExportTraceServiceRequest.FromString(request.body).resource_spans) == without_ours(
        encode_spans(spans).resource_spans
    )
    assert client.status()["sources"]["client"]["spans"] == 2


@pytest.mark.filterwarnings("ignore:`LoggingHandler` in `opentelemetry-sdk` is deprecated")
def test_logs_and_metrics(client: Client, otlp_sink: OtlpSink) -> None:
    """Through the SDK's own processors and readers, all kinds of metrics included."""
    loggers = LoggerProvider(resource=RESOURCE, shutdown_on_exit=False)
    loggers.add_log_record_processor(BatchLogRecordProcessor(client.log_exporter()))
    logger = logging.getLogger("test.exporters")
    logger.propagate = False
    handler = LoggingHandler(logger_provider=loggers)
    logger.addHandler(handler)
    exporter = client.metric_exporter(preferred_temporality={Counter: AggregationTemporality.DELTA})
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=60_000)
    meters = MeterProvider([reader], resource=RESOURCE, shutdown_on_exit=False)
    meter = meters.get_meter("library")
    meter.create_counter("count").add(5, {"a": 1})
    meter.create_histogram("histogram", unit="s").record(0.5)
    meter.create_up_down_counter("level").add(-1)
    logger.error("it is %d", 5, extra={"why": "x"})
    assert loggers.force_flush()
    assert meters.force_flush()
    logger.removeHandler(handler)
    loggers.shutdown()
    meters.shutdown()
    assert client.drain(20)
    # The reader's end brings the cumulative ones once more, in a request of their own or in one with the first.
    messages = [
        message
        for body in bodies_of(otlp_sink, "metrics")
        for message in ExportMetricsServiceRequest.FromString(body).resource_metrics
    ]
    metrics = {metric.name: metric for message in messages for metric in message.scope_metrics[0].metrics}
    assert {name: metric.WhichOneof("data") for name, metric in metrics.items()} == {
        "count": "sum", "histogram": "histogram", "level": "sum",
    }  # fmt: skip
    assert metrics["count"].sum.aggregation_temporality == 1
    (logs,) = bodies_of(otlp_sink, "logs")
    (record,) = ExportLogsServiceRequest.FromString(logs).resource_logs[0].scope_logs[0].log_records
    assert (record.body.string_value, record.severity_text) == ("it is 5", "ERROR")
    assert {pair.key for pair in messages[0].resource.attributes} >= {"service.name", "tidegate.gateway.id"}
    sent = client.status()["sources"]["client"]
    assert (sent["data_points"] >= 3, sent["log_records"]) == (True, 1)


def test_what_the_sdk_measures_is_watched(tmp_path: Path, otlp_sink: OtlpSink) -> None:
    """As what the client is told itself; what is found leaves as a log of the program."""
    config = {
        "uplinks": [{"type": "otlp", "name": "cloud", "endpoint": otlp_sink.url}],
        "detectors": [{"type": "zscore", "match": {"metric": "level"}}],
        "store": {"commit_interval": "20ms"},
    }
    with Client(config=config, state_dir=tmp_path / "state") as client:
        reader = PeriodicExportingMetricReader(client.metric_exporter(), export_interval_millis=3_600_000)
        meters = MeterProvider([reader], resource=RESOURCE, shutdown_on_exit=False)
        level = meters.get_meter("library").create_gauge("level")
        for k in [*range(80), 9999]:
            level.set(k % 5 if k < 80 else k)
            assert meters.force_flush()
        meters.shutdown()
        assert client.drain(20)
        assert client.status()["detectors"]["zscore"]["findings"] == 1
    (record,) = [line for line in otlp_sink.logs() if line.body.startswith("level of")]
    assert dict(record.resource)["service.name"] == "instrumented"


def test_what_is_not_kept_is_no_success(
    make_client: Callable[..., Client],
    otlp_sink: OtlpSink,
    spans: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full store, a client that has ended, an exporter that was shut down; said once in the log."""
    otlp_sink.always = Behaviour(status=503)
    client = make_client(quick(otlp_sink.url, store={"max_bytes": "1MiB", "when_full": "refuse"}))
    exporter = client.span_exporter()
    results = [exporter.export([large_span()]) for _ in range(20)]
    assert (results[0], results[-1]) == (SpanExportResult.SUCCESS, SpanExportResult.FAILURE)
    (said,) = [r.getMessage() for r in caplog.records if r.name == "tidegate.client"]
    assert "traces of the SDK are not kept" in said
    assert "max_bytes" in said
    otlp_sink.always = Behaviour()
    assert client.drain(30)
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    others = client.log_exporter(), client.metric_exporter()
    exporter.shutdown()
    assert exporter.export(spans) is SpanExportResult.FAILURE
    for other in others:
        assert other.force_flush()
        other.shutdown()
    client.shutdown()
    assert client.span_exporter().export(spans) is SpanExportResult.FAILURE
    assert client.log_exporter().export([]) is LogRecordExportResult.FAILURE
    reader = InMemoryMetricReader()
    MeterProvider([reader], shutdown_on_exit=False).get_meter("x").create_counter("c").add(1)
    assert client.metric_exporter().export(reader.get_metrics_data()) is MetricExportResult.FAILURE


def test_a_commit_that_does_not_come_is_no_success(
    client: Client, spans: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It may be kept or not, and nobody says that it is."""
    client._runner.call_soon(time.sleep, 1.0)
    assert not exporters._Exports(client, exporters.Signal.TRACES).keep(encode_spans(spans), 50.0)
    assert "not on the disk after 0.05 s" in caplog.text


PROGRAM = """
import sys
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from gateway import Client
client = Client(sys.argv[2], state_dir=sys.argv[1])
provider = TracerProvider(resource=Resource.create({"service.name": "p"}))
provider.add_span_processor(BatchSpanProcessor(client.span_exporter(), schedule_delay_millis=60_000))
for number in range(700):
    provider.get_tracer("t").start_span(f"span {number}").end()
"""


def test_a_program_that_just_ends(tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]) -> None:
    """What the SDK sends when the interpreter ends finds the client still open."""
    otlp_sink.always = Behaviour(status=503)
    child = make_child(python("-c", PROGRAM, tmp_path / "state", otlp_sink.url))
    assert child.wait(within_s=40) == 0, child.tail()
    assert child.output == "" or "Traceback" not in child.output
    with Client(config=quick(otlp_sink.url), state_dir=tmp_path / "state") as client:
        status: Any = client.status()
    assert status["accepted"] == 700


def test_without_the_sdk_it_is_said_what_to_install(tmp_path: Path) -> None:
    """Only by who asks for it: the client itself does without."""
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Missing())
from gateway import Client
with Client("http://127.0.0.1:1", state_dir={str(tmp_path / "state")!r}) as client:
    client.send_metric("a", 1)
    for make in (client.span_exporter, client.log_exporter, client.metric_exporter):
        try:
            make()
        except ImportError as error:
            print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("pip install 'tidegate[sdk]'" in line for line in lines), lines
