"""OTLP as JSON lines, for `tidegate export`. Right before fast: not for the data path. Does no I/O.

Encoding as in https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding: lowerCamelCase keys, trace
and span ids as hex, enums as integers, 64-bit integers as strings, bytes as base64, and what JSON has no
number for ("NaN", "Infinity", "-Infinity") as protobuf's JSON mapping writes it. The official `json_format`
gets the ids and enums wrong, which is why it is not used here.
"""

from __future__ import annotations

import base64
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from gateway.codecs.otlp import NO_MARKS, SCOPE_NAME, Marks, group_logs, merge_resource
from gateway.core.batch import KIND_MASK, ValueKind
from gateway.core.contracts import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.core.batch import Attributes, AttributeValue, Batch, LogRecords, Series

Json: TypeAlias = "dict[str, Any]"

# AGGREGATION_TEMPORALITY_CUMULATIVE of metrics.proto.
CUMULATIVE: Final = 2
_PLAIN_VALUES: Final = ("string_value", "bool_value", "int_value", "double_value")


def metrics_json(
    groups: Sequence[tuple[Batch, Marks]],
    *,
    series: Callable[[int], Series],
    gateway_attributes: Attributes,
    version: str,
) -> bytes:
    """Return `groups` (sorted batches with Unix times) as one ExportMetricsServiceRequest on one line."""
    tree: dict[Attributes, dict[tuple[str, Marks], list[Json]]] = {}
    for batch, marks in groups:
        bounds = [*batch.run_starts().tolist(), len(batch)]
        for start, end in pairwise(bounds):
            stream = series(int(batch.series[start]))
            scopes = tree.setdefault(stream.resource, {})
            metric = _metric(stream, batch.take(slice(start, end)))
            scopes.setdefault((stream.scope, marks), []).append(metric)
    return _line(
        {
            "resourceMetrics": [
                {
                    "resource": {"attributes": _attributes(merge_resource(resource, gateway_attributes))},
                    "scopeMetrics": [
                        {"scope": _scope(scope, marks, version), "metrics": metrics}
                        for (scope, marks), metrics in scopes.items()
                    ],
                }
                for resource, scopes in tree.items()
            ]
        }
    )


def logs_json(
    records: LogRecords,
    *,
    series: Callable[[int], Series],
    gateway_attributes: Attributes,
    version: str,
    marks: Marks = NO_MARKS,
) -> bytes:
    """Return `records` as one ExportLogsServiceRequest on one line; MalformedError for a damaged record."""
    return _line(
        {
            "resourceLogs": [
                {
                    "resource": {"attributes": _attributes(merge_resource(resource, gateway_attributes))},
                    "scopeLogs": [
                        {
                            "scope": _scope(scope, marks, version),
                            "logRecords": [_log(body) for body in bodies],
                        }
                        for scope, bodies in scopes.items()
                    ],
                }
                for resource, scopes in group_logs(records, series).items()
            ]
        }
    )


def _line(request: Json) -> bytes:
    return msgspec.json.encode(request)


def _metric(stream: Series, batch: Batch) -> Json:
    kind = int(batch.flags[0]) & KIND_MASK
    attributes = {"attributes": _attributes(stream.attributes)} if stream.attributes else {}
    values: list[Json] = (
        [{"asDouble": _double(value)} for value in batch.values().tolist()]
        if kind == ValueKind.DOUBLE
        else [{"asInt": str(value)} for value in batch.bits.tolist()]
    )
    has_start = stream.kind == "sum" and stream.start_ns
    start = {"startTimeUnixNano": str(stream.start_ns)} if has_start else {}
    points = [
        {**start, "timeUnixNano": str(max(time_ns, 0)), **value, **attributes}
        for time_ns, value in zip(batch.time_ns.tolist(), values, strict=True)
    ]
    metric: Json = {"name": _text(stream.name)}
    if stream.unit:
        metric["unit"] = _text(stream.unit)
    if stream.kind == "sum":
        metric["sum"] = {"dataPoints": points, "aggregationTemporality": CUMULATIVE, "isMonotonic": True}
    else:
        metric["gauge"] = {"dataPoints": points}
    return metric


def _scope(scope: str, marks: Marks, version: str) -> Json:
    named: Json = {"name": _text(scope)} if scope else {"name": SCOPE_NAME, "version": version}
    if marks != NO_MARKS:
        named["attributes"] = _attributes(marks.attributes())
    return named


def _attributes(attributes: Attributes) -> list[Json]:
    return [{"key": _text(key), "value": _value(value)} for key, value in attributes]


def _value(value: AttributeValue) -> Json:
    if isinstance(value, str):
        return {"stringValue": _text(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        fits = -(2**63) <= value < 2**63
        return {"intValue" if fits else "stringValue": str(value)}
    return {"doubleValue": _double(value)}


def _double(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(value: str) -> str:
    # The same rule as in the protobuf: what UTF-8 cannot say becomes a question mark.
    return value.encode("utf-8", "replace").decode()


def _log(body: bytes) -> Json:
    # Imported here: protobuf's runtime is memory that only an export needs.
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord  # noqa: PLC0415

    try:
        record = LogRecord.FromString(body)
    except DecodeError as error:
        raise MalformedError("log_record", f"a stored log record is damaged: {error}") from error
    out: Json = {
        "timeUnixNano": str(record.time_unix_nano),
        "observedTimeUnixNano": str(record.observed_time_unix_nano),
        "severityNumber": int(record.severity_number),
        "severityText": record.severity_text,
        "body": _any_value(record.body),
        "attributes": [{"key": item.key, "value": _any_value(item.value)} for item in record.attributes],
        "droppedAttributesCount": record.dropped_attributes_count,
        "flags": record.flags,
        "traceId": record.trace_id.hex(),
        "spanId": record.span_id.hex(),
        "eventName": record.event_name,
    }
    return {key: value for key, value in out.items() if value not in ("", "0", 0, [], {})}


def _any_value(value: Any) -> Json:
    """Return an AnyValue message; one without content is an empty object."""
    which = value.WhichOneof("value")
    if which == "array_value":
        return {"arrayValue": {"values": [_any_value(item) for item in value.array_value.values]}}
    if which == "kvlist_value":
        items = value.kvlist_value.values
        return {"kvlistValue": {"values": [{"key": item.key, "value": _any_value(item.value)} for item in items]}}
    if which == "bytes_value":
        return {"bytesValue": base64.b64encode(value.bytes_value).decode()}
    # What is left are this version's plain kinds, and nothing at all for a newer one's.
    return _value(getattr(value, which)) if which in _PLAIN_VALUES else {}
