"""Devices' own times, and arrival where they are not sane."""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.device_time import (
    AGE_NS_MAX,
    REJECTED,
    TICKS_PERIOD,
    Moment,
    Times,
    at_arrival,
    list_times,
    read_iso8601,
    read_times,
    step_times,
    tick_times,
    to_ns,
)
from gateway.codecs.mapping_settings import UNIT_NS, read_zone
from gateway.codecs.paths import ABSENT
from gateway.core.batch import MONOTONIC
from gateway.core.contracts import MalformedError

ARRIVED = 5_000 * 10**9
NOW_S = 1_790_000_000
MOMENT = Moment(ARRIVED, 946_684_800 * 10**9, (NOW_S + 86_400) * 10**9)
ODD = st.one_of(
    st.none(),
    st.just(ABSENT),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(946_684_000, NOW_S + 90_000),
    st.floats(),
    st.floats(9e8, 2e9),
    st.sampled_from(["2023-11-14T22:13:20Z", "1700000000", "never", [], {}]),
)


def pairs(times: Times) -> list[tuple[int, int]]:
    """Return (ns, flags) of each time."""
    flags = np.broadcast_to(np.asarray(times.flags), len(times.ns))
    assert times.ns.dtype == np.int64
    return list(zip(times.ns.tolist(), flags.tolist(), strict=True))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_sane_time_is_kept_to_the_nanosecond(unit: Any) -> None:
    """In every unit, as integers."""
    scale = 10**9 // UNIT_NS[unit]
    values = [NOW_S * scale, NOW_S * scale - 1]
    assert pairs(read_times(values, unit=unit, moment=MOMENT)) == [(value * UNIT_NS[unit], 0) for value in values]


def test_seconds_with_a_fraction_are_kept_to_the_microsecond() -> None:
    """A double of seconds knows no more."""
    assert pairs(read_times([1700000000.123456, 1.0e9], unit="s", moment=MOMENT)) == [
        (1700000000123456000, 0),
        (10**18, 0),
    ]


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (None, MONOTONIC),
        (ABSENT, MONOTONIC),
        (1234, REJECTED),
        (NOW_S + 86_401, REJECTED),
        (2**80, REJECTED),
        (math.nan, REJECTED),
        (math.inf, REJECTED),
        (True, REJECTED),
        ("never", REJECTED),
        ([], REJECTED),
        ("1700000000", 0),
        (1700000000, 0),
        (NOW_S + 86_400, 0),
    ],
)
def test_a_time_that_is_not_sane_gives_way_to_arrival(value: Any, flags: int) -> None:
    """Missing is one thing, not believed another; alone or beside sane ones."""
    for values in ([value], [value, NOW_S]):
        ns, found = pairs(read_times(values, unit="s", moment=MOMENT))[0]
        assert found == flags
        assert ns == ARRIVED if flags else ns == int(value) * 10**9


@given(st.lists(ODD, min_size=1, max_size=10), st.sampled_from(["s", "ms", "us", "ns", "iso8601"]))
def test_many_times_are_read_as_each_alone(values: list[Any], unit: Any) -> None:
    """What stands beside a time changes nothing."""
    together = pairs(read_times(values, unit=unit, moment=MOMENT))
    assert together == [pairs(read_times([value], unit=unit, moment=MOMENT))[0] for value in values]


def test_times_that_count_from_a_devices_start_keep_their_spacing_in_a_payload() -> None:
    """The newest arrived now, the others that much earlier; other payloads have their own newest."""
    owners = np.array([0, 0, 1, 1, 1])
    times = read_times([1000, 4000, 70, NOW_S * 1000, None], unit="ms", moment=MOMENT, owners=owners)
    assert pairs(times) == [
        (ARRIVED - 3 * 10**9, REJECTED),
        (ARRIVED, REJECTED),
        (ARRIVED, REJECTED),
        (NOW_S * 10**9, 0),
        (ARRIVED, MONOTONIC),
    ]


def test_a_spacing_of_years_is_not_believed() -> None:
    """Then all of them have just arrived."""
    times = list_times([0, 2 * AGE_NS_MAX], unit="ns", moment=MOMENT)
    assert pairs(times) == [(ARRIVED, REJECTED)] * 2


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_least_integer_is_no_time(unit: Any) -> None:
    """Its magnitude is itself, so a bound of magnitudes lets it through: its reading was in the year 1970, or ahead."""
    times = list_times([-(2**63), 5, 7], unit=unit, moment=MOMENT)
    assert pairs(times) == [(ARRIVED, REJECTED), (ARRIVED - 2 * UNIT_NS[unit], REJECTED), (ARRIVED, REJECTED)]


