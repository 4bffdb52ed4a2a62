"""The time of day that receivers tell: taken where there is none, held against a clock that nobody has confirmed."""

from __future__ import annotations

import logging

import pytest

from gateway.control.server_time import ASTRAY_S_MIN, ServerTime
from gateway.core.clock import NS_PER_S, BootTimes, FakeClock, Quality, Timeline
from gateway.core.contracts import BootId

NOW_S = 1_790_000_000


def timeline_of(clock: FakeClock) -> Timeline:
    timeline = Timeline([BootTimes(BootId(1), clock.boot_uuid())], current=BootId(1))
    timeline.observe(clock)
    return timeline


@pytest.mark.parametrize("ahead_s", [-3600, 86400 * 365, ASTRAY_S_MIN + 2, 2 - ASTRAY_S_MIN, 0])
def test_a_clock_that_nobody_confirmed_is_held_against_answers(ahead_s: int, caplog: pytest.LogCaptureFixture) -> None:
    """It is believed all the same; that it is far from what they say is said once, and no more when it is not."""
    clock = FakeClock(wall=(NOW_S + ahead_s) * NS_PER_S, synced=False)
    timeline = timeline_of(clock)
    time = ServerTime(lambda: timeline, clock)
    is_far = abs(ahead_s) > ASTRAY_S_MIN
    with caplog.at_level(logging.WARNING):
        time.heard(NOW_S, 0.0)
        time.heard(NOW_S, 0.0)
    assert time.astray_s == (ahead_s if is_far else 0)
    assert len(caplog.records) == is_far
    assert timeline.wall_from(clock.monotonic_ns()) == (NOW_S + ahead_s) * NS_PER_S
    time.heard(NOW_S + ahead_s, 0.0)
    assert time.astray_s == 0


def test_what_a_slow_answer_says_is_as_old() -> None:
    """By as much as it took."""
    clock = FakeClock(wall=(NOW_S + ASTRAY_S_MIN + 20) * NS_PER_S, synced=False)
    timeline = timeline_of(clock)
    time = ServerTime(lambda: timeline, clock)
    time.heard(NOW_S, 60.0)
    assert time.astray_s == 0


def test_a_clock_that_is_confirmed_is_right() -> None:
    """Whatever a receiver says, and what was heard before is forgotten."""
    clock = FakeClock(wall=NOW_S * NS_PER_S, synced=False)
    timeline = timeline_of(clock)
    time = ServerTime(lambda: timeline, clock)
    time.heard(NOW_S + 5000, 0.0)
    assert time.astray_s == -5000
    clock.synced = True
    timeline.observe(clock)
    assert time.astray_s == 0
    time.heard(NOW_S - 5000, 0.0)
    assert time.astray_s == 0
    assert timeline.quality is Quality.SYNCED
