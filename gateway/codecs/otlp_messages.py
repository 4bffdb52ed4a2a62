"""OTLP messages that are passed on as they came: counted, cut and given attributes without being read. Does no I/O.

A ResourceMetrics, ResourceLogs or ResourceSpans message is a tree of which only the branches are walked:

| signal  | its branch from the outside in, with the numbers of the fields      | a reading is |
| ------- | ------------------------------------------------------------------- | ------------ |
| metrics | scope_metrics 2, metrics 2, one of gauge 5, sum 7, histogram 9,     | a data point |
|         | exponential_histogram 10 and summary 11, data_points 1              |              |
| logs    | scope_logs 2, log_records 2                                         | a log record |
| traces  | scope_spans 2, spans 2                                              | a span       |

All that stands beside the branch (the resource, a scope, a metric's name, fields of versions that are still to come)
belongs to every reading on it, and where a message is cut it is on both sides. What is no message raises ValueError.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from gateway.codecs import protobuf
from gateway.core.batch import ResourceRecords
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Iterable

Path: TypeAlias = "tuple[frozenset[int], ...]"

RESOURCE_FIELD: Final = 1
_ATTRIBUTES_FIELD: Final = 1
_SECOND: Final = frozenset({2})
_DATA: Final = frozenset({5, 7, 9, 10, 11})
PATHS: Final[dict[Signal, Path]] = {
    Signal.METRICS: (_SECOND, _SECOND, _DATA, frozenset({1})),
    Signal.LOGS: (_SECOND, _SECOND),
    Signal.TRACES: (_SECOND, _SECOND),
}


def count(body: bytes, path: Path) -> int:
    """Return how many readings stand in a message.

    >>> scope = protobuf.delimited(2, b"") * 3
    >>> count(protobuf.delimited(1, b"") + protobuf.delimited(2, scope), PATHS[Signal.LOGS])
    3
    """
    return _count(body, 0, len(body), path)


def _count(body: bytes, at: int, end: int, path: Path) -> int:
    wanted, deeper = path[0], path[1:]
    if not deeper:
        (number,) = wanted
        return protobuf.count(body, at, end, number)
    return sum(_count(body, start, stop, deeper) for start, stop in protobuf.inside(body, at, end, wanted))


def cut(body: bytes, path: Path, readings: int) -> tuple[bytes, bytes]:
    """Return a message with the first `readings` of its readings, and one with the others.

    >>> scope = protobuf.text(3, "v1") + b"".join(protobuf.text(2, letter) for letter in "abc")
    >>> left, right = cut(protobuf.delimited(2, scope), PATHS[Signal.LOGS], 1)
    >>> left == protobuf.delimited(2, protobuf.text(3, "v1") + protobuf.text(2, "a"))
    True
    """
    wanted, deeper = path[0], path[1:]
    left: list[bytes] = []
    right: list[bytes] = []
    room = readings
    for number, wire_type, begin, start, stop in protobuf.spans(body):
        piece = body[begin:stop]
        if number not in wanted or wire_type != protobuf.LENGTH_DELIMITED:
            left.append(piece)
            right.append(piece)
            continue
        has = _count(body, start, stop, deeper) if deeper else 1
        if has <= room:
            left.append(piece)
        elif not room:
            right.append(piece)
        else:
            for side, half in zip((left, right), cut(body[start:stop], deeper, room), strict=True):
                side.append(protobuf.delimited(number, half))
        room -= min(has, room)
    return b"".join(left), b"".join(right)


class Piece(NamedTuple):
    """A message that is small enough to be kept, and how many readings it holds."""

    readings: int
    body: bytes


class Pieces(NamedTuple):
    """What became of a message: what can be kept, and how many of its readings are too large for it."""

    kept: list[Piece]
    oversize: int = 0


def cut_to_fit(body: bytes, path: Path, *, bytes_max: int, readings_max: int, beside_bytes_max: int) -> Pieces:
    """Cut a message in pieces of so many readings, with so many bytes of them, at most.

    Of what stands beside the branch each level may have `beside_bytes_max`: it is in every piece. What has more, and a
    reading that is larger than a piece, is left out and counted. Costs a few times the message, whatever it is.

    >>> scope = protobuf.text(3, "v1") + b"".join(protobuf.text(2, letter) for letter in "abc")
    >>> fit = cut_to_fit(scope, PATHS[Signal.LOGS][1:], bytes_max=99, readings_max=2, beside_bytes_max=99)
    >>> [piece.readings for piece in fit.kept], fit.oversize
    ([2, 1], 0)
    """
    if len(body) <= bytes_max and (readings := count(body, path)) <= readings_max:
        return Pieces([Piece(readings, body)] if readings else [])
    wanted, deeper = path[0], path[1:]
    head = _beside(body, wanted, bytes_max=beside_bytes_max)
    if head is None:
        return Pieces([], count(body, path))
    packing = _Packing(head, bytes_max=bytes_max, readings_max=readings_max)
    oversize = 0
    for number, wire_type, begin, start, stop in protobuf.spans(body):
        if number not in wanted or wire_type != protobuf.LENGTH_DELIMITED:
            continue
        readings = _count(body, start, stop, deeper) if deeper else 1
        if not readings:
            # Of a scope without a record nobody knows by then whose piece it should be in.
            continue
        if stop - begin <= bytes_max and readings <= readings_max:
            packing.add(readings, body[begin:stop])
        elif deeper:
            limits = {"bytes_max": bytes_max, "readings_max": readings_max, "beside_bytes_max": beside_bytes_max}
            inner = cut_to_fit(body[start:stop], deeper, **limits)
            oversize += inner.oversize
            for piece in inner.kept:
                packing.add(piece.readings, protobuf.delimited(number, piece.body))
        else:
            oversize += 1
    return Pieces(packing.close(), oversize)


def _beside(body: bytes, branch: frozenset[int], *, bytes_max: int) -> bytes | None:
    """Return all fields that are not of a branch; None where they are too much, which is seen before they are held."""
    found: list[bytes] = []
    size_bytes = 0
    for number, wire_type, begin, _, stop in protobuf.spans(body):
        if number not in branch or wire_type != protobuf.LENGTH_DELIMITED:
            size_bytes += stop - begin
            if size_bytes > bytes_max:
                return None
            found.append(body[begin:stop])
    return b"".join(found)


class _Packing:
    """Fields of one branch on their way into pieces."""

    def __init__(self, head: bytes, *, bytes_max: int, readings_max: int) -> None:
        self._head = head
        self._bytes_max = bytes_max
        self._readings_max = readings_max
        self._kept: list[Piece] = []
        self._fields: list[bytes] = []
        self._size_bytes = self._readings = 0

    def add(self, readings: int, field: bytes) -> None:
        """Put one more field into the piece that is being made, or begin the next with it."""
        is_full = self._readings + readings > self._readings_max or self._size_bytes + len(field) > self._bytes_max
        if is_full:
            self.close()
        self._fields.append(field)
        self._size_bytes += len(field)
        self._readings += readings

    def close(self) -> list[Piece]:
        """End the piece that is being made, and return all; one without a reading is none."""
        if self._readings:
            self._kept.append(Piece(self._readings, b"".join((self._head, *self._fields))))
        self._fields = []
        self._size_bytes = self._readings = 0
        return self._kept


class ResourceWriter:
    """Gives messages attributes of their resource that they do not have yet. For one thread.

    `attributes` are keys, and for each the field of a Resource that holds it. A program's resource is the same from
    request to request, so those that were written last are remembered.
    """

    REMEMBERED_MAX: Final = 256
    REMEMBERED_BYTES_MAX: Final = 64 * 1024

    def __init__(self, attributes: Iterable[tuple[bytes, bytes]]) -> None:
        self._attributes = tuple(attributes)
        self._remembered: dict[bytes, bytes] = {}
        self._remembered_bytes = 0

    def add_to(self, body: bytes) -> bytes:
        """Return a message whose resource has the attributes, all else byte for byte as it was.

        A resource in several fields is one (the encoding says that they are merged): it is written as one.
        """
        resource: list[bytes] = []
        others: list[bytes] = []
        at = 0
        for number, wire_type, begin, start, stop in protobuf.spans(body):
            if number == RESOURCE_FIELD and wire_type == protobuf.LENGTH_DELIMITED:
                resource.append(body[start:stop])
                others.append(body[at:begin])
                at = stop
        others.append(body[at:])
        return b"".join((self._written(b"".join(resource)), *others))

    def _written(self, resource: bytes) -> bytes:
        found = self._remembered.get(resource)
        if found is None:
            keys = _keys(resource)
            more = b"".join(field for key, field in self._attributes if key not in keys)
            found = protobuf.delimited(RESOURCE_FIELD, resource + more)
            self._remember(resource, found)
        return found

    def _remember(self, resource: bytes, written: bytes) -> None:
        size_bytes = len(resource) + len(written)
        is_full = self._remembered_bytes + size_bytes > self.REMEMBERED_BYTES_MAX
        if is_full or len(self._remembered) >= self.REMEMBERED_MAX:
            self._remembered.clear()
            self._remembered_bytes = 0
        if size_bytes <= self.REMEMBERED_BYTES_MAX:
            self._remembered[resource] = written
            self._remembered_bytes += size_bytes


def _keys(resource: bytes) -> set[bytes]:
    """Return the keys of a resource's attributes; of one that is no message none, and its receiver says so."""
    keys: set[bytes] = set()
    with contextlib.suppress(ValueError):
        for number, wire_type, _, at, end in protobuf.spans(resource):
            if number == _ATTRIBUTES_FIELD and wire_type == protobuf.LENGTH_DELIMITED:
                keys |= {
                    resource[start:stop]
                    for inner, kind, _, start, stop in protobuf.spans(resource, at, end)
                    if inner == 1 and kind == protobuf.LENGTH_DELIMITED
                }
    return keys


