"""Checks for how much is sent at once and how hard it is compressed."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.contracts import Priority, Signal
from gateway.uplinks.pacing import (
    CLIMB_S,
    CLIMB_S_MAX,
    FAST_LEVEL,
    HARD_BYTES_MAX,
    HARD_LEVEL,
    LOOK_EACH,
    READINGS_MIN,
    READINGS_START,
    SPARED,
    BatchSize,
    Effort,
    Rounds,
    Toll,
)


def test_quick_requests_grow_to_the_bound() -> None:
    """On a good link the batch soon is as large as the settings allow."""
    size = BatchSize(50_000, 4_000_000)
    for _ in range(10):
        size.succeeded(size.readings, 0.1)
    assert size.readings == 50_000


def test_requests_settle_at_what_people_wait_for() -> None:
    """On a link that takes 1,000 readings a second a request ends up between one and two seconds."""
    size = BatchSize(50_000, 4_000_000)
    for _ in range(30):
        size.succeeded(size.readings, size.readings / 1000)
    assert 1000 <= size.readings <= 2100


@pytest.mark.parametrize("limit", [READINGS_MIN, 5_000, 24_576])
@pytest.mark.parametrize("seconds", [1.3, 1.99, 2.05, 3.0, 8.0])
def test_smaller_requests_are_no_remedy_where_size_costs_nothing(seconds: float, limit: float) -> None:
    """A receiver that thinks for seconds whatever it is sent is sent much: else little of a backlog would get there."""
    size = BatchSize(24_576, 4_000_000)
    size.limit = limit
    for _ in range(60):
        size.succeeded(size.readings, seconds)
    assert size.readings == 24_576


@pytest.mark.parametrize("seed", range(5))
def test_that_is_seen_through_noise_and_small_requests_in_between(seed: int) -> None:
    """Times vary by a third, and every second request is a handful of live readings."""
    size, dice = BatchSize(24_576, 4_000_000), Random(seed)
    for k in range(120):
        size.succeeded(30 if k % 2 else size.readings, 3.0 * dice.uniform(0.7, 1.3))
    assert size.readings > 2_000


@pytest.mark.parametrize("limit", [READINGS_MIN, 5_000, 24_576])
def test_what_size_costs_is_what_counts(limit: float) -> None:
    """A second of thinking and a thousand readings a second: about a second's worth of them."""
    size = BatchSize(24_576, 4_000_000)
    size.limit = limit
    for _ in range(30):
        size.succeeded(size.readings, 1 + size.readings / 1000)
    assert 900 <= size.readings <= 1300


@pytest.mark.parametrize("seed", range(5))
def test_noise_makes_no_request_on_a_slow_line_very_long(seed: int) -> None:
    """A thousand readings a second, give or take a fifth."""
    size, dice = BatchSize(24_576, 4_000_000), Random(seed)
    for k in range(200):
        seconds = size.readings / 1000 * dice.uniform(0.8, 1.2)
        size.succeeded(size.readings, seconds)
        assert seconds < 5 or k < 5


def test_a_line_that_changes_is_soon_followed() -> None:
    """From a quick one to twenty readings a second: a handful of requests are too large; and the way back is quick."""
    size = BatchSize(24_576, 4_000_000)
    for per_s, found in ((1_000_000, 24_576), (20, READINGS_MIN * 1.25), (1_000_000, 24_576)):
        for _ in range(12):
            size.succeeded(size.readings, 0.05 + size.readings / per_s)
        assert READINGS_MIN <= size.readings <= found
    assert size.readings == 24_576


def test_small_requests_say_nothing_about_large_ones() -> None:
    """A handful of live readings that went quickly does not raise the limit."""
    size = BatchSize(50_000, 4_000_000)
    before = size.readings
    for _ in range(10):
        size.succeeded(10, 0.01)
    assert size.readings == before


def test_a_link_that_breaks_is_probed_with_ever_less() -> None:
    """Failures on the way halve the batch, to a floor; a refused connection brings it back to the start."""
    size = BatchSize(50_000, 4_000_000)
    size.limit = 50_000
    size.failed(50_000, in_transit=False)
    assert size.readings == 5_000
    for _ in range(20):
        size.failed(size.readings, in_transit=True)
    assert size.readings == READINGS_MIN


def breaks(size: BatchSize, readings_max: int, *, times: int, seconds: float = 1.0) -> list[tuple[int, int]]:
    """Send so many requests, of which those over `readings_max` break; return when which did."""
    broken = []
    for k in range(times):
        readings = size.readings
        if readings > readings_max:
            broken.append((k, readings))
            size.failed(readings, in_transit=True)
        else:
            size.succeeded(readings, seconds)
    return broken


