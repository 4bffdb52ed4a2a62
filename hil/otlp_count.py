"""How many data points or log records an OTLP request holds, without making an object of any. Must not guess.

The walk goes by lengths alone: requests → resources → scopes → metrics; a metric's points come in runs.
Where the record at k·r has the same tag and length as the one at 0 for each k, r being its size, the run is
that many records, by induction: so equal-sized points, as column encoders make them, cost one comparison.
"""

from __future__ import annotations

from typing import Final

import numpy as np

# Field numbers of opentelemetry/proto: ExportXServiceRequest.resource_x 1, ResourceX.scope_x 2, ScopeX.x 2.
RESOURCES, SCOPES, ITEMS = 1, 2, 2
# Metric.data: gauge 5, sum 7, histogram 9, exponential_histogram 10, summary 11; data_points is 1 in each.
DATA_FIELDS: Final = frozenset({5, 7, 9, 10, 11})
DATA_POINTS_TAG: Final = 0x0A
LENGTH_DELIMITED: Final = 2
VARINT, FIXED64, FIXED32 = 0, 1, 5
# Below this many records left, comparing them one by one is cheaper than numpy's call.
RUN_MIN: Final = 16


def count_points(body: bytes) -> int:
    """Return the number of data points in an ExportMetricsServiceRequest; ValueError for what is not one."""
    total = 0
    for resource in _fields(body, 0, len(body), RESOURCES):
        for scope in _fields(body, *resource, SCOPES):
            for metric_start, metric_end in _fields(body, *scope, ITEMS):
                total += _count_metric(body, metric_start, metric_end)
    return total


def count_records(body: bytes) -> int:
    """Return the number of log records (or spans) in an export request."""
    return sum(
        1
        for resource in _fields(body, 0, len(body), RESOURCES)
        for scope in _fields(body, *resource, SCOPES)
        for _ in _fields(body, *scope, ITEMS)
    )


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")


def _next(body: bytes, position: int) -> tuple[int, int, int]:
    """Return the tag of the field at `position`, where its content starts, and where it ends."""
    tag, position = _varint(body, position)
    wire = tag & 7
    if wire == LENGTH_DELIMITED:
        length, position = _varint(body, position)
        return tag, position, position + length
    if wire == VARINT:
        return tag, position, _varint(body, position)[1]
    if wire in {FIXED64, FIXED32}:
        return tag, position, position + (8 if wire == FIXED64 else 4)
    raise ValueError(f"wire type {wire} at byte {position}")


def _fields(body: bytes, position: int, end: int, number: int) -> list[tuple[int, int]]:
    """Return start and end of every submessage `number` between `position` and `end`."""
    wanted = number << 3 | LENGTH_DELIMITED
    found = []
    try:
        while position < end:
            tag, start, position = _next(body, position)
            if tag == wanted:
                found.append((start, position))
    except IndexError:
        raise ValueError("the message ends in the middle of a field") from None
    if position != end:
        raise ValueError(f"a field runs past its message, to byte {position} of {end}")
    return found


def _count_metric(body: bytes, position: int, end: int) -> int:
    total = 0
    try:
        while position < end:
            tag, start, position = _next(body, position)
            if tag & 7 == LENGTH_DELIMITED and tag >> 3 in DATA_FIELDS:
                total += _count_data(body, start, position)
    except IndexError:
        raise ValueError("the message ends in the middle of a metric") from None
    if position != end:
        raise ValueError(f"a metric runs past its scope, to byte {position} of {end}")
    return total


def _count_data(body: bytes, position: int, end: int) -> int:
    total = 0
    while position < end:
        if body[position] != DATA_POINTS_TAG:
            position = _next(body, position)[2]
            continue
        length, start = _varint(body, position + 1)
        size = start - position + length
        run = _run(body, position, end, start - position, size) if (end - position) // size >= RUN_MIN else 1
        total += run
        position += run * size
    if position != end:
        raise ValueError(f"a data point runs past its metric, to byte {position} of {end}")
    return total


def _run(body: bytes, position: int, end: int, head: int, size: int) -> int:
    """Return how many records of `size` bytes, with the same `head` bytes, follow each other."""
    most = (end - position) // size
    records = np.frombuffer(body, np.uint8, most * size, position).reshape(most, size)
    same: np.ndarray[tuple[int], np.dtype[np.bool_]] = records[:, 0] == records[0, 0]
    for index in range(1, head):
        same &= records[:, index] == records[0, index]
    return most if bool(same.all()) else int(same.argmin())
