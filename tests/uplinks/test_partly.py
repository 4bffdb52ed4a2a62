"""What was taken of a request comes off the hand, in readings, and what is left is sent again."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from gateway.codecs.otlp import NO_MARKS, Marks
from gateway.core.batch import Batch
from gateway.uplinks.guards import InTransitError
from gateway.uplinks.partly import PartlyTakenError
from gateway.uplinks.parts import Closed, MetricsPart
from gateway.uplinks.requests import Hand

LATE = Marks(backfill=True)


def readings(start: int, count: int) -> Batch:
    return Batch.of(0, np.arange(start, start + count), np.arange(count) * 1.0)


@pytest.fixture
def groups() -> list[tuple[Batch, Marks]]:
    return [(readings(0, 3), NO_MARKS), (readings(100, 2), LATE)]


def test_it_comes_off_whatever_the_hand_holds(groups) -> None:
    """The part itself, or what stands for it; parts behind it stay."""
    error = PartlyTakenError(
        "broke", groups=groups, left=np.array([0, 0, 1, 0, 1], bool), maybe=1, rejected=2, said="no", after_s=3.0
    )
    assert isinstance(error, InTransitError)
    assert (error.taken, error.after_s, error.answer_lost) == (1, 3.0, False)
    for first in (MetricsPart(groups), Closed(5)):
        hand = Hand(lease=None, parts=deque([first, Closed(7)]), refusals=4)
        error.settle(hand)
        assert (hand.delivered, hand.rejected, hand.message, hand.maybe_taken) == (1, {"rejected": 2}, "no", 1)
        assert hand.refusals == 0
        left, behind = hand.parts
        assert [(batch.time_ns.tolist(), marks) for batch, marks in left.groups] == [([2], NO_MARKS), ([101], LATE)]
        assert len(behind) == 7


def test_where_nothing_was_taken_all_is_left(groups) -> None:
    """Only what was under way is said to be there perhaps."""
    error = PartlyTakenError("broke", groups=groups, left=np.ones(5, bool), maybe=3)
    hand = Hand(lease=None, parts=deque([Closed(5)]), refusals=4)
    error.settle(hand)
    assert (hand.delivered, hand.rejected, hand.maybe_taken, hand.refusals) == (0, {}, 3, 4)
    assert not hand.is_begun
    assert len(hand.parts[0]) == 5


def test_a_group_of_which_nothing_is_left_is_gone(groups) -> None:
    """No empty group goes on."""
    error = PartlyTakenError("broke", groups=groups, left=np.array([0, 0, 0, 1, 1], bool))
    hand = Hand(lease=None, parts=deque([Closed(5)]))
    error.settle(hand)
    assert [len(batch) for batch, _ in hand.parts[0].groups] == [2]