@pytest.mark.parametrize("readings_max", [150, 700, 2000, 4900, 30_000])
def test_a_size_that_breaks_is_tried_less_and_less_often(readings_max: int) -> None:
    """It is found in a few steps, come near, and then tried after twice as long each time."""
    size = BatchSize(50_000, 10**9)
    broken = breaks(size, readings_max, times=4000, seconds=0.5)
    assert len(broken) <= 16
    gaps = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(broken)]
    assert max(gaps) > 1000
    assert all(readings < 1.3 * readings_max for _, readings in broken[-4:])
    assert size.readings >= 0.5 * readings_max


def test_an_outage_says_nothing_about_sizes() -> None:
    """All that was tried broke, whatever its size: what gets through next grows as ever."""
    size = BatchSize(50_000, 10**9)
    for _ in range(8):
        size.failed(size.readings, in_transit=True)
    breaks(size, 50_000, times=12, seconds=0.1)
    assert size.readings == 50_000


def test_one_break_costs_little_and_is_forgotten() -> None:
    """A road that breaks once in a while is as quick as before when so much has got through."""
    size = BatchSize(50_000, 10**9)
    breaks(size, 50_000, times=10, seconds=0.1)
    for _ in range(4):
        size.failed(size.readings, in_transit=True)
        breaks(size, 50_000, times=8, seconds=0.1)
        assert size.readings >= 25_000
        breaks(size, 50_000, times=200, seconds=0.1)
        assert size.readings == 50_000
        assert (size.climb.avoided, size.climb.climb_s) == (float("inf"), CLIMB_S)


@pytest.mark.parametrize("readings", [205, 5_000, 50_000])
def test_a_quick_road_that_breaks_once_is_not_kept_to_small_requests(readings: int) -> None:
    """Twenty seconds of requests that take a few milliseconds are thousands of them: what got through counts as well."""
    size = BatchSize(readings, 10**9)
    breaks(size, readings, times=12, seconds=0.003)
    for _ in range(3):
        size.failed(readings, in_transit=True)
        breaks(size, readings, times=24, seconds=0.003)
        assert size.readings == readings


def test_what_is_mended_is_found_out() -> None:
    """However often that size broke before, it is tried again within some time that is spent on requests."""
    size = BatchSize(50_000, 10**9)
    breaks(size, 2000, times=20_000)
    assert size.climb.climb_s == CLIMB_S_MAX
    breaks(size, 50_000, times=4000, seconds=0.95)
    assert size.readings == 50_000


def test_413_lowers_the_ceiling_and_time_lifts_it() -> None:
    """What was refused whole is not tried again soon, and not avoided for ever."""
    size = BatchSize(50_000, 10**9)
    size.limit = 50_000
    size.was_too_large(200_000)
    assert size.readings == 5_000
    size.was_too_large(800_000)
    assert size.readings == 5_000
    for _ in range(200):
        size.succeeded(size.readings, 0.1)
    assert 10_000 < size.readings < 20_000


def test_one_monster_does_not_make_all_small() -> None:
    """Split down to a single huge reading, the ceiling stays where others are still sent in batches."""
    size = BatchSize(50_000, 10**9)
    for size_bytes in (1_000_000, 500_000, 250_000, 125_000, 60_000, 30_000, 15_000, 7_000):
        size.was_too_large(size_bytes)
    assert size.readings > 800


@given(st.lists(st.tuples(st.integers(1, 10_000), st.integers(1, 10_000_000)), max_size=50))
def test_the_limit_in_bytes_holds(measured) -> None:
    """Whatever weighs how much, there is at least one reading, and no more than the last weight allows."""
    size = BatchSize(50_000, 1_000_000)
    for readings, size_bytes in measured:
        size.measured(readings, size_bytes)
        assert 1 <= size.readings <= 5_000
        assert size.readings == 1 or size.readings * size_bytes / readings <= 1_000_001


def test_spare_time_goes_into_compressing() -> None:
    """A minute batch is compressed hard; a stream that fills the processor is not."""
    effort = Effort()
    assert effort.level(120_000, now_s=0) == HARD_LEVEL
    effort.spent(120_000, HARD_LEVEL, 0.12)
    assert effort.level(120_000, now_s=60) == HARD_LEVEL
    levels = []
    for k in range(100):
        levels.append(effort.level(120_000, now_s=60 + k * 0.01))
        effort.spent(120_000, levels[-1], 0.12)
    assert levels.count(HARD_LEVEL) <= 4


def test_a_slow_link_is_worth_the_work() -> None:
    """Where sending takes far longer than compressing, the hard level is quicker as well."""
    effort = Effort(spare_s=0)
    effort.sent(100_000, 10.0)
    assert effort.level(120_000, now_s=0) == HARD_LEVEL
    assert effort.level(HARD_BYTES_MAX, now_s=0) == HARD_LEVEL
    # However much it would be worth: the tables of a hard level grow with what they are for.
    assert HARD_BYTES_MAX == 256 * 1024
    assert effort.level(HARD_BYTES_MAX + 1, now_s=0) == FAST_LEVEL


