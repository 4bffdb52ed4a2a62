"""Log records and spans of a program as OTLP messages. Must not ask a clock or touch the shelf.

A record is encoded where it is sent, but for its time where it has none: that is known better when it is stored.
The messages are those of opentelemetry-proto 1.x (logs.proto, trace.proto, common.proto).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.client.values import one_of, unix_ns
from gateway.codecs import protobuf
from gateway.codecs.otlp import encode_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RECORD_BYTES_MAX: Final = 256 * 1024
MESSAGE_BYTES_MAX: Final = 512 * 1024
MESSAGE_RECORDS_MAX: Final = 8192
DEPTH_MAX: Final = 16
# The least that a value and an event take, whatever is in them.
VALUE_BYTES: Final = 2
EVENT_BYTES: Final = 11
TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8

# OTLP logs data model, "Displaying severity"; WARNING and CRITICAL as Python's logging calls them.
SEVERITIES: Final = {
    "TRACE": 1,
    "DEBUG": 5,
    "INFO": 9,
    "WARN": 13,
    "WARNING": 13,
    "ERROR": 17,
    "FATAL": 21,
    "CRITICAL": 21,
}
SEVERITY_MAX: Final = 24
SPAN_KINDS: Final = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
STATUSES: Final = {"unset": 0, "ok": 1, "error": 2}


class SpanIds(NamedTuple):
    """By which ids a span can be found, and can be the parent of others: 32 and 16 hexadecimal digits."""

    trace_id: str
    span_id: str


class Room:
    """What a record's values may take yet.

    A list that has another one in it ten times, and that one a third, is as large in the end as it is small before.
    """

    def __init__(self) -> None:
        self._left_bytes = RECORD_BYTES_MAX

    def take(self, size_bytes: int, what: str) -> None:
        """Take so much; raise ValueError where it is not there."""
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise ValueError(f"{what} makes it too many bytes; {RECORD_BYTES_MAX} are the most")


def any_value(value: Any, what: str, depth: int = DEPTH_MAX, *, room: Room) -> bytes:
    """Return an AnyValue of texts, bools, numbers, bytes, lists and dicts of them; raise TypeError or ValueError."""
    room.take(VALUE_BYTES + (len(value) if isinstance(value, str | bytes | bytearray) else 0), what)
    if isinstance(value, str | bool | int | float):
        return encode_value(value)
    if value is None:
        return b""
    if isinstance(value, bytes | bytearray):
        return protobuf.delimited(7, bytes(value))
    if not depth:
        raise ValueError(f"{what} is nested more than {DEPTH_MAX} deep")
    if isinstance(value, Mapping):
        return protobuf.delimited(6, b"".join(key_values(1, value, what, depth - 1, room=room)))
    if isinstance(value, Sequence):
        return protobuf.delimited(
            5, b"".join(protobuf.delimited(1, any_value(item, what, depth - 1, room=room)) for item in value)
        )
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        # A number of numpy's.
        return any_value(value.item(), what, depth - 1, room=room)
    raise TypeError(f"{what} has a {type(value).__name__}; give texts, numbers, bools, bytes, lists and dicts of them")


def key_values(
    field: int, attributes: Any, what: str = "attributes", depth: int = DEPTH_MAX, *, room: Room
) -> Iterator[bytes]:
    """Yield KeyValue fields; raise TypeError or ValueError."""
    if attributes is None:
        return
    if not isinstance(attributes, Mapping):
        raise TypeError(f'{what} is a {type(attributes).__name__}; give a dict like {{"device.id": "d1"}}')
    for key, value in attributes.items():
        if not isinstance(key, str) or not key:
            raise TypeError(f"a key of {what} is {key!r}; it is a text like 'device.id'")
        room.take(len(key), what)
        body = protobuf.delimited(2, any_value(value, f"{what}[{key[:40]!r}]", depth, room=room))
        yield protobuf.delimited(field, protobuf.text(1, key) + body)


def identifier(given: Any, size: int, what: str) -> bytes:
    """Return a trace's or span's id from hexadecimal digits, bytes or a whole number; raise TypeError or ValueError."""
    if isinstance(given, str):
        try:
            found = bytes.fromhex(given)
        except ValueError:
            found = b""
    elif isinstance(given, bytes | bytearray):
        found = bytes(given)
    elif isinstance(given, int) and not isinstance(given, bool):
        found = given.to_bytes(size, "big") if 0 <= given < 1 << 8 * size else b""
    else:
        raise TypeError(f"{what} is a {type(given).__name__}; give {2 * size} hexadecimal digits")
    if len(found) != size or not any(found):
        raise ValueError(f"{what} is no id; give {2 * size} hexadecimal digits, not all of them 0")
    return found


def severity_number(severity: Any) -> int:
    """Return the number of a severity, given as that or by its name; raise TypeError or ValueError."""
    known = f"it is one of {', '.join(SEVERITIES)}, or OTLP's number from 1 to {SEVERITY_MAX}"
    if isinstance(severity, str):
        if (found := SEVERITIES.get(severity.upper())) is None:
            raise ValueError(f"severity is {severity!r}; {known}")
        return found
    if isinstance(severity, bool) or not isinstance(severity, int):
        raise TypeError(f"severity is a {type(severity).__name__}; {known}")
    if not 1 <= severity <= SEVERITY_MAX:
        raise ValueError(f"severity is {severity}; {known}")
    return severity


def log_record(body: Any, *, severity: Any, attributes: Any, trace_id: Any, span_id: Any) -> bytes:
    """Return a LogRecord without its times; raise TypeError or ValueError."""
    number, room = severity_number(severity), Room()
    parts = [protobuf.integer(2, number)]
    if isinstance(severity, str):
        parts.append(protobuf.text(3, severity.upper()))
    parts.append(protobuf.delimited(5, any_value(body, "body", room=room)))
    parts += key_values(6, attributes, room=room)
    if span_id is not None and trace_id is None:
        raise ValueError("span_id is of a trace; give trace_id as well")
    if trace_id is not None:
        parts.append(protobuf.delimited(9, identifier(trace_id, TRACE_ID_BYTES, "trace_id")))
    if span_id is not None:
        parts.append(protobuf.delimited(10, identifier(span_id, SPAN_ID_BYTES, "span_id")))
    return _sized(b"".join(parts), "a log record")


def with_times(record: bytes, time_ns: int, observed_ns: int) -> bytes:
    """Return a LogRecord with its times, Unix ns, 0 for unknown."""
    return protobuf.fixed64(1, max(time_ns, 0)) + record + protobuf.fixed64(11, max(observed_ns, 0))


class Ids(NamedTuple):
    """The ids of a span; `parent` is b"" for the first of its trace."""

    trace: bytes
    span: bytes
    parent: bytes

    def shown(self) -> SpanIds:
        """Return how others name it."""
        return SpanIds(self.trace.hex(), self.span.hex())


def span_ids(trace_id: Any, span_id: Any, parent_id: Any) -> Ids:
    """Return ids as they were given, made by chance where not; raise TypeError or ValueError."""
    if parent_id is not None and trace_id is None:
        raise ValueError("parent_id is of a trace; give trace_id as well")
    return Ids(
        os.urandom(TRACE_ID_BYTES) if trace_id is None else identifier(trace_id, TRACE_ID_BYTES, "trace_id"),
        os.urandom(SPAN_ID_BYTES) if span_id is None else identifier(span_id, SPAN_ID_BYTES, "span_id"),
        b"" if parent_id is None else identifier(parent_id, SPAN_ID_BYTES, "parent_id"),
    )


def span(  # noqa: PLR0913  what OTLP knows of one
    name: Any, ids: Ids, start: Any, end: Any, *, kind: Any, attributes: Any, status: Any, message: Any, events: Any
) -> bytes:
    """Return a Span; raise TypeError or ValueError."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a span is a text, not {name!r}")
    one_of("kind", kind, SPAN_KINDS)
    one_of("status", status, STATUSES)
    start_ns, end_ns = unix_ns(start, "start"), unix_ns(end, "end")
    if end_ns < start_ns:
        raise ValueError(f"end is {(start_ns - end_ns) / 1e9:g} s before start; the start comes first")
    parts = [protobuf.delimited(1, ids.trace), protobuf.delimited(2, ids.span)]
    if ids.parent:
        parts.append(protobuf.delimited(4, ids.parent))
    parts += [protobuf.text(5, name), protobuf.integer(6, SPAN_KINDS[kind])]
    parts += [protobuf.fixed64(7, max(start_ns, 0)), protobuf.fixed64(8, max(end_ns, 0))]
    room = Room()
    parts += key_values(9, attributes, room=room)
    parts += _events(events, room)
    if STATUSES[status] or message:
        said = protobuf.text(2, str(message)) if message else b""
        parts.append(protobuf.delimited(15, said + protobuf.integer(3, STATUSES[status])))
    return _sized(b"".join(parts), "a span")


