"""OTLP as JSON: columns become text, for receivers that want it and for `tidegate export`. Does no I/O.

Encoding as in https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding: lowerCamelCase keys, trace
and span ids as hex, enums as integers, 64-bit integers as strings, bytes as base64, and what JSON has no
number for ("NaN", "Infinity", "-Infinity") as protobuf's JSON mapping writes it. The official `json_format`
gets the ids and enums wrong, which is why it is not used here.

A point is 70 bytes of text of which 25 differ from the next one's. All points of a request are laid into one
table of characters, a row each: what is constant by columns, numbers of any length left-aligned in columns of
their own. What stays empty is squeezed out at the end, and what a series says on each of its points takes the
place of a separator that no JSON text holds. Only the shortest digits of a double are not a matter of columns.
"""

from __future__ import annotations

import base64
import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import numpy as np

from gateway.codecs import protobuf
from gateway.codecs.otlp import NO_MARKS, SCOPE_NAME, Marks, ProtobufEncoder, group_logs, merge_resource
from gateway.core.batch import KIND_MASK, Batch, ValueKind
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from gateway.core.batch import Attributes, AttributeValue, LogRecords, ResourceRecords, Series

Json: TypeAlias = "dict[str, Any]"
Characters: TypeAlias = "npt.NDArray[np.uint8]"

