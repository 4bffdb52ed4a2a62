"""What is left of leases that nobody hears, as it stands in their segments: so the store can keep it apart. No I/O.

Times and marks of what was made ready to be sent are those of that moment. What is written once more is taken from the
segments, as it came; where it would not be the same in a segment of today it stays in hand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gateway.core.batch import MONOTONIC
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import BootId, Signal
from gateway.core.thinning import thin
from gateway.store.apart import Lost, Rest
from gateway.store.segments import SegmentError, decode_metrics, read_header
from gateway.uplinks.nats_pieces import MessagesPiece, PiecesPart, ReadingsPiece

if TYPE_CHECKING:
    from gateway.core.ragged import Numbers
    from gateway.store.records import LeasedSegment
    from gateway.uplinks.requests import Hand


def rest_of(hand: Hand) -> list[Rest] | None:
    """Return all that is left of a lease; None where it can't be kept apart."""
    if hand.doubted or hand.lease.signal is not Signal.METRICS or not hand.parts:
        return None
    places: dict[int, list[Numbers]] = {}
    found: list[Rest] = []
    for part in hand.parts:
        if not isinstance(part, PiecesPart):
            return None
        for piece in part.pieces:
            if isinstance(piece, MessagesPiece):
                # They are passed on as they came, and all of a lease is of one class.
                found.append(Rest(hand.lease.segments[0].priority, piece.part.records))
                continue
            if not isinstance(piece, ReadingsPiece) or not piece.sequence:
                return None
            places.setdefault(piece.sequence, []).extend(piece.places)
    for segment in hand.lease.segments:
        if segment.sequence in places:
            rest = _some_of(segment, np.sort(np.concatenate(places[segment.sequence])))
            if rest is None:
                return None
            found.append(rest)
    return found


def lost_of(hand: Hand) -> Lost:
    """Return what of a lease is lost."""
    return Lost(hand.lease, hand.lost, hand.reason(), hand.aside())


def _some_of(segment: LeasedSegment, places: Numbers) -> Rest | None:
    try:
        header, batch = read_header(segment.body), decode_metrics(segment.body)
    except SegmentError:
        return None
    some = replace(batch.take(places), origin=header.origin)
    step_s = header.step_s
    if step_s and len(thin(some, step_s * NS_PER_S)) != len(some):
        # A segment that says it was thinned holds no more than is left at its step.
        return None
    has_moments = bool((some.flags & MONOTONIC).any())
    return Rest(segment.priority, some, segment.boot if has_moments else BootId(0), step_s)
