"""A program with OpenTelemetry's own SDK: it traces, logs and measures itself, and says what its exporters got rid of.

`python -m hil.otlp_program --endpoint http://127.0.0.1:4318 --seconds 6` prints as JSON the names of spans and bodies
of log records whose export succeeded, and how often its metrics were exported. Needs opentelemetry-sdk and
opentelemetry-exporter-otlp-proto-http.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Sequence

DELAY_MS: Final = 50
PAUSE_S: Final = 0.01


class Spans(OTLPSpanExporter):
    """Remembers the names of spans that were taken."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(f"{endpoint}/v1/traces")
        self.taken: list[str] = []

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Export them."""
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self.taken += [span.name for span in spans]
        return result


class Logs(OTLPLogExporter):
    """Remembers the bodies of records that were taken."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(f"{endpoint}/v1/logs")
        self.taken: list[str] = []

    def export(self, batch: Sequence[Any]) -> LogRecordExportResult:
        """Export them."""
        result = super().export(batch)
        if result is LogRecordExportResult.SUCCESS:
            self.taken += [record.log_record.body for record in batch]
        return result


class Metrics(OTLPMetricExporter):
    """Counts exports that were taken."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(f"{endpoint}/v1/metrics")
        self.taken = 0

    def export(self, metrics_data: Any, timeout_millis: float | None = None, **more: Any) -> MetricExportResult:
        """Export them."""
        result = super().export(metrics_data, timeout_millis or 10_000, **more)
        self.taken += result is MetricExportResult.SUCCESS
        return result


def main() -> None:
    """Work for a while, and say what was taken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    resource = Resource.create({"service.name": "program"})
    spans, logs, metrics = Spans(options.endpoint), Logs(options.endpoint), Metrics(options.endpoint)
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=DELAY_MS))
    loggers = LoggerProvider(resource=resource)
    loggers.add_log_record_processor(BatchLogRecordProcessor(logs, schedule_delay_millis=DELAY_MS))
    meters = MeterProvider([PeriodicExportingMetricReader(metrics, export_interval_millis=DELAY_MS)], resource=resource)
    tracer = tracers.get_tracer("hil", "1")
    logger = logging.getLogger("program")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(LoggingHandler(logger_provider=loggers))
    meter = meters.get_meter("hil")
    counter, histogram = meter.create_counter("steps"), meter.create_histogram("step.duration", unit="s")
    number, until_s = 0, time.monotonic() + options.seconds
    while time.monotonic() < until_s:
        number += 1
        with tracer.start_as_current_span(f"step {number}") as span:
            span.set_attribute("number", number)
            span.add_event("begun", {"number": number})
            logger.info("step %d", number)
            counter.add(1, {"kind": "step"})
            histogram.record(number / 100)
        time.sleep(PAUSE_S)
    for provider in (tracers, loggers, meters):
        provider.shutdown()
    said = {"steps": number, "spans": spans.taken, "logs": logs.taken, "metrics": metrics.taken}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