def _events(events: Any, room: Room) -> Iterator[bytes]:
    for event in events:
        if not isinstance(event, tuple | list) or not 2 <= len(event) <= 3 or not isinstance(event[0], str):
            raise TypeError(f"an event is (name, time) or (name, time, attributes), not {event!r:.60}")
        name, time, *rest = event
        room.take(EVENT_BYTES + len(name), "an event")
        body = protobuf.fixed64(1, max(unix_ns(time, "an event's time"), 0)) + protobuf.text(2, name)
        yield protobuf.delimited(11, body + b"".join(key_values(3, rest[0] if rest else None, room=room)))


def _sized(record: bytes, what: str) -> bytes:
    if len(record) > RECORD_BYTES_MAX:
        raise ValueError(f"{what} of {len(record)} bytes; {RECORD_BYTES_MAX} are the most")
    return record


def messages(head: bytes, scope: bytes, records: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield ResourceLogs or ResourceSpans messages, none too large, each with how many records are in it.

    `head` is the field of the resource, `scope` that of the scope.
    """
    fields: list[bytes] = []
    size_bytes = 0
    for record in records:
        if fields and (size_bytes + len(record) > MESSAGE_BYTES_MAX or len(fields) >= MESSAGE_RECORDS_MAX):
            yield len(fields), head + protobuf.delimited(2, scope + b"".join(fields))
            fields, size_bytes = [], 0
        fields.append(protobuf.delimited(2, record))
        size_bytes += len(record)
    if fields:
        yield len(fields), head + protobuf.delimited(2, scope + b"".join(fields))
