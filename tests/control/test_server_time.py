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


def box(behind_s: int) -> tuple[FakeClock, Timeline, ServerTime]:
    """A box whose clock was saved when it was switched off, so long ago."""
    clock = FakeClock(wall=(NOW_S - behind_s) * NS_PER_S, synced=False)
    timeline = timeline_of(clock)
    return clock, timeline, ServerTime(lambda: timeline, clock)


def hear(clock: FakeClock, timeline: Timeline, time: ServerTime, *offs_s: int, is_vouched: bool = True) -> None:
    """Let an answer come every ten seconds, off by so much."""
    for off_s in offs_s:
        clock.advance(10 * NS_PER_S)
        timeline.observe(clock)
        right_s = NOW_S + (clock.monotonic_ns() - FakeClock().monotonic_ns()) // NS_PER_S
        time.heard(right_s + off_s, 0.5, is_vouched=is_vouched)


def is_right(clock: FakeClock, timeline: Timeline) -> bool:
    """Whether the time that readings leave with is that of the receivers, as far as they say it."""
    timeline.observe(clock)
    right_ns = NOW_S * NS_PER_S + clock.monotonic_ns() - FakeClock().monotonic_ns()
    return abs((timeline.wall_from(clock.monotonic_ns()) or 0) - right_ns) <= 3 * NS_PER_S


def test_receivers_with_certificates_that_agree_are_believed(caplog: pytest.LogCaptureFixture) -> None:
    """After three of their answers, and what their seconds leave open moves no time about."""
    clock, timeline, time = box(behind_s=7200)
    with caplog.at_level(logging.WARNING):
        hear(clock, timeline, time, 0, 1)
        assert not is_right(clock, timeline)
        hear(clock, timeline, time, 0)
        assert is_right(clock, timeline)
    assert timeline.quality is Quality.UNSYNCED
    assert [("leave with theirs" in record.message) for record in caplog.records] == [False, True]
    kept = len(timeline.current.samples)
    hear(clock, timeline, time, 1, 0, -1, 1)
    assert len(timeline.current.samples) == kept
    assert is_right(clock, timeline)
    assert time.astray_s == pytest.approx(-7200, abs=2)


@pytest.mark.parametrize("offs_s", [(0, 900, 0, 900, 0, 900), (0, 0, -7200, 0, 0, -7200)])
def test_receivers_that_do_not_agree_are_not(offs_s: tuple[int, ...]) -> None:
    """Nor those of whom some say what the clock says."""
    clock, timeline, time = box(behind_s=7200)
    hear(clock, timeline, time, *offs_s)
    assert not timeline.is_doubted


def test_who_shows_no_certificate_is_not_believed() -> None:
    """However often it says so: anybody on the way may be it."""
    clock, timeline, time = box(behind_s=7200)
    hear(clock, timeline, time, *[0] * 20, is_vouched=False)
    assert (timeline.is_doubted, time.astray_s) == (False, -7200)


def test_a_drift_of_the_receivers_is_followed() -> None:
    """A clock of a bad crystal loses minutes in a month."""
    clock, timeline, time = box(behind_s=7200)
    hear(clock, timeline, time, 0, 0, 0)
    hear(clock, timeline, time, 4, 4)
    off_ns = (timeline.wall_from(clock.monotonic_ns()) or 0) - NOW_S * NS_PER_S - clock.monotonic_ns()
    assert (off_ns + FakeClock().monotonic_ns()) / NS_PER_S == pytest.approx(4, abs=1)


def test_a_clock_that_is_set_is_believed_again(caplog: pytest.LogCaptureFixture) -> None:
    """By hand, or by a battery's that comes late."""
    clock, timeline, time = box(behind_s=7200)
    hear(clock, timeline, time, 0, 0, 0)
    clock.wall += 7203 * NS_PER_S
    with caplog.at_level(logging.INFO):
        hear(clock, timeline, time, 0)
    assert "it is believed" in caplog.text
    timeline.observe(clock)
    assert (timeline.is_doubted, time.astray_s) == (False, 0)
    assert timeline.wall_from(clock.monotonic_ns()) == clock.wall_ns()


def test_a_clock_that_was_confirmed_once_is_believed() -> None:
    """The receivers are astray, or their proxy is; it is said."""
    clock, timeline, time = box(behind_s=0)
    clock.synced = True
    timeline.observe(clock)
    clock.synced = False
    hear(clock, timeline, time, 7200, 7200, 7200, 7200)
    assert (timeline.is_doubted, time.astray_s) == (False, -7200)
    assert is_right(clock, timeline)
