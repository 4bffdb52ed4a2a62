"""Rows of the shelf as leases want them: who reads them, how many fit, whether they are whole. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.core.contracts import BootId
from gateway.store.records import LeasedSegment, where_from
from gateway.store.segments import SegmentError, check_link, read_header
from gateway.store.taking import ANY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.core.batch import Batch
    from gateway.store.recent import Row


class Reader(Protocol):
    """Reads segments from the disk."""

    async def rows(self, start: int, end: int, *, lacking: int, limit: int, newest: bool) -> list[Row]:
        """Return up to `limit` rows with start <= id < end whose `done` has none of the bits `lacking`.

        From the oldest on, or with `newest` from the newest back.
        """
        ...

    async def bodies(self, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies of those of `ids` that are there."""
        ...

    async def origins(self, ids: Sequence[int]) -> dict[int, int]:
        """Return what each segment's header says of what made it; of one that cannot be read, ANY."""
        ...


def within(rows: list[Row], readings_max: int, bytes_max: int) -> list[Row]:
    """Return as many of the first `rows` as fit, at least one."""
    readings = size_bytes = 0
    for count, row in enumerate(rows):
        readings += row.readings
        size_bytes += row.size_bytes
        if count and (readings > readings_max or size_bytes > bytes_max):
            return rows[:count]
    return rows


def of_one_side(rows: list[Row], border: int) -> list[Row]:
    """Return the first `rows` that are all before a sequence, or all of them where the first is not."""
    if not rows or where_from(rows[-1].id)[2] < border or where_from(rows[0].id)[2] >= border:
        return rows
    return [row for row in rows if where_from(row.id)[2] < border]


def side_by_side(rows: list[Row], from_id: int, *, away: Iterable[int]) -> tuple[list[Row], int]:
    """Return the first of `rows` up to what is `away`, on its way or put off, and from where on there is nothing else.

    What is thinned is remembered as one span: it must hold nothing that stays behind.
    """
    if not rows:
        return rows, from_id
    first_id, last_id = rows[0].id, rows[-1].id
    away = [number for number in away if from_id <= number <= last_id]
    end_id = min([number for number in away if number > first_id], default=last_id + 1)
    behind = [number + 1 for number in away if number < first_id]
    return [row for row in rows if row.id < end_id], max([from_id, *behind])


def is_whole(row: Row, body: bytes | None) -> bool:
    """Whether a segment came back from the disk as it was written."""
    if body is None:
        return False
    try:
        header = read_header(body)
        check_link(header.previous_hash, body)
    except SegmentError:
        return False
    return (header.sequence, header.readings) == (where_from(row.id)[2], row.readings)


def origin_in(head: bytes) -> int:
    """Return the origin that the beginning of a segment tells, ANY where it is none."""
    try:
        return read_header(head).origin
    except SegmentError:
        return ANY


def leased(row: Row, body: bytes, readable: Batch | None) -> LeasedSegment:
    """Return a segment as an uplink gets it."""
    priority, signal, sequence = where_from(row.id)
    return LeasedSegment(sequence, BootId(row.boot), signal, priority, row.readings, body, readable)
