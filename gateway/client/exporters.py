"""OpenTelemetry's SDK for Python over a client: its exporters, for whoever instruments a program with it.

What the SDK's own encoders make is kept byte for byte, as the receiver for programs does it. SUCCESS is said when it is
on the disk, FAILURE where it is not, or not known to be, and the SDK then goes on without it. Needs the extra `sdk`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from gateway.client.errors import ClientError
from gateway.core.contracts import FullError, Signal

try:
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
except ImportError as error:
    raise ImportError(
        f"OpenTelemetry's SDK is not here, or too old ({error}); install it: pip install 'tidegate[sdk]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.client.client import Client

log = logging.getLogger("tidegate.client")

EXPORT_MS: Final = 10_000.0


class _Exports:
    """Keeps requests of one signal for an exporter, and says once when that begins to fail."""

    def __init__(self, client: Client, signal: Signal) -> None:
        self._client = client
        self._signal = signal
        self._is_failing = self._is_shut = False

    def keep(self, request: Any, timeout_ms: float = EXPORT_MS) -> bool:
        """Return whether a request is on the disk."""
        if self._is_shut:
            return False
        try:
            self._client.keep_request(request.SerializeToString(), self._signal, timeout=timeout_ms / 1000)
        except (ClientError, FullError, TimeoutError, ValueError) as error:
            if not self._is_failing:
                what = str(error) or f"not on the disk after {timeout_ms / 1000:g} s"
                log.warning("%s of the SDK are not kept: %s", self._signal.name.lower(), what)
            self._is_failing = True
            return False
        self._is_failing = False
        return True

    def shut(self) -> None:
        """Take nothing more. The client goes on: it is not the SDK's."""
        self._is_shut = True


class ClientSpanExporter(SpanExporter):
    """Spans."""

    def __init__(self, client: Client) -> None:
        self._exports = _Exports(client, Signal.TRACES)

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Keep ended spans; SUCCESS when they are on the disk."""
        return SpanExportResult.SUCCESS if self._exports.keep(encode_spans(spans)) else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Keep nothing more."""
        self._exports.shut()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002  the SDK's name
        """Return True: nothing waits here."""
        return True


class ClientLogExporter(LogRecordExporter):
    """Log records."""

    def __init__(self, client: Client) -> None:
        self._exports = _Exports(client, Signal.LOGS)

    def export(self, batch: Sequence[Any]) -> LogRecordExportResult:
        """Keep log records; SUCCESS when they are on the disk."""
        is_kept = self._exports.keep(encode_logs(batch))
        return LogRecordExportResult.SUCCESS if is_kept else LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        """Keep nothing more."""
        self._exports.shut()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002  the SDK's name
        """Return True: nothing waits here."""
        return True


class ClientMetricExporter(MetricExporter):
    """Metrics. Options are preferred_temporality and preferred_aggregation."""

    def __init__(self, client: Client, **options: Any) -> None:
        super().__init__(**options)
        self._exports = _Exports(client, Signal.METRICS)

    def export(self, metrics_data: Any, timeout_millis: float = EXPORT_MS, **_more: Any) -> MetricExportResult:
        """Keep a reader's metrics; SUCCESS when they are on the disk."""
        is_kept = self._exports.keep(encode_metrics(metrics_data), timeout_millis or EXPORT_MS)
        return MetricExportResult.SUCCESS if is_kept else MetricExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000, **_more: Any) -> None:  # noqa: ARG002  the SDK's name
        """Keep nothing more."""
        self._exports.shut()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002  the SDK's name
        """Return True: nothing waits here."""
        return True