def test_what_saves_little_is_not_worth_the_work() -> None:
    """Of requests of that size, and until it is looked at anew; on a slow link, or where bytes are counted, it is."""
    for saved, saves_min, expected in ((0.2, 0.05, LOOK_EACH), (0.04, 0.05, 0), (0.04, 0.0, LOOK_EACH), (-0.1, 0.0, 0)):
        effort = Effort(saves_min=saves_min)
        assert effort.level(8000, now_s=0) == HARD_LEVEL
        assert effort.is_to_be_compared(8000)
        effort.compared(8000, hard_bytes=round(1000 * (1 - saved)), fast_bytes=1000)
        levels = []
        for _ in range(LOOK_EACH):
            assert not effort.is_to_be_compared(8000)
            levels.append(effort.level(8000, now_s=0))
        assert levels.count(HARD_LEVEL) == expected
        assert effort.is_to_be_compared(8000)
        assert effort.level(8000, now_s=0) == HARD_LEVEL
        # A minute batch is another matter.
        assert effort.level(100_000, now_s=0) == HARD_LEVEL
    slow = Effort()
    slow.compared(8000, hard_bytes=960, fast_bytes=1000)
    slow.sent(8000, 10.0)
    assert slow.level(8000, now_s=0) == HARD_LEVEL


def test_nothing_is_learnt_from_nothing() -> None:
    """Empty probes don't divide by zero, and easy compressing costs no spare time."""
    effort = Effort()
    effort.sent(0, 1.0)
    effort.spent(0, HARD_LEVEL, 1.0)
    effort.spent(100, FAST_LEVEL, 1.0)
    assert effort == Effort()


def test_a_round_takes_from_each_shelf_once() -> None:
    """The second turn of one ends it, and so does whoever finds nothing left."""
    rounds = Rounds(60.0)
    assert rounds.is_over
    assert rounds.left_s(1000.0) == 0
    rounds.begin(1000.0)
    rounds.take(Signal.METRICS, Priority.NORMAL)
    rounds.take(Signal.LOGS, Priority.NORMAL)
    rounds.take(Signal.METRICS, Priority.BULK)
    assert not rounds.is_over
    assert rounds.left_s(1010.0) == 50.0
    assert rounds.left_s(1060.0 - 1e-9) == 0
    rounds.take(Signal.LOGS, Priority.NORMAL)
    assert rounds.is_over
    rounds.begin(1060.0)
    rounds.take(Signal.LOGS, Priority.NORMAL)
    assert not rounds.is_over
    rounds.end()
    assert rounds.is_over


def test_requests_are_made_to_fit_what_is_left() -> None:
    """With some to spare, and not without end: who is small already waits."""
    size = BatchSize(readings_max=20_000, bytes_max=1 << 20)
    assert size.fit(0.5)
    assert size.readings == SPARED * 0.5 * READINGS_START
    for _ in range(10):
        size.fit(0.5)
    assert size.readings == READINGS_MIN
    assert not size.fit(0.5)


def test_a_round_may_begin_when_the_last_began_long_enough_ago() -> None:
    """And whatever comes while one is under way belongs to it."""
    rounds = Rounds(10.0)
    assert rounds.may_begin(0.0)
    rounds.begin(100.0)
    assert rounds.may_begin(101.0)
    rounds.end()
    assert not rounds.may_begin(109.0)
    assert rounds.may_begin(110.0)


def test_a_request_of_another_size_is_no_other_road() -> None:
    """Alerts of two readings between batches of a hundred over a way of two seconds: what those take has a reason."""
    toll = Toll()
    for _ in range(10):
        toll.measured(2, 2.1)
        toll.measured(100, 3.0)
    assert 1.9 <= toll.fixed_s <= 2.2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alerts_each", [4, 1000])
def test_a_slow_line_far_away_keeps_up_with_what_it_could_take(seed: int, alerts_each: int) -> None:
    """9.6 kbit/s, two seconds there and back, one packet in twenty lost: a third of its bytes come in."""
    dice, size = Random(seed), BatchSize(readings_max=50_000, bytes_max=1 << 20)
    now_s, sent, came_each_s, longest_s, requests = 0.0, 0, 45.0, 0.0, 0
    while now_s < 1800:
        requests += 1
        due = max(1, int(came_each_s * now_s) - sent)
        readings = min(due, 2 if requests % alerts_each == 0 else size.readings)
        body = 500 + 8.5 * readings
        lost = sum(dice.random() < 0.05 for _ in range(2 + int(body) // 1448))
        took_s = 2.0 + body / 1200 + lost
        size.measured(readings, 20 * readings)
        size.succeeded(readings, took_s)
        now_s += took_s
        sent += readings
        longest_s = max(longest_s, took_s)
    assert came_each_s * now_s - sent <= 40 * came_each_s
    assert longest_s < 25
