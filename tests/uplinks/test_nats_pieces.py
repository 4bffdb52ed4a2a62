"""Pieces of a segment have ids by their place in it: whoever cuts them, and however often, the same readings meet."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.otlp import NO_MARKS, Marks
from gateway.core.batch import Batch, LogRecords, ResourceRecords
from gateway.core.contracts import Signal
from gateway.uplinks.nats_pieces import (
    LogsPiece,
    MessagesPiece,
    PiecesPart,
    Publications,
    ReadingsPiece,
    SomeStoredError,
    small_pieces,
)
from gateway.uplinks.parts import LogsPart, MessagesPart, MetricsPart
from gateway.uplinks.requests import Hand
from gateway.uplinks.verdicts import Stage


def readings(places: list[int], stop: int, *, key: str = "K", word: str = "") -> ReadingsPiece:
    """Return a piece of those places of a segment, in two groups."""
    cut = len(places) // 2
    groups, each = [], []
    for some in (places[:cut], places[cut:]):
        if some:
            groups.append((Batch.of(0, some, np.array(some, np.float64)), Marks(time_quality=word)))
            each.append(np.array(some))
    return ReadingsPiece(key, groups, each, 0, stop)


def values(piece: ReadingsPiece) -> list[int]:
    return [int(value) for batch, _ in piece.groups for value in batch.bits.view(np.float64)]


@given(st.sets(st.integers(0, 999), min_size=1), st.integers(1, 300), st.randoms())
def test_the_same_stretch_has_the_same_readings_whatever_their_order(places, size, random) -> None:
    """Cut twice, in another order and with other marks: an id stands for the same readings."""
    first, second = sorted(places), list(places)
    random.shuffle(second)
    cuts = []
    for order, word in ((first, ""), (second, "unsynced")):
        pieces = list(small_pieces(readings(order, 1000, word=word), size))
        cuts.append({piece.ident: sorted(values(piece)) for piece in pieces})
        assert sum(map(len, pieces)) == len(places)
    assert cuts[0] == cuts[1]


@given(st.sets(st.integers(0, 999), min_size=2))
def test_a_piece_alone_is_halved_until_there_are_two(places) -> None:
    """Neither of them is empty, and none is lost."""
    left, right = PiecesPart([readings(sorted(places), 1000)], Signal.METRICS).halves()
    assert len(left)
    assert len(right)
    assert len(left) + len(right) == len(places)


def test_a_part_is_cut_between_pieces() -> None:
    """One at least goes, and one alone stays whole."""
    pieces = [readings(list(range(10)), 10, key=key) for key in "abc"]
    part = PiecesPart(pieces, Signal.METRICS)
    assert (len(part), part.may_be_cut) == (30, True)
    assert [len(half) for half in part.cut(25)] == [20, 10]
    assert [len(half) for half in part.cut(1)] == [10, 20]
    assert [len(half) for half in part.cut(30)] == [20, 10]
    assert [len(half) for half in part.halves()] == [10, 20]
    alone = PiecesPart(pieces[:1], Signal.METRICS)
    assert not alone.may_be_cut
    assert [len(half) for half in alone.cut(1)] == [10, 0]
    assert all(isinstance(one, MetricsPart) for one in part.plain())


def test_logs_and_messages_are_pieces_too(make_records) -> None:
    """Each with ids of its own."""
    logs = LogsPiece("L", make_records(4), NO_MARKS, 0, 4)
    assert [half.ident for half in logs.halves()] == ["L.0-2", "L.2-4"]
    (one,) = PiecesPart([logs.halves()[1]], Signal.LOGS).plain()
    assert isinstance(one, LogsPart)
    assert one.records.bodies == make_records(4).bodies[2:]
    ones = np.ones(4, np.int64)
    messages = MessagesPiece(
        "M", MessagesPart(ResourceRecords(Signal.TRACES, ones, ones, (b"\x12\x00",) * 4), NO_MARKS)
    )
    assert (messages.ident, messages.signal, len(messages)) == ("M.m", Signal.TRACES, 4)
    assert [half.ident for half in small_pieces(messages, 1)] == ["M.m00", "M.m01", "M.m10", "M.m11"]
    assert isinstance(PiecesPart([messages], Signal.TRACES).plain()[0], MessagesPart)


def written() -> Publications:
    """Return a piece in one message, and one of three readings in three."""
    body = Publications(b"aabcd")
    body.ends = np.array([2, 3, 4, 5])
    body.subjects, body.subject_of = [b"s", b"t"], np.array([0, 1, 1, 1])
    body.pieces, body.piece_of = [readings([0, 1], 2), readings([5, 6, 7], 8, key="J")], np.array([0, 1, 1, 1])
    body.places, body.counts = np.array([-1, 5, 6, 7]), np.array([2, 1, 1, 1])
    body.signal, body.overhead_bytes = Signal.METRICS, 100
    return body


def test_each_message_knows_its_own() -> None:
    """Where it goes, under which id; packed one by one."""
    body = written()
    assert [body.payload(number) for number in range(4)] == [b"aa", b"b", b"c", b"d"]
    assert [body.subject(number) for number in range(4)] == [b"s", b"t", b"t", b"t"]
    assert [body.ident(number) for number in range(4)] == ["K.0-2", "J.5", "J.6", "J.7"]
    packed = body.each(lambda payload: payload * 2)
    assert (packed, packed.ident(3), packed.overhead_bytes) == (b"aaaabbccdd", "J.7", 100)
    assert all(left < right for left, right in pairwise(packed.ends.tolist()))


def test_what_is_left_has_the_ids_that_it_had() -> None:
    """Whole pieces, or some readings of one."""
    left = written().left(np.array([False, True, False, True]))
    (piece,) = left.pieces
    assert isinstance(piece, ReadingsPiece)
    assert values(piece) == [5, 7]
    assert [int(place) for places in piece.places for place in places] == [5, 7]
    assert len(written().left(np.array([True] * 4)).pieces) == 2


@pytest.mark.parametrize("rejected", [0, 1])
def test_what_was_stored_comes_off_the_hand(rejected: int) -> None:
    """And what is left stands first."""
    hand = Hand(None)  # type: ignore[arg-type]
    hand.parts = deque([PiecesPart(written().pieces, Signal.METRICS)])
    hand.refusals = 3
    left = written().left(np.array([False, True, False, True]))
    SomeStoredError("why", left=left, taken=3 - rejected, maybe=1, rejected=rejected, said="no").settle(hand)
    assert (hand.delivered, hand.maybe_taken, hand.lost, len(hand.parts[0])) == (3 - rejected, 1, rejected, 2)
    assert hand.refusals == 0


def test_what_breaks_connections_is_not_cut_inside_a_piece() -> None:
    """Between pieces it is: their ids stay."""
    hand = Hand(None)  # type: ignore[arg-type]
    hand.stage = Stage.CUT
    pieces = [readings(list(range(10)), 10, key=key) for key in "ab"]
    hand.parts = deque([PiecesPart(pieces, Signal.METRICS)])
    assert not hand.is_at_end(20, 1)
    hand.parts = deque([PiecesPart(pieces[:1], Signal.METRICS)])
    assert hand.is_at_end(10, 1)


def test_what_comes_late_has_the_ids_that_it_had() -> None:
    """Only its marks say so."""
    logs = LogsPiece("b", LogRecords(np.arange(1, dtype=np.uint32), np.arange(1), (b"a",)), NO_MARKS, 0, 1)
    messages = ResourceRecords(Signal.METRICS, np.array([1]), np.array([0]), (b"",))
    part = PiecesPart([readings([0, 1], 2), logs, MessagesPiece("c", MessagesPart(messages, NO_MARKS))], Signal.METRICS)
    idents = [piece.ident for piece in part.pieces]
    part.mark_late()
    assert [piece.ident for piece in part.pieces] == idents
    marks = [Marks(backfill=True)]
    for piece, plain in zip(part.pieces, part.plain(), strict=True):
        found = [mark for _, mark in plain.groups] if isinstance(plain, MetricsPart) else [plain.marks]
        assert set(found) == set(marks), piece
