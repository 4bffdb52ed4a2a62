"""A program with OpenTelemetry's own SDK: it traces, logs and measures itself, and says what its exporters got rid of.

`python -m hil.otlp_program --endpoint http://127.0.0.1:4318 --seconds 6` prints as JSON the names of spans and bodies
of log records whose export succeeded, and how often its metrics were exported. Without `--seconds` it works until a
line comes on its stdin. With `--grpc` it sends over gRPC. Needs opentelemetry-sdk and
opentelemetry-exporter-otlp-proto-http, or -grpc.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

if TYPE_CHECKING:
    from collections.abc import Callable

DELAY_MS: Final = 50
PAUSE_S: Final = 0.01


def exporters(endpoint: str, *, is_grpc: bool) -> tuple[Any, Any, Any]:
    """Return OpenTelemetry's exporters of spans, logs and metrics."""
    if is_grpc:
        from opentelemetry.exporter.otlp.proto.grpc import (  # noqa: PLC0415  one of both is enough
            _log_exporter,
            metric_exporter,
            trace_exporter,
        )

        return (
            trace_exporter.OTLPSpanExporter(endpoint, insecure=True),
            _log_exporter.OTLPLogExporter(endpoint, insecure=True),
            metric_exporter.OTLPMetricExporter(endpoint, insecure=True),
        )
    from opentelemetry.exporter.otlp.proto.http import (  # noqa: PLC0415  the same
        _log_exporter as http_logs,
    )
    from opentelemetry.exporter.otlp.proto.http import (  # noqa: PLC0415  the same
        metric_exporter as http_metrics,
    )
    from opentelemetry.exporter.otlp.proto.http import (  # noqa: PLC0415  the same
        trace_exporter as http_traces,
    )

    return (
        http_traces.OTLPSpanExporter(f"{endpoint}/v1/traces"),
        http_logs.OTLPLogExporter(f"{endpoint}/v1/logs"),
        http_metrics.OTLPMetricExporter(f"{endpoint}/v1/metrics"),
    )


def watched(exporter: Any, take: Callable[[Any], None]) -> Any:
    """Return `exporter`, of which `take` hears what was exported with success."""
    export = exporter.export

    def exported(data: Any, *arguments: Any, **more: Any) -> Any:
        result = export(data, *arguments, **more)
        if result.name == "SUCCESS":
            take(data)
        return result

    exporter.export = exported
    return exporter


def _wait_for_a_line(asked: threading.Event) -> None:
    sys.stdin.readline()
    asked.set()


def main() -> None:
    """Work for a while, and say what was taken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--grpc", action="store_true")
    options = parser.parse_args()
    resource = Resource.create({"service.name": "program"})
    names, bodies, metrics_taken = list[str](), list[str](), list[bool]()
    spans, logs, metrics = exporters(options.endpoint, is_grpc=options.grpc)
    spans = watched(spans, lambda some: names.extend(span.name for span in some))
    logs = watched(logs, lambda some: bodies.extend(str(record.log_record.body) for record in some))
    metrics = watched(metrics, lambda _: metrics_taken.append(True))
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
    asked = threading.Event()
    if options.seconds == math.inf:
        threading.Thread(target=_wait_for_a_line, args=(asked,), daemon=True).start()
    number, until_s = 0, time.monotonic() + options.seconds
    while time.monotonic() < until_s and not asked.is_set():
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
    said = {"steps": number, "spans": names, "logs": bodies, "metrics": len(metrics_taken)}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
