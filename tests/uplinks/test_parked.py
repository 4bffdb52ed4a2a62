"""What was begun waits until its signal may go, or its time has come; no more of it than has room."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest

from gateway.core.contracts import Signal
from gateway.core.units import Duration
from gateway.uplinks.parked import PUT_OFF_MAX, Parked
from gateway.uplinks.requests import Hand
from gateway.uplinks.settings import RetrySettings
from gateway.uplinks.state import Holding


@pytest.fixture
def holding() -> Holding:
    return Holding(RetrySettings(initial=Duration(1), max=Duration(60)), Random(1))


def hand(signal: Signal = Signal.METRICS) -> Hand:
    return Hand(SimpleNamespace(signal=signal))


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


def test_there_is_room_for_a_few(holding) -> None:
    """Each may be a request in size."""
    parked = Parked(holding)
    assert all(parked.put_off(hand(), until_s=5.0) for _ in range(PUT_OFF_MAX))
    assert not parked.put_off(hand(), until_s=5.0)


def test_all_of_them_are_given_back(holding) -> None:
    """At a stop, whatever they wait for."""
    parked = Parked(holding)
    one, other = hand(), hand(Signal.LOGS)
    parked.put_off(one, until_s=5.0)
    parked.hold(other)
    assert {id(parked.pop()), id(parked.pop())} == {id(one), id(other)}
    assert parked.pop() is None