def test_times_may_come_as_an_array() -> None:
    """One for each value."""
    assert pairs(list_times(np.array([NOW_S, NOW_S - 1]), unit="s", moment=MOMENT)) == [
        (NOW_S * 10**9, 0),
        ((NOW_S - 1) * 10**9, 0),
    ]
    assert pairs(list_times([], unit="s", moment=MOMENT)) == []


# Text


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2023-11-14T22:13:20Z", 1700000000 * 10**9),
        ("2023-11-14 22:13:20", 1700000000 * 10**9),
        ("2023-11-15T00:13:20+02:00", 1700000000 * 10**9),
        ("2023-11-14T22:13:20.123456789Z", 1700000000123456789),
        ("2023-11-14T22:13:20.1234567Z", 1700000000123456700),
        ("1960-01-01", -315619200 * 10**9),
        ("yesterday", None),
        ("2023-11-14T22:13:20Z" + " " * 30, None),
        ("2023-13-01", None),
    ],
)
def test_iso_8601_is_read_to_the_nanosecond(text: str, ns: int | None) -> None:
    """UTC where no zone is named."""
    assert read_iso8601(text) == ns


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-11-28T06:00:00", "2026-11-28T05:00:00Z"),
        ("2026-07-01T06:00:00", "2026-07-01T04:00:00Z"),
        ("2026-07-01T06:00:00Z", "2026-07-01T06:00:00Z"),
        ("2026-07-01T06:00:00-03:00", "2026-07-01T09:00:00Z"),
        ("2026-10-25T02:30:00", "2026-10-25T00:30:00Z"),  # comes twice
        ("2026-07-01", "2026-06-30T22:00:00Z"),
        ("0001-01-01", None),
    ],
)
@pytest.mark.parametrize("name", ["Europe/Berlin", "local"])
def test_a_text_without_a_zone_is_of_the_zone_that_is_set(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, utc: str | None
) -> None:
    """A Tasmota says its local time and not where it is: taken for UTC, every reading is hours off."""
    if name == "local":
        monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
    try:
        found = read_iso8601(text, read_zone(name))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == (None if utc is None else read_iso8601(utc))


@given(st.datetimes(min_value=dt.datetime(1970, 1, 1), timezones=st.just(dt.UTC)))  # noqa: DTZ001  Hypothesis wants it so
def test_iso_8601_agrees_with_the_library(moment: dt.datetime) -> None:
    """To the microsecond."""
    found = read_iso8601(moment.isoformat())
    assert found is not None
    assert found // 1000 == (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def test_a_number_is_no_iso_8601() -> None:
    """The unit says what to expect."""
    assert to_ns(1700000000, "iso8601") is None


# Steps


def steps(start: Any, step: Any, count: int, unit: Any = "ms") -> list[tuple[int, int]]:
    """Return the times of an array's values."""
    return pairs(step_times(start, step, count, unit=unit, moment=MOMENT))


def test_values_follow_each_other_in_steps() -> None:
    """From the start, exactly; a fraction does not add up."""
    start = 1_700_000_000_000
    assert steps(start, 5, 3) == [(start * 10**6 + k * 5 * 10**6, 0) for k in range(3)]
    thirds = steps(start, 1 / 3, 4)
    assert [ns - start * 10**6 for ns, _ in thirds] == [0, 333333, 666667, 10**6]
    assert steps(float(start), -5, 2) == [(start * 10**6, 0), (start * 10**6 - 5 * 10**6, 0)]
    assert steps("1700000000000", 5, 1) == [(start * 10**6, 0)]
    assert steps(start, 0, 3) == [(start * 10**6, 0)] * 3
    assert steps(None, 0, 2) == [(ARRIVED, MONOTONIC)] * 2


@pytest.mark.parametrize("start", [0, 12_345, True, "x", 2**80, (NOW_S + 90_000) * 1000, NOW_S * 1000 + 86_399_995])
def test_a_start_that_is_not_sane_keeps_the_spacing(start: Any) -> None:
    """The last value has just arrived."""
    assert steps(start, 5, 3) == [(ARRIVED - (2 - k) * 5 * 10**6, REJECTED) for k in range(3)]


