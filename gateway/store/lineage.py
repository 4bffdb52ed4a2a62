"""Whether what was written anew on the shelf is what it says: what verify knows it by from what was tampered with.

Each such segment carries the hash of the one that was written anew before it, and the state row the last one's. What is
not there any more tells nothing of its neighbours, as with the chain of all segments. Does no I/O.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gateway.core.clock import NS_PER_S
from gateway.core.thinning import thin
from gateway.store.records import SEQUENCE_END, SHELVES, place, where_from
from gateway.store.segments import FIRST_HASH, SegmentError, decode, link_hash, read_header, segment_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.core.batch import Batch, LogRecords, ResourceRecords
    from gateway.core.contracts import Priority, Signal
    from gateway.store.accounts import Dilution
    from gateway.store.segments import SegmentHeader


def next_carries(body: bytes) -> bytes:
    """Return the hash by which the segment after one knows it, damaged or not."""
    try:
        return link_hash(body, read_header(body))
    except SegmentError:
        return segment_hash(body)


def beside(sequence: int) -> list[int]:
    """Return the row ids under which the segment with that sequence may stand, and the one after it."""
    there = [at for at in (sequence, sequence + 1) if 0 < at < SEQUENCE_END]
    return [place(*shelf, at) for shelf in SHELVES for at in there]


def known_hash(body_at: Callable[[int], object], sequence: int) -> bytes | None:
    """Return the hash by which the segment after one knows it, None where neither of both is there as it was written.

    `body_at` returns what stands under a row id.
    """
    for row_id in beside(sequence):
        body = body_at(row_id)
        with contextlib.suppress(SegmentError):
            if isinstance(body, bytes) and (header := read_header(body)).ancestors is None:
                decode(body)
                return segment_hash(body) if header.sequence == sequence else header.previous_hash
    return None


class Lineage:
    """All that was written anew of one shelf, looked at in order of sequence."""

    def __init__(self) -> None:
        self.segments = 0
        self.diluted = 0  # readings in those of them that were thinned
        self.diluted_from = 0  # and in what these were made of, as it came
        self._links: dict[int, tuple[int, bytes, bytes]] = {}  # number → sequence, hash before it, its own
        # By shelf and origin: who, and up to which sequence.
        self._reach: dict[tuple[Priority, Signal, int], tuple[int, int]] = {}

    def look(
        self, row_id: int, body: bytes, header: SegmentHeader, columns: Batch | LogRecords | ResourceRecords
    ) -> Iterator[str]:
        """Return what is wrong with a segment beside all others; `columns` is what it holds."""
        priority, signal, sequence = where_from(row_id)
        by, reach = self._reach.get((priority, signal, header.origin), (0, 0))
        if sequence <= reach:
            yield f"segment {sequence}: segment {by} says that it stands for it, and both are there"
        ancestors = header.ancestors
        if ancestors is None:
            return
        self._reach[priority, signal, header.origin] = sequence, max(reach, ancestors.last_sequence)
        self.segments += 1
        if ancestors.step_s:
            self.diluted += header.readings
            self.diluted_from += ancestors.readings
        if ancestors.number in self._links:
            yield f"segment {sequence}: another one says that it was number {ancestors.number} to be written anew, too"
        self._links[ancestors.number] = sequence, ancestors.previous_hash, segment_hash(body)
        if ancestors.step_s and len(thin(columns, ancestors.step_s * NS_PER_S)) != header.readings:  # type: ignore[arg-type]
            yield f"segment {sequence}: it holds more than is left at a step of {ancestors.step_s} s, as it says it has"

    def close(self, known: Dilution) -> Iterator[str]:
        """Return what is wrong with all of them together; `known` is what the state row says."""
        for number, (sequence, previous_hash, own_hash) in sorted(self._links.items()):
            if number > known.count:
                yield f"segment {sequence}: the state row does not know that it was written anew"
            elif number == known.count and own_hash != known.hash:
                yield f"segment {sequence}: the state row knows another hash of what was written anew last"
            _, _, before = self._links.get(number - 1, (0, b"", previous_hash if number > 1 else FIRST_HASH))
            if previous_hash != before:
                yield f"segment {sequence}: it does not follow what was written anew before it, that chain is broken"
