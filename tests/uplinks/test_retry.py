"""Checks for the waits between attempts: each schedule's bounds, what the server asks for, and starting over."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.units import Duration
from gateway.uplinks.retry import SCHEDULES, Backoff, Step
from gateway.uplinks.settings import RetrySettings

STRATEGIES = sorted(SCHEDULES)
seconds = st.floats(0.001, 1e4)


@given(st.sampled_from(STRATEGIES), st.integers(0, 10**6), seconds, seconds, seconds, st.integers())
def test_no_wait_is_longer_than_the_longest(strategy, failures, last_s, initial_s, max_s, seed) -> None:
    """Whatever the schedule, the failures before and the bounds, the longest before the first included."""
    wait_s = SCHEDULES[strategy](Step(failures, last_s, initial_s, max_s), random.Random(seed))
    assert 0 <= wait_s <= max_s


@given(st.integers(), st.integers(1, 200))
def test_full_jitter_stays_under_a_bound_that_doubles(seed: int, failures: int) -> None:
    """Any wait lies between nothing and the bound, and the bound ends at the longest."""
    backoff = Backoff(1.0, 60.0, random.Random(seed))
    waits = [backoff.failed() for _ in range(failures)]
    assert all(0 <= wait <= min(60.0, 2.0**k) for k, wait in enumerate(waits))
    assert backoff.failures == failures


def test_a_fleet_does_not_come_back_in_one_second() -> None:
    """Full jitter: a hundred boxes after their seventh failure are spread over the minute."""
    waits = []
    for seed in range(100):
        backoff = Backoff(1.0, 60.0, random.Random(seed), failures=7)
        waits.append(backoff.failed())
    assert min(waits) < 6
    assert max(waits) > 54
    assert 20 < sorted(waits)[50] < 40


@given(st.integers(), st.integers(2, 100))
def test_decorrelated_jitter_grows_from_the_wait_before(seed: int, failures: int) -> None:
    """Never under the first bound, never over three times the last one, and in the end somewhere up to the longest."""
    backoff = Backoff(1.0, 60.0, random.Random(seed), strategy="decorrelated_jitter")
    waits = [backoff.failed() for _ in range(failures)]
    assert 1.0 <= waits[0] <= 3.0
    assert all(1.0 <= after <= min(60.0, 3 * before) for before, after in pairwise(waits))


def test_without_jitter_waits_are_known() -> None:
    """They double up to the longest, or are all the same."""
    doubling = Backoff(1.0, 60.0, random.Random(1), strategy="exponential")
    assert [doubling.failed() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    same = Backoff(5.0, 60.0, random.Random(1), strategy="fixed")
    assert [same.failed() for _ in range(3)] == [5, 5, 5]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_the_server_asks_is_the_least(strategy) -> None:
    """Retry-After is kept, with a little jitter on top, or all whom it was said to came back in one moment."""
    waits = [Backoff(1.0, 60.0, random.Random(seed), strategy=strategy).failed(30) for seed in range(100)]
    assert 30 <= min(waits) < 30.1
    assert 30.9 < max(waits) <= 31


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_bound_goes_before_the_schedule(strategy) -> None:
    """Where no connection can be made it is not waited as long; nor at all where another way is there."""
    backoff = Backoff(1.0, 60.0, random.Random(3), failures=9, strategy=strategy, last_s=60.0)
    assert backoff.failed(bound_s=15.0) <= 15.0
    assert backoff.failed(bound_s=0.0) == 0.0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_success_starts_over(strategy) -> None:
    """The next failure waits shortly again."""
    backoff = Backoff(1.0, 60.0, random.Random(1), failures=9, strategy=strategy, last_s=60.0)
    assert backoff.succeeded()
    assert not backoff.succeeded()
    assert backoff.failed() <= 3


def test_the_settings_choose() -> None:
    """Full jitter is what nobody has to think about."""
    assert Backoff.of(RetrySettings(), random.Random(1)).strategy == "full_jitter"
    chosen = Backoff.of(RetrySettings(initial=Duration(2), max=Duration(2), strategy="fixed"), random.Random(1))
    assert [chosen.failed(), chosen.failed()] == [2.0, 2.0]