def test_without_a_start_the_last_value_has_just_arrived() -> None:
    """And nothing was rejected."""
    assert steps(None, 5, 2) == [(ARRIVED - 5 * 10**6, MONOTONIC), (ARRIVED, MONOTONIC)]
    assert steps(ABSENT, -5, 2) == [(ARRIVED, MONOTONIC), (ARRIVED - 5 * 10**6, MONOTONIC)]
    assert steps(None, 5, 0) == []
    assert steps(None, 10**12, 2) == [(ARRIVED, MONOTONIC)] * 2, "a span of ages is not believed"


@pytest.mark.parametrize("step", [None, ABSENT, "5", True, math.nan, math.inf, 2**70, []])
def test_several_values_need_a_step(step: Any) -> None:
    """One value needs none."""
    with pytest.raises(MalformedError, match="the time between values is") as caught:
        steps(1_700_000_000_000, step, 2)
    assert caught.value.reason == "bad_step"
    assert steps(1_700_000_000_000, step, 1) == [(1_700_000_000_000 * 10**6, 0)]


@given(
    st.integers(), st.one_of(st.integers(), st.floats()), st.integers(0, 50), st.sampled_from(["s", "ms", "us", "ns"])
)
def test_any_start_and_step_give_a_time_or_a_reason(start: int, step: Any, count: int, unit: Any) -> None:
    """Nothing overflows."""
    try:
        found = steps(start, step, count, unit)
    except MalformedError:
        return
    assert len(found) == count
    for ns, flags in found:
        assert MOMENT.floor_ns <= ns <= MOMENT.ceiling_ns if not flags else ARRIVED - AGE_NS_MAX <= ns <= ARRIVED


# Ticks


def ticks(taken: list[Any], now: Any, unit: Any = "ms") -> list[tuple[int, int]]:
    """Return arrival minus time, and flags."""
    times = tick_times(taken, [now] * len(taken), unit=unit, moment=MOMENT)
    return [(ARRIVED - ns, flags) for ns, flags in pairs(times)]


def test_ticks_are_ages() -> None:
    """now - ticks before arrival, over the wrap at 2^30 too."""
    assert ticks([900, 1000], 1000) == [(100 * 10**6, MONOTONIC), (0, MONOTONIC)]
    assert ticks([TICKS_PERIOD - 10], 5) == [(15 * 10**6, MONOTONIC)]
    assert ticks([2**31], 2**31 + 7) == [(7 * 10**6, MONOTONIC)], "a clock that does not wrap there"
    assert ticks([900.5], 1000) == [(100 * 10**6, MONOTONIC)]


def test_a_tick_just_ahead_of_now_is_now() -> None:
    """It was taken while the message was being written."""
    assert ticks([1005], 1000) == [(0, MONOTONIC)]
    assert ticks([TICKS_PERIOD + 5], TICKS_PERIOD) == [(0, MONOTONIC)]
    assert ticks([100], 90, unit="ns") == [(0, MONOTONIC)]
    assert ticks([90], 100, unit="ns") == [(10, MONOTONIC)]


@pytest.mark.parametrize(
    ("taken", "now"),
    [(1, None), (1, "x"), (1, True), (-1, 5), ("x", 5), (math.nan, 5), (2**70, 5), (2**40, 5), (5, 2**50), (1, ABSENT)],
)
def test_ticks_that_say_nothing_are_rejected(taken: Any, now: Any) -> None:
    """Arrival stands in."""
    assert ticks([taken], now) == [(0, REJECTED)]
    assert ticks([taken, 2**80, 1], now)[0] == (0, REJECTED)


def test_no_ticks_are_no_time() -> None:
    """Missing is not rejected."""
    assert ticks([None, ABSENT], 5) == [(0, MONOTONIC)] * 2


@given(st.lists(ODD, max_size=5), ODD, st.sampled_from(["s", "ms", "us", "ns"]))
def test_any_ticks_give_a_time_not_after_arrival(taken: list[Any], now: Any, unit: Any) -> None:
    """Nothing overflows."""
    for age, flags in ticks(taken, now, unit):
        assert 0 <= age <= AGE_NS_MAX
        assert flags in {MONOTONIC, REJECTED}


def test_arrival_is_the_boots_clock() -> None:
    """For as many as are asked."""
    assert pairs(at_arrival(2, MOMENT)) == [(ARRIVED, MONOTONIC)] * 2
    assert pairs(at_arrival(2, MOMENT).take(np.array([True, False]))) == [(ARRIVED, MONOTONIC)]
    assert pairs(Times(np.array([1, 2]), np.array([4, 12], np.uint8)).take(np.array([1]))) == [(2, 12)]
