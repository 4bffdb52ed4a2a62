"""The newest segments, at hand: what keeps up is read from memory, not from the disk. Must not decide what is leased.

Bounded in bytes; whoever looks further back than it reaches reads the disk (store/shelf.py).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.store.records import where_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.core.batch import Batch

# Small segments whose columns stay at hand: a road that keeps up sends them within seconds. 3 KB each at most.
READABLE_MAX: Final = 64
ORDER_SPARE: Final = 256
EVERYBODY: Final[Mapping[int, int]] = {}


class Row(NamedTuple):
    """A segment without its body."""

    id: int
    readings: int
    boot: int
    size_bytes: int


@dataclass(slots=True)
class Kept:
    """A fresh segment in memory, and who needs it no more."""

    row: Row
    body: bytes
    readable: Batch | None = None
    done: int = 0


class Recent:
    """The newest segments, bounded in bytes: from `floor` on, all of them that are still on the shelf.

    The first sequence that no commit has given is `end`. On the disk there may be more: a commit is seen there before
    it is through, and until then nobody's account knows of it.
    """

    def __init__(self, *, bytes_max: int, floor: int) -> None:
        self.floor = self.end = floor
        self.size_bytes = 0
        self._bytes_max = bytes_max
        self._order: deque[int] = deque()
        self._kept: dict[int, Kept] = {}
        self._readable: deque[int] = deque()

    def add(
        self,
        segments: Iterable[tuple[Row, bytes, Batch | None]],
        *,
        left_out: Mapping[int, int] = EVERYBODY,
        all_of: int = 0,
    ) -> None:
        """Take what a commit has written, in order of sequence; the last of those that are readable stay so.

        `left_out` has by row id the bits of uplinks that do not take it; what none of `all_of` takes nobody asks for.
        """
        for row, body, readable in segments:
            self.end = where_from(row.id)[2] + 1
            done = left_out.get(row.id, 0)
            if done and done & all_of == all_of:
                continue
            self._kept[row.id] = Kept(row, body, readable, done)
            self._order.append(row.id)
            self.size_bytes += len(body)
            if readable is not None:
                self._readable.append(row.id)
        while len(self._readable) > READABLE_MAX:
            kept = self._kept.get(self._readable.popleft())
            if kept is not None:
                kept.readable = None
        while self.size_bytes > self._bytes_max:
            oldest = self._order.popleft()
            self.floor = where_from(oldest)[2] + 1
            self.remove(oldest)
        while self._order and self._order[0] not in self._kept:
            self._order.popleft()
        # Where the oldest stays for long, what left behind it must not pile up.
        if len(self._order) > 2 * len(self._kept) + ORDER_SPARE:
            self._order = deque(segment_id for segment_id in self._order if segment_id in self._kept)

    def remove(self, segment_id: int) -> None:
        """Forget a segment that left the shelf."""
        kept = self._kept.pop(segment_id, None)
        if kept is not None:
            self.size_bytes -= len(kept.body)

    def leave(self, done: Mapping[int, int], removed: Iterable[int], *, all_of: int) -> None:
        """Take note of what a commit has settled, by row id with the bits of who needs it no more, and let go."""
        for segment_id, bits in done.items():
            self.settle(segment_id, bits, all_of=all_of)
        for segment_id in removed:
            self.remove(segment_id)

    def replace(self, row: Row, body: bytes) -> None:
        """Take what stands in a segment's place now, if that is here."""
        kept = self._kept.get(row.id)
        if kept is not None:
            self.size_bytes += len(body) - len(kept.body)
            kept.row, kept.body, kept.readable = row, body, None

    def settle(self, segment_id: int, bits: int, *, all_of: int) -> None:
        """Take note that these uplinks need it no more; without the last of `all_of` it is gone."""
        kept = self._kept.get(segment_id)
        if kept is not None:
            kept.done |= bits
            if kept.done & all_of == all_of:
                self.remove(segment_id)

    def rows(self, start: int, end: int, *, lacking: int, limit: int, newest: bool) -> list[Row]:
        """Return what `Reader.rows` would, where the range begins at `floor` or later."""
        found: list[Row] = []
        for segment_id in reversed(self._order) if newest else self._order:
            kept = self._kept.get(segment_id) if start <= segment_id < end else None
            if kept is not None and not kept.done & lacking:
                found.append(kept.row)
                if len(found) == limit:
                    break
        return found

    def body(self, segment_id: int) -> bytes | None:
        """Return a body, if it is here."""
        kept = self._kept.get(segment_id)
        return None if kept is None else kept.body

    def readable(self, segment_id: int) -> Batch | None:
        """Return what a segment's columns are, if that is known without reading them."""
        kept = self._kept.get(segment_id)
        return None if kept is None else kept.readable