def check(records: ResourceRecords) -> None:
    """Raise ValueError where messages do not hold the readings that they are said to."""
    path = PATHS[records.signal]
    for expected, body in zip(records.counts.tolist(), records.bodies, strict=True):
        if (found := count(body, path)) != expected:
            raise ValueError(f"a message of {expected} readings holds {found}")


def halves(records: ResourceRecords) -> tuple[ResourceRecords, ResourceRecords]:
    """Return about the first and the second half of the readings, two or more, in their order.

    As long as there are several messages each stays whole.
    """
    total, messages = len(records), len(records.bodies)
    if messages > 1:
        ends = np.cumsum(records.counts)
        middle = min(max(int(np.searchsorted(ends, total // 2, side="right")), 1), messages - 1)
        return records.take(slice(0, middle)), records.take(slice(middle, None))
    room = total // 2
    return tuple(  # type: ignore[return-value]  # two of them
        ResourceRecords(records.signal, np.array([readings], np.int64), records.time_ns, (body,))
        for readings, body in zip(
            (room, total - room), cut(records.bodies[0], PATHS[records.signal], room), strict=True
        )
    )


def first_items(body: bytes, limit: int) -> list[bytes]:
    """Return the first log records, metrics or spans of a message, for a person to look at.

    >>> first_items(protobuf.delimited(2, protobuf.text(2, "a") + protobuf.text(2, "b")), 1)
    [b'a']
    """
    items = (item for scope in protobuf.messages(body, 2) for item in protobuf.messages(scope, 2))
    return list(itertools.islice(items, limit))
