"""What was begun waits until its signal may go, or its time has come; no more of it than has room."""

from __future__ import annotations

from collections import deque
from random import Random

import numpy as np
import pytest

from gateway.codecs.otlp import NO_MARKS
from gateway.core.batch import Batch
from gateway.core.contracts import BootId, Priority, Signal
from gateway.core.units import Duration
from gateway.store.policy import Lane
from gateway.store.records import Lease, LeasedSegment
from gateway.uplinks.parked import PUT_OFF_BYTES_MAX, PUT_OFF_MAX, TRIES_SHARE, UNHEARD_MANY, Parked
from gateway.uplinks.parts import MetricsPart
from gateway.uplinks.requests import Hand
from gateway.uplinks.settings import RetrySettings
from gateway.uplinks.state import Holding


@pytest.fixture
def holding() -> Holding:
    return Holding(RetrySettings(initial=Duration(1), max=Duration(60)), Random(1))


def hand(signal: Signal = Signal.METRICS, *, size_bytes: int = 10, is_suspect: bool = False) -> Hand:
    batch = Batch.of(1, np.arange(3), np.arange(3.0))
    segment = LeasedSegment(1, BootId(1), signal, Priority.NORMAL, 3, bytes(size_bytes), batch)
    return Hand(Lease("cloud", Lane.LIVE, [segment], signal), is_suspect=is_suspect)


def test_what_is_put_off_comes_in_its_time(holding) -> None:
    """Each once, and nobody is told to wait for what is due."""
    parked = Parked(holding)
    first, second = hand(), hand()
    assert parked.left_s(0.0) is None
    assert parked.put_off(first, until_s=10.0)
    assert parked.put_off(second, until_s=20.0)
    assert parked.left_s(4.0) == 6.0
    assert not parked.has_due(9.0)
    assert parked.pop_due(9.0) is None
    assert parked.has_due(10.0)
    assert parked.pop_due(10.0) is first
    assert parked.pop_due(10.0) is None
    assert parked.left_s(30.0) == 0.0
    assert parked.pop_due(30.0) is second
    assert [*parked] == []


def test_what_is_held_back_comes_with_its_signal(holding) -> None:
    """One of each: whoever comes second goes back to the store."""
    parked = Parked(holding)
    first, second = hand(Signal.LOGS), hand(Signal.LOGS)
    wait_s = holding.hold(Signal.LOGS, "no path", after_s=30.0, now_s=0.0)
    assert parked.hold(first)
    assert not parked.hold(second)
    assert parked.left_s(0.0) is None
    assert not parked.has_due(wait_s - 1)
    assert parked.pop_due(wait_s) is first


def test_what_is_put_off_waits_for_its_signal_too(holding) -> None:
    """It is tried again where it can be taken."""
    parked = Parked(holding)
    one = hand(Signal.LOGS)
    assert parked.put_off(one, until_s=5.0)
    wait_s = holding.hold(Signal.LOGS, "no path", after_s=30.0, now_s=0.0)
    assert parked.pop_due(10.0) is None
    assert parked.pop_due(wait_s) is one


def test_there_is_room_for_some(holding) -> None:
    """Each stands for a lease on the disk; whoever finds none is counted."""
    parked = Parked(holding)
    assert all(parked.put_off(hand(), until_s=5.0) for _ in range(PUT_OFF_MAX))
    assert not parked.has_room
    assert not parked.put_off(hand(), until_s=5.0)
    assert parked.told() == {"leases": PUT_OFF_MAX, "readings": 0, "overflowed": 1, "unheard": 0, "gives_way": 0}


def test_what_is_put_off_is_bounded_in_memory(holding) -> None:
    """By what was read from the disk and what was made of that; columns that are read already are let go."""
    parked = Parked(holding)
    large, small = hand(size_bytes=PUT_OFF_BYTES_MAX), hand()
    large.parts = deque([MetricsPart([(Batch.of(1, np.arange(5), np.arange(5.0)), NO_MARKS)])])
    assert parked.put_off(large, until_s=5.0)
    assert large.lease.segments[0].readable is None
    assert parked.told()["readings"] == 5
    assert not parked.put_off(small, until_s=5.0)
    assert parked.pop() is large
    assert parked.put_off(small, until_s=5.0)


def test_the_one_that_is_due_for_longest_goes_first(holding) -> None:
    """Whichever was put off first."""
    parked = Parked(holding)
    late, early = hand(), hand()
    parked.put_off(late, until_s=8.0)
    parked.put_off(early, until_s=4.0)
    assert parked.pop_due(10.0) is early
    assert parked.pop_due(10.0) is late


def test_tries_have_a_share_of_the_time(holding) -> None:
    """What was not tried yet, and only stands behind a part that failed, is like all else."""
    parked = Parked(holding)
    suspect, other = hand(is_suspect=True), hand()
    parked.put_off(suspect, until_s=1.0)
    parked.put_off(other, until_s=2.0)
    assert parked.is_turn(5.0)
    parked.tried(1.0, now_s=5.0)
    turn_s = 5.0 + (1 - TRIES_SHARE) / TRIES_SHARE
    assert not parked.is_turn(turn_s - 0.1)
    assert parked.is_turn(turn_s + 0.1)
    assert parked.pop_due(6.0, may_be_suspect=False) is other
    assert parked.pop_due(6.0, may_be_suspect=False) is None
    assert parked.pop_due(6.0) is suspect


def test_nobody_is_woken_for_what_is_held_back(holding) -> None:
    """It is not due before its signal may go."""
    parked = Parked(holding)
    parked.put_off(hand(Signal.LOGS), until_s=5.0)
    wait_s = holding.hold(Signal.LOGS, "no path", after_s=30.0, now_s=0.0)
    assert parked.left_s(6.0) is None
    assert parked.left_s(wait_s) == 0.0


def test_all_of_them_are_given_back(holding) -> None:
    """At a stop, whatever they wait for."""
    parked = Parked(holding)
    one, other = hand(), hand(Signal.LOGS)
    parked.put_off(one, until_s=5.0)
    parked.hold(other)
    assert {id(parked.pop()), id(parked.pop())} == {id(one), id(other)}
    assert parked.pop() is None


def test_what_nobody_hears_has_its_turn_with_what_failed(holding) -> None:
    """Not before all that is held; of many, or where there is no room for more, the store is to take them."""
    parked = Parked(holding)
    assert parked.unheard_s(0.0) == 0.0
    hands = [hand() for _ in range(UNHEARD_MANY)]
    for one in hands:
        assert parked.unheard == []
        one.waits_for = "no stream"
        assert parked.put_off(one, until_s=5.0)
    assert parked.pop_due(10.0, may_be_suspect=False) is None
    assert parked.unheard == hands
    assert parked.told()["unheard"] == UNHEARD_MANY
    assert parked.unheard_s(2.0) == 3.0
    parked.remove(hands[0])
    assert parked.unheard == []
    assert parked.pop_due(10.0) is hands[1]
    assert parked.put_off(hand(size_bytes=PUT_OFF_BYTES_MAX), until_s=5.0)
    assert parked.unheard == hands[2:]