# Requests that ask for nothing. There are receivers (rotel's agent) that refuse one without its list.
EMPTY: Final = {
    Signal.METRICS: b'{"resourceMetrics":[]}',
    Signal.LOGS: b'{"resourceLogs":[]}',
    Signal.TRACES: b'{"resourceSpans":[]}',
}
# AGGREGATION_TEMPORALITY_CUMULATIVE of metrics.proto.
CUMULATIVE: Final = 2
# What is remembered of series, in number and in bytes.
PLANS_MAX: Final = 4096
PLANS_BYTES_MAX: Final = 4 * 1024 * 1024
PLAN_BYTES: Final = 500
# AnyValues inside each other; deeper ones are none that anybody writes.
DEPTH_MAX: Final = 32
# JSON escapes both inside of strings.
_ROW_END: Final = b"\x1e"
_EMPTY_CELL: Final = b"\0"
_COMMA: Final = ord(",")
_TIME: Final = b'"timeUnixNano":"'
_DOUBLE: Final = b'","asDouble":'
_INT: Final = b'","asInt":"'


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is always the same when a series is written: where it belongs, and what stands around its points."""

    resource: Attributes
    scope: str
    head: bytes
    tail: bytes
    before_point: bytes
    after_point: bytes

    def metric(self, rows: bytes) -> bytes:
        """Return a Metric of points, each up to its `_ROW_END`."""
        between = self.after_point + b"," + self.before_point
        points = rows[: -len(_ROW_END)].replace(_ROW_END, between)
        return b"".join((self.head, self.before_point, points, self.after_point, self.tail))


class JsonEncoder:
    """Writes batches as ExportMetricsServiceRequest and records as ExportLogsServiceRequest. For one thread.

    What its arguments mean, and what is written, is as with `otlp.ProtobufEncoder`.
    """

    empty = EMPTY
    # Forty microseconds for a log record: in one go so much that others wait some hundredths of a second.
    messages_bytes_max = 256 * 1024

    def __init__(self, *, series: Callable[[int], Series], gateway_attributes: Attributes, version: str) -> None:
        self._series = series
        self._gateway_attributes = gateway_attributes
        self._version = version
        self._protobuf = ProtobufEncoder(series=series, gateway_attributes=gateway_attributes, version=version)
        self._plans: dict[int, _Plan] = {}
        self._plans_bytes = 0

    def metrics(self, groups: Sequence[tuple[Batch, Marks]]) -> bytes:
        """Return one request for `groups`: batches in order of series and kind, with Unix times; on one line.

        Times before 1970 are written as 0, which OTLP calls unknown.
        """
        tree: dict[Attributes, dict[tuple[str, Marks], list[bytes]]] = {}
        for batch, marks in groups:
            if not len(batch):
                continue
            numbers = batch.series[batch.run_starts()].tolist()
            for number, rows in zip(numbers, _rows_by_run(batch), strict=True):
                plan = self._plans.get(number) or self._plan(number)
                metrics = tree.setdefault(plan.resource, {}).setdefault((plan.scope, marks), [])
                metrics.append(plan.metric(rows))
        return self._request(tree, signal=b"Metrics", items=b"metrics")

    def logs(self, records: LogRecords, marks: Marks = NO_MARKS) -> bytes:
        """Return `records` as one request on one line."""
        return self._request(
            {
                resource: {
                    (scope, marks): [msgspec.json.encode(log_record(body)) for body in bodies]
                    for scope, bodies in scopes.items()
                }
                for resource, scopes in group_logs(records, self._series).items()
            },
            signal=b"Logs",
            items=b"logRecords",
        )

    def records(self, records: ResourceRecords, marks: Marks = NO_MARKS) -> bytes:
        """Return OTLP messages that are passed on as one request on one line, without what is not known here."""
        from gateway.codecs.otlp_messages_json import to_json  # noqa: PLC0415  memory for who passes such on

        return to_json(self._protobuf.messages(records, marks), records.signal)

    def check(self, records: ResourceRecords) -> None:
        """Raise ValueError for messages that cannot be passed on."""
        from gateway.codecs.otlp_messages_json import read_message  # noqa: PLC0415  memory for who passes such on

        self._protobuf.check(records)
        for body in records.bodies:
            read_message(body, records.signal)

    def _request(
        self, tree: dict[Attributes, dict[tuple[str, Marks], list[bytes]]], *, signal: bytes, items: bytes
    ) -> bytes:
        """Write a request of whole Metrics or LogRecords, by resource and scope."""
        resources = []
        for resource, scopes in tree.items():
            attributes = _attributes(merge_resource(resource, self._gateway_attributes))
            sections = [
                b'{"scope":%b,"%b":[%b]}'
                % (msgspec.json.encode(_scope(scope, marks, self._version)), items, b",".join(found))
                for (scope, marks), found in scopes.items()
            ]
            resources.append(
                b'{"resource":{"attributes":%b},"scope%b":[%b]}'
                % (msgspec.json.encode(attributes), signal, b",".join(sections))
            )
        return b'{"resource%b":[%b]}' % (signal, b",".join(resources))

    def _plan(self, number: int) -> _Plan:
        if len(self._plans) >= PLANS_MAX or self._plans_bytes >= PLANS_BYTES_MAX:
            self._plans.clear()
            self._plans_bytes = 0
        stream = self._series(number)
        is_sum = stream.kind == "sum"
        named: Json = {"name": _text(stream.name), **({"unit": _text(stream.unit)} if stream.unit else {})}
        start = b'"startTimeUnixNano":"%d",' % stream.start_ns if is_sum and stream.start_ns else b""
        attributes = b',"attributes":' + msgspec.json.encode(_attributes(stream.attributes))
        plan = self._plans[number] = _Plan(
            resource=stream.resource,
            scope=stream.scope,
            head=msgspec.json.encode(named)[:-1] + (b',"sum":' if is_sum else b',"gauge":') + b'{"dataPoints":[',
            tail=b'],"aggregationTemporality":%d,"isMonotonic":true}}' % CUMULATIVE if is_sum else b"]}}",
            before_point=b"{" + start,
            after_point=(attributes if stream.attributes else b"") + b"}",
        )
        self._plans_bytes += PLAN_BYTES + len(plan.head) + len(plan.after_point)
        return plan


def _rows_by_run(batch: Batch) -> Iterator[bytes]:
    r"""Yield time and value of each point, ended by `_ROW_END`, of one run of a series and kind after the other.

    >>> list(_rows_by_run(Batch.of(1, [5, 12], np.array([0.5, 20.0]))))
    [b'"timeUnixNano":"5","asDouble":0.5\x1e"timeUnixNano":"12","asDouble":20.0\x1e']
    """
    bounds = [*batch.run_starts().tolist(), len(batch)]
    # Runs of both kinds have tables of their own, since the constants differ; the runs' order stays.
    is_double = (batch.flags & KIND_MASK) == ValueKind.DOUBLE
    times = _cells(np.maximum(batch.time_ns, 0).tolist())
    texts: dict[bool, tuple[bytes, npt.NDArray[np.int64]]] = {}
    for kind in (True, False):
        chosen = is_double if kind else ~is_double
        if chosen.all():
            texts[kind] = _table(times, batch, is_double=kind)
        elif chosen.any():
            texts[kind] = _table(times[chosen], batch.take(chosen), is_double=kind)
    # Where each reading's row begins in the text of its kind.
    begun = {True: 0, False: 0}
    for start, end in pairwise(bounds):
        kind = bool(is_double[start])
        text, ends = texts[kind]
        first = begun[kind]
        begun[kind] = last = first + end - start
        yield text[int(ends[first - 1]) if first else 0 : int(ends[last - 1])]


def _table(times: Characters, batch: Batch, *, is_double: bool) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Return rows of one kind as one text, and where each of them ends."""
    values = _cells(_doubles(batch.values()) if is_double else batch.bits.tolist())
    before, end = (_DOUBLE, _ROW_END) if is_double else (_INT, b'"' + _ROW_END)
    time_at, value_at = len(_TIME), len(_TIME) + times.shape[1] + len(before)
    row = b"".join((_TIME, bytes(times.shape[1]), before, bytes(values.shape[1]), end))
    # What is constant in one go, row by row: columns of a few characters each cost as much as a whole row.
    table = np.empty((len(batch), len(row)), np.uint8)
    table[:] = np.frombuffer(row, np.uint8)
    table[:, time_at : time_at + times.shape[1]] = times
    table[:, value_at : value_at + values.shape[1]] = values
    lengths = len(_TIME) + len(before) + len(end) + np.count_nonzero(times, axis=1) + np.count_nonzero(values, axis=1)
    return table.tobytes().translate(None, _EMPTY_CELL), np.cumsum(lengths)


