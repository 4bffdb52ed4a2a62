"""OTLP messages that are passed on, as JSON and back, by the official classes. For who speaks JSON alone: it is slow.

`google.protobuf.json_format` does it but for trace and span ids, which are hex in OTLP's JSON and base64 in protobuf's
(https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding). Fields of a newer version are not known here, and
left out. Importing this takes five megabytes. Does no I/O.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError, EncodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from gateway.codecs.otlp_messages import PATHS, count, cut
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.message import Message

    from gateway.codecs.otlp_messages import Path

REQUESTS: Final[dict[Signal, type[Message]]] = {
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
}
MESSAGES: Final[dict[Signal, type[Message]]] = {
    Signal.METRICS: ResourceMetrics,
    Signal.LOGS: ResourceLogs,
    Signal.TRACES: ResourceSpans,
}
LISTS: Final = {Signal.METRICS: b"resourceMetrics", Signal.LOGS: b"resourceLogs", Signal.TRACES: b"resourceSpans"}
# As dicts and lists a message takes some twenty times as much: larger ones are made into several.
PIECE_BYTES_MAX: Final = 128 * 1024
# Where ids stand below a request; each name may be the other spelling of protobuf's JSON, too. A key of attributes that
# is called so is a value and not a name, so it is not met on these ways.
_ID_NAMES: Final = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"})
_WAYS: Final = frozenset(
    {
        *("resourceMetrics", "scopeMetrics", "metrics", "gauge", "sum", "histogram", "exponentialHistogram"),
        *("dataPoints", "exemplars", "resourceLogs", "scopeLogs", "logRecords"),
        *("resourceSpans", "scopeSpans", "spans", "links"),
        *("resource_metrics", "scope_metrics", "exponential_histogram", "data_points"),
        *("resource_logs", "scope_logs", "log_records", "resource_spans", "scope_spans"),
    }
)


def to_json(bodies: Iterable[bytes], signal: Signal) -> bytes:
    """Return a request of these messages as JSON on one line; raise ValueError where one is none.

    A large one becomes several, each with its resource.
    """
    pieces = (piece for body in bodies for piece in _small(body, PATHS[signal]))
    return b'{"%b":[%b]}' % (LISTS[signal], b",".join(_message_to_json(piece, signal) for piece in pieces))


def _small(body: bytes, path: Path) -> Iterator[bytes]:
    readings = count(body, path) if len(body) > PIECE_BYTES_MAX else 0
    if readings > 1:
        for half in cut(body, path, readings // 2):
            yield from _small(half, path)
    else:
        yield body


def _message_to_json(body: bytes, signal: Signal) -> bytes:
    found = json_format.MessageToDict(read_message(body, signal), use_integers_for_enums=True)
    _change_ids(found, _to_hex)
    return msgspec.json.encode(found)


def read_message(body: bytes, signal: Signal) -> Message:
    """Return what the official classes make of a message; raise ValueError where it is none."""
    try:
        return MESSAGES[signal].FromString(body)
    except DecodeError as error:
        raise ValueError(f"not a message of {signal.name.lower()}: {error}") from error


def from_json(text: bytes, signal: Signal) -> bytes:
    """Return a request as protobuf; raise ValueError that says what is wrong with it."""
    message = REQUESTS[signal]()
    try:
        found = msgspec.json.decode(text, type=dict)
        _change_ids(found, _to_base64)
        json_format.ParseDict(found, message, ignore_unknown_fields=True)
        return message.SerializeToString()
    except (json_format.Error, msgspec.DecodeError, EncodeError) as error:
        raise ValueError(str(error)) from error
    except (AttributeError, TypeError, KeyError) as error:
        # What json_format stumbles over where something else stands than it expects.
        raise ValueError(f"not a request of {signal.name.lower()}: {error}") from error
    except RecursionError:
        raise ValueError("values are nested too deeply") from None


def _change_ids(found: Any, change: Callable[[Any], Any]) -> None:
    """Write ids the other way, wherever OTLP has them."""
    if isinstance(found, list):
        for item in found:
            _change_ids(item, change)
    elif isinstance(found, dict):
        for name, value in found.items():
            if name in _ID_NAMES:
                found[name] = change(value)
            elif name in _WAYS:
                _change_ids(value, change)


def _to_hex(value: str) -> str:
    return base64.b64decode(value).hex()


def _to_base64(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return base64.b64encode(binascii.unhexlify(value)).decode()
    except (TypeError, ValueError):
        raise ValueError(f"ids are hex digits, not {value!r:.60}") from None
