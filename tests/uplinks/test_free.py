"""Hours of a day are free where the clock is right, in UTC or in the box's time zone, over midnight too."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.uplinks.free import DAY_S, FreeHours, Hours, read_hours

# A midnight of UTC in winter.
MIDNIGHT = 1_767_225_600


def at(hour: float) -> float:
    return MIDNIGHT + 3600 * hour


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("22:00-06:00", Hours(79_200, 21_600)),
        (" 1:30-2:00 UTC", Hours(5400, 7200)),
        ("00:00-24:00", Hours(0, 0)),
        ("18:00-24:00", Hours(64_800, 0)),
        ("22:00-06:00 local", Hours(79_200, 21_600, is_local=True)),
    ],
)
def test_hours_are_read_as_people_write_them(text, hours) -> None:
    """UTC where nothing else is said, as all windows of a budget are."""
    assert read_hours(text) == hours


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("night", 'write "22:00-06:00"'),
        ("22-6", 'write "22:00-06:00"'),
        ("22:00-06:00 CET", 'write "22:00-06:00"'),
        ("22:00-24:01", "from 00:00 to 24:00"),
        ("22:60-23:00", "from 00:00 to 24:00"),
        ("06:00-06:00", "begin when they end"),
    ],
)
def test_what_are_no_hours_is_said(text, says) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match=says):
        read_hours(text)


def test_over_midnight_they_last_into_the_next_day() -> None:
    """Each day anew; the end is not in it."""
    night = read_hours("22:00-06:00")
    assert [night.left_s(at(hour)) / 3600 for hour in (21.5, 22, 23, 0, 5.5, 6, 12, 22 + 48)] == [
        0,
        8,
        7,
        6,
        0.5,
        0,
        0,
        8,
    ]
    assert [night.begin_in_s(at(hour)) / 3600 for hour in (21.5, 22, 0, 12)] == [0.5, 0, 22, 10]
    assert read_hours("00:00-24:00").left_s(at(7)) > 0


def test_of_several_the_one_that_lasts_longest_counts() -> None:
    """And the one that begins first."""
    free = FreeHours((read_hours("01:00-03:00"), read_hours("02:00-05:00"), read_hours("12:00-13:00")))
    assert free.left_s(at(2.5), is_sure=True) == 2.5 * 3600
    assert free.begin_in_s(at(6), is_sure=True) == 6 * 3600


def test_nobody_knows_without_a_clock_that_is_right() -> None:
    """Then nothing is free, whatever it says."""
    free = FreeHours((read_hours("00:00-24:00"),))
    assert free.left_s(at(2), is_sure=True) > 0
    assert (free.left_s(at(2), is_sure=False), free.left_s(None, is_sure=True)) == (0, 0)
    assert (free.begin_in_s(at(2), is_sure=False), free.begin_in_s(None, is_sure=True)) == (None, None)
    assert FreeHours().begin_in_s(at(2), is_sure=True) is None


@pytest.fixture
def in_berlin(monkeypatch):
    """Be there; afterwards where this machine is."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def test_local_hours_follow_the_box(in_berlin) -> None:
    """In winter an hour, in summer two before UTC: the tariff does the same."""
    night = read_hours("22:00-06:00 local")
    summer = dt.datetime(2026, 7, 1, tzinfo=dt.UTC).timestamp()
    assert [night.left_s(at(hour)) > 0 for hour in (20.5, 21, 4.5, 5)] == [False, True, True, False]
    assert [night.left_s(summer + 3600 * hour) > 0 for hour in (19.5, 20, 3.5, 4)] == [False, True, True, False]
    # At two in the night of 29 March 2026 it is three.
    jump = dt.datetime(2026, 3, 29, tzinfo=dt.UTC).timestamp()
    assert [read_hours("02:00-03:00 local").left_s(jump + 60 * k) for k in range(180)] == [0] * 180


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 3 * DAY_S))
def test_each_moment_is_in_or_out(begin: int, end: int, second: int) -> None:
    """As the hands of a clock have it; free or not, it says how long that lasts."""
    hours = Hours(60 * begin, 60 * end)
    of_day = second % DAY_S
    is_in = begin * 60 <= of_day < end * 60 if begin < end else of_day >= begin * 60 or of_day < end * 60
    left_s = hours.left_s(float(second))
    assert (left_s > 0) == is_in
    if is_in:
        assert hours.left_s(second + left_s - 1) > 0
        assert hours.left_s(second + left_s) == 0 or begin == end
    assert hours.left_s(second + hours.begin_in_s(float(second))) > 0