def _cells(numbers: Sequence[int | float | str]) -> Characters:
    r"""Return the JSON of each number in a row of its own, with zeros behind it.

    >>> [row.tobytes() for row in _cells([20.5, -1])]
    [b'20.5', b'-1\x00\x00']
    """
    text = np.frombuffer(msgspec.json.encode(numbers), np.uint8)[1:-1]
    commas = np.flatnonzero(text == _COMMA)
    lengths = np.diff(np.concatenate([[-1], commas, [len(text)]])) - 1
    cells = np.zeros((len(lengths), int(lengths.max())), np.uint8)
    cells[np.arange(cells.shape[1]) < lengths[:, np.newaxis]] = np.delete(text, commas)
    return cells


def _doubles(values: npt.NDArray[np.float64]) -> list[float | str]:
    numbers: list[float | str] = values.tolist()
    for index in np.flatnonzero(~np.isfinite(values)).tolist():
        numbers[index] = _double(float(values[index]))
    return numbers


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


def log_record(body: bytes) -> Json:
    """Return a LogRecord of logs.proto as its JSON; one that cannot be read is the body of another, as bytes.

    What is at its default is left out, as are fields of a newer version.

    >>> log_record(protobuf.fixed64(1, 5) + protobuf.delimited(9, bytes(2)))
    {'timeUnixNano': '5', 'traceId': '0000'}
    >>> log_record(b"no record")
    {'body': {'bytesValue': 'bm8gcmVjb3Jk'}}
    """
    try:
        found = _read_log_record(body)
    except ValueError:
        return {"body": {"bytesValue": _base64(body)}}
    return {key: value for key, value in found.items() if value not in (_NO_TEXT if key in _TEXTS else _DEFAULTS)}


