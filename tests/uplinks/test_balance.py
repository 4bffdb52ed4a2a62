"""Checks for who is next among several receivers: each way's order, and that nobody is left out or starved."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.uplinks.balance import HALF_LIFE_S, KINDS, Failover, LeastOutstanding, RoundRobin, Weighted

weights = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def send(balance, times: int, among: list[int], *, busy_s=lambda _: 0.1, now_s: float = 0.0) -> list[int]:
    """Send to whoever is first, so often."""
    sent = []
    for _ in range(times):
        one = balance.order(among, now_s)[0]
        now_s += busy_s(one)
        balance.sent(one, among, busy_s=busy_s(one), now_s=now_s)
        sent.append(one)
    return sent


@given(st.sampled_from(sorted(KINDS)), weights, st.data())
def test_everybody_who_may_be_asked_is_in_the_order_once(kind, weights, data) -> None:
    """Whoever was sent to before, and whoever is left out; asking changes nothing."""
    balance, everybody = KINDS[kind](weights), list(range(len(weights)))
    for now_s in range(data.draw(st.integers(0, 20))):
        among = data.draw(st.lists(st.sampled_from(everybody), unique=True, min_size=1))
        balance.sent(data.draw(st.sampled_from(among)), among, busy_s=0.5, now_s=float(now_s))
    among = data.draw(st.lists(st.sampled_from(everybody), unique=True))
    assert sorted(balance.order(among, 99.0)) == sorted(among)
    assert balance.order(among, 99.0) == balance.order(among, 99.0)


def test_failover_is_the_order_of_the_configuration() -> None:
    """As long as the first may be asked it is the first."""
    assert send(Failover([1, 1, 1]), 5, [0, 1, 2]) == [0] * 5
    assert Failover([1, 1, 1]).order([2, 1], 0.0) == [1, 2]


def test_round_robin_goes_round() -> None:
    """Past whoever is left out, and on from there."""
    balance = RoundRobin([1, 1, 1])
    assert send(balance, 4, [0, 1, 2]) == [0, 1, 2, 0]
    assert send(balance, 3, [0, 2]) == [2, 0, 2]
    assert balance.order([0, 1, 2], 0.0) == [0, 1, 2]


@given(weights)
def test_weights_are_kept_exactly(weights: list[int]) -> None:
    """In each round as many as all weights together, everybody has its weight."""
    balance, whole = Weighted(weights), sum(weights)
    for _ in range(3):
        assert Counter(send(balance, whole, list(range(len(weights))))) == dict(enumerate(weights))


def test_weights_are_spread() -> None:
    """The small one is not behind a long row of the large one; and who was left out is not owed what it missed."""
    balance = Weighted([3, 1])
    assert send(balance, 8, [0, 1]) == [0, 0, 1, 0, 0, 0, 1, 0]
    send(balance, 1000, [0])
    assert Counter(send(balance, 40, [0, 1])) == {0: 30, 1: 10}


def test_who_takes_longer_for_an_answer_is_asked_less() -> None:
    """In proportion: all of them have requests outstanding for the same time."""
    takes_s = {0: 0.1, 1: 0.3, 2: 0.6}
    sent = Counter(send(LeastOutstanding([1, 1, 1]), 900, [0, 1, 2], busy_s=takes_s.__getitem__))
    outstanding = [sent[one] * takes_s[one] for one in takes_s]
    assert max(outstanding) - min(outstanding) < 2.0


def test_who_hung_once_is_asked_again() -> None:
    """What was outstanding is forgotten by half and half."""
    balance = LeastOutstanding([1, 1])
    balance.sent(0, [0, 1], busy_s=10.0, now_s=10.0)
    assert send(balance, 20, [0, 1], now_s=10.0) == [1] * 20
    assert balance.outstanding_s(0, 10.0 + HALF_LIFE_S) == pytest.approx(5.0)
    assert 0 in send(balance, 20, [0, 1], now_s=10.0 + 10 * HALF_LIFE_S)
