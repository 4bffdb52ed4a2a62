"""OTLP requests as plain readings and log lines, by the official classes. Must not use our own codecs."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

Value: TypeAlias = "str | bool | int | float | bytes | tuple[Any, ...] | None"
Pairs: TypeAlias = "tuple[tuple[str, Value], ...]"
OWN = "tidegate."
REQUESTS: dict[str, type[Message]] = {
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
}
RESPONSES: dict[str, type[Message]] = {
    "metrics": ExportMetricsServiceResponse,
    "logs": ExportLogsServiceResponse,
    "traces": ExportTraceServiceResponse,
}


class Reading(NamedTuple):
    """One data point. `resource` and `attributes` are without the gateway's own marks.

    So a reading that is sent twice, the second time marked as backfill, is the same reading.
    """

    resource: Pairs
    metric: str
    attributes: Pairs
    time_ns: int
    value: float | int

    @property
    def device(self) -> str:
        """The resource's device.id, or ""."""
        return str(dict(self.resource).get("device.id", ""))


class LogLine(NamedTuple):
    """One log record."""

    resource: Pairs
    time_ns: int
    severity: int
    body: Value
    attributes: Pairs


def parse_metrics(body: bytes) -> list[Reading]:
    """Return every gauge and sum point of a request; ValueError for what is not one."""
    request = ExportMetricsServiceRequest()
    _parse(request, body)
    found = []
    for resource_metrics in request.resource_metrics:
        resource = _pairs(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points if kind in {"gauge", "sum"} else ():
                    value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
                    found.append(Reading(resource, metric.name, _pairs(point.attributes), point.time_unix_nano, value))
    return found


def parse_logs(body: bytes) -> list[LogLine]:
    """Return every record of a logs request; ValueError for what is not one."""
    request = ExportLogsServiceRequest()
    _parse(request, body)
    return [
        LogLine(
            _pairs(resource_logs.resource.attributes),
            record.time_unix_nano,
            record.severity_number,
            _value(record.body),
            _pairs(record.attributes, own=True),
        )
        for resource_logs in request.resource_logs
        for scope_logs in resource_logs.scope_logs
        for record in scope_logs.log_records
    ]


def answer_for(signal: str, status: int, rejected: int, message: str) -> bytes:
    """Return the body of an answer as OTLP/HTTP asks: a partial success, or a google.rpc.Status."""
    if status >= 300:
        # google.rpc.Status: message is field 2, and these sentences are shorter than 128 bytes.
        text = (message or f"status {status}").encode()[:127]
        return b"\x12" + bytes([len(text)]) + text
    if signal == "logs":
        logs = ExportLogsServiceResponse()
        if rejected or message:
            logs.partial_success.rejected_log_records = rejected
            logs.partial_success.error_message = message
        return bytes(logs.SerializeToString())
    if signal == "traces":
        return bytes(ExportTraceServiceResponse().SerializeToString())
    metrics = ExportMetricsServiceResponse()
    if rejected or message:
        metrics.partial_success.rejected_data_points = rejected
        metrics.partial_success.error_message = message
    return bytes(metrics.SerializeToString())


def json_to_protobuf(signal: str, body: bytes) -> bytes:
    """Return an Export*ServiceRequest in JSON as protobuf; ValueError for what is none.

    By the official parser, which takes trace and span ids for base64: they are written so for it.
    """
    request = REQUESTS[signal]()
    try:
        found = json.loads(body)
        _ids_as_base64(found)
        return bytes(json_format.ParseDict(found, request).SerializeToString())
    except json_format.ParseError as error:
        raise ValueError(str(error)) from error


def _ids_as_base64(found: Any) -> None:
    """Write hex ids as base64, wherever a field has the name of one."""
    items = found.items() if isinstance(found, dict) else enumerate(found)
    for key, value in items:
        if key in {"traceId", "spanId", "parentSpanId"}:
            found[key] = base64.b64encode(bytes.fromhex(value)).decode()
        elif isinstance(value, dict | list):
            _ids_as_base64(value)


def json_answer_for(signal: str, status: int, rejected: int, message: str) -> bytes:
    """Return what `answer_for` does, as who sent JSON is answered."""
    body = answer_for(signal, status, rejected, message)
    if status >= 300:
        return json.dumps({"code": 3, "message": body[2:].decode(errors="replace")}).encode()
    response = RESPONSES[signal]()
    response.ParseFromString(body)
    return str(json_format.MessageToJson(response)).encode()


def _parse(request: Any, body: bytes) -> None:
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _pairs(attributes: Iterable[Any], *, own: bool = False) -> Pairs:
    """Return attributes sorted by key, without the gateway's own marks unless `own`."""
    pairs = [(pair.key, _value(pair.value)) for pair in attributes if own or not pair.key.startswith(OWN)]
    return tuple(sorted(pairs, key=lambda pair: pair[0]))


def _value(value: Any) -> Value:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return tuple(_value(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return _pairs(value.kvlist_value.values, own=True)
    found: Value = getattr(value, kind)
    return found
