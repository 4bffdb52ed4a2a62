"""What is left of a lease is taken from its segments as it came, or not at all."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from gateway.codecs.otlp import NO_MARKS
from gateway.core.batch import MONOTONIC, Batch, ResourceRecords
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store.apart import Rest
from gateway.store.policy import Lane
from gateway.store.records import Lease, LeasedSegment
from gateway.store.segments import Ancestors, press_metrics
from gateway.uplinks.guards import StatusRefusedError
from gateway.uplinks.nats_pieces import MessagesPiece, PiecesPart, ReadingsPiece
from gateway.uplinks.parts import MessagesPart, MetricsPart
from gateway.uplinks.requests import Hand
from gateway.uplinks.rests import lost_of, rest_of

BOOT = BootId(2)
BATCH = Batch.of(1, np.arange(1), np.arange(1))


def segment(sequence: int, *, flags: int = 0, boot: BootId = BOOT, ancestors: Ancestors | None = None) -> LeasedSegment:
    batch = Batch.of(1, np.arange(6), np.arange(6) + 10 * sequence, flags=flags)
    pressed = replace(press_metrics(batch), origin=7)
    body = pressed.seal(sequence=sequence, boot=boot, previous_hash=bytes(16), ancestors=ancestors)
    return LeasedSegment(sequence, boot, Signal.METRICS, Priority.BULK, 6, body)


def piece(sequence: int, *places: int) -> ReadingsPiece:
    batch = Batch.of(1, np.array(places), np.array(places))
    return ReadingsPiece("key", [(batch, NO_MARKS)], [np.array(places)], 0, 6, sequence)


def hand(*segments: LeasedSegment, pieces: list, signal: Signal = Signal.METRICS) -> Hand:
    found = Hand(Lease("cloud", Lane.LIVE, list(segments), signal))
    found.parts = deque([PiecesPart(pieces, Signal.METRICS)])
    return found


def test_it_is_what_stands_at_its_places() -> None:
    """With flags, origin and class; a segment of which nothing is left gives nothing."""
    rest = rest_of(
        hand(segment(1, flags=MONOTONIC), segment(2), segment(3), pieces=[piece(1, 4, 1), piece(3, 0), piece(1, 5)])
    )
    assert rest is not None
    assert [(one.priority, one.what.bits.tolist(), one.what.origin, one.boot) for one in rest] == [
        (Priority.BULK, [11, 14, 15], 7, BOOT),
        (Priority.BULK, [30], 7, 0),
    ]
    assert (rest[0].what.flags & MONOTONIC).all()


def test_where_it_would_not_be_the_same_it_stays_in_hand() -> None:
    """What is damaged, and what was thinned at a step at which less would be left of it than there is."""
    assert rest_of(hand(replace(segment(1), body=b"damaged"), pieces=[piece(1, 0)])) is None
    thinned = segment(1, ancestors=Ancestors(bytes(16), bytes(16), 1, 1, 6, 60))
    assert rest_of(hand(thinned, pieces=[piece(1, *range(5))])) is None


@pytest.mark.parametrize("step_s", [0, 60])
def test_what_was_written_anew_on_the_shelf_says_at_which_step(step_s: int) -> None:
    """Where it was only joined it is as it came."""
    odd = segment(1, ancestors=Ancestors(bytes(16), bytes(16), 1, 1, 6, step_s))
    (rest,) = rest_of(hand(odd, pieces=[piece(1, 0, 5)])) or []
    assert (rest.what.bits.tolist(), rest.step_s) == ([10, 15], step_s)


def test_moments_are_of_their_boot() -> None:
    """What has the device's time needs none."""
    for flags, boot in ((MONOTONIC, 1), (0, 0)):
        (rest,) = rest_of(hand(segment(1, flags=flags, boot=BootId(1)), pieces=[piece(1, 0)])) or []
        assert rest.boot == boot


def test_what_is_no_reading_of_one_segment_stays_in_hand() -> None:
    """What was thinned, logs, and what is still in doubt."""
    assert rest_of(hand(segment(1), pieces=[piece(0, 1)])) is None
    assert rest_of(hand(segment(1), pieces=[piece(1, 1)], signal=Signal.LOGS)) is None
    other = hand(segment(1), pieces=[])
    other.parts = deque([MetricsPart([])])
    assert rest_of(other) is None
    other = hand(segment(1), pieces=[piece(1, 1)])
    other.doubted = [(StatusRefusedError("no", 400), other.parts[0])]
    assert rest_of(other) is None


def test_messages_are_what_is_left_of_them() -> None:
    """Byte for byte, of the class of their lease."""
    numbers = np.ones(1, np.int64)
    messages = MessagesPart(ResourceRecords(Signal.METRICS, numbers, numbers, (b"x",)), NO_MARKS)
    rest = rest_of(hand(segment(1), pieces=[MessagesPiece("key", messages), piece(1, 2)]))
    assert rest == [Rest(Priority.BULK, messages.records), *(rest_of(hand(segment(1), pieces=[piece(1, 2)])) or [])]


def test_what_is_lost_of_a_lease_goes_with_it() -> None:
    """With the reason, and what a person may want to see."""
    found = hand(segment(1), pieces=[piece(1, 1)])
    found.rejected, found.refused = {"refused": 1, "damaged": 2}, [("no", MetricsPart([(BATCH, NO_MARKS)]))]
    lost = lost_of(found)
    assert (lost.lease, lost.readings, lost.reason) == (found.lease, 3, "damaged+refused")
    assert [(message, readings) for message, readings, _ in lost.aside] == [("no", 1)]