def _read_log_record(body: bytes) -> Json:
    found: Json = {}
    for name, read, value in _known_fields(body, _LOG_FIELDS):
        if name == "attributes":
            found.setdefault(name, []).append(_key_value(value))
        else:
            found[name] = read(value)
    return found


def _known_fields(data: Any, known: dict[int, _Field]) -> Iterator[tuple[str, Callable[[Any], Any], Any]]:
    """Yield name, reader and value of each field that is known; raise ValueError for one of another wire type."""
    for number, wire_type, value in protobuf.fields(data):
        if number not in known:
            continue
        name, wanted, read = known[number]
        if wire_type != wanted:
            raise ValueError(f"field {number} has wire type {wire_type}")
        yield name, read, value


def _key_value(data: Any, depth: int = 0) -> Json:
    found: Json = {"key": "", "value": {}}
    for number, wire_type, value in protobuf.fields(data):
        if wire_type == protobuf.LENGTH_DELIMITED and number == 1:
            found["key"] = _utf8(value)
        elif wire_type == protobuf.LENGTH_DELIMITED and number == 2:
            found["value"] = _any_value(value, depth)
    return found


def _any_value(data: Any, depth: int = 0) -> Json:
    """Return an AnyValue of common.proto; one without content, or of a newer version's kind, is an empty object."""
    if depth > DEPTH_MAX:
        raise ValueError(f"more than {DEPTH_MAX} values inside each other")
    found: Json = {}
    for name, read, value in _known_fields(data, _VALUE_FIELDS):
        if name in _LISTS:
            items = [_LISTS[name](item, depth + 1) for item in protobuf.messages(value, 1)]
            found = {name: {"values": items}}
        else:
            found = {name: read(value)}
    return found


def _utf8(data: Any) -> str:
    return str(data, "utf-8")


def _base64(data: Any) -> str:
    return base64.b64encode(data).decode()


def _int64(value: Any) -> str:
    return str(protobuf.signed(value))


def _float64(value: Any) -> float | str:
    return _double(struct.unpack("<d", value.to_bytes(8, "little"))[0])


# Field number → its name in JSON, its wire type, and how its value is read.
_Field: TypeAlias = "tuple[str, int, Callable[[Any], Any]]"
_LOG_FIELDS: Final[dict[int, _Field]] = {
    1: ("timeUnixNano", protobuf.FIXED64, str),
    2: ("severityNumber", protobuf.VARINT, int),
    3: ("severityText", protobuf.LENGTH_DELIMITED, _utf8),
    5: ("body", protobuf.LENGTH_DELIMITED, _any_value),
    6: ("attributes", protobuf.LENGTH_DELIMITED, _key_value),
    7: ("droppedAttributesCount", protobuf.VARINT, int),
    8: ("flags", protobuf.FIXED32, int),
    9: ("traceId", protobuf.LENGTH_DELIMITED, bytes.hex),
    10: ("spanId", protobuf.LENGTH_DELIMITED, bytes.hex),
    11: ("observedTimeUnixNano", protobuf.FIXED64, str),
    12: ("eventName", protobuf.LENGTH_DELIMITED, _utf8),
}
_VALUE_FIELDS: Final[dict[int, _Field]] = {
    1: ("stringValue", protobuf.LENGTH_DELIMITED, _utf8),
    2: ("boolValue", protobuf.VARINT, bool),
    3: ("intValue", protobuf.VARINT, _int64),
    4: ("doubleValue", protobuf.FIXED64, _float64),
    5: ("arrayValue", protobuf.LENGTH_DELIMITED, _any_value),
    6: ("kvlistValue", protobuf.LENGTH_DELIMITED, _key_value),
    7: ("bytesValue", protobuf.LENGTH_DELIMITED, _base64),
}
_LISTS: Final = {"arrayValue": _any_value, "kvlistValue": _key_value}
_DEFAULTS: Final[tuple[object, ...]] = ("", "0", 0, {})
# Of a text "0" is something that somebody said.
_TEXTS: Final = frozenset(("severityText", "eventName"))
_NO_TEXT: Final[tuple[object, ...]] = ("",)
