"""Checks for the windows of a budget: when they begin and end. What the clock does to them is in test_budget.py."""

from __future__ import annotations

import datetime as dt
import itertools
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.uplinks.budget import COUNT_MAX, Budget, Note
from gateway.uplinks.budget_settings import DAY, HOUR, MONTH
from gateway.uplinks.windows import WINDOWS, Calendar, Moment, Spent


@given(st.sampled_from([HOUR, DAY, MONTH]), st.integers(1_767_225_600, 4_102_444_799), st.integers(1, 28))
def test_windows_follow_each_other_without_a_gap(window: str, wall_s: int, month_begins: int) -> None:
    """Every moment lies in one, and the next one begins where it ends."""
    calendar = Calendar(month_begins)
    start_s = calendar.start_of(window, wall_s)
    end_s = calendar.end_of(window, start_s)
    assert start_s <= wall_s < end_s
    assert calendar.start_of(window, end_s - 1) == start_s
    assert calendar.start_of(window, end_s) == end_s
    if window == MONTH:
        assert dt.datetime.fromtimestamp(start_s, dt.UTC).day == month_begins


@pytest.fixture
def live_in(monkeypatch):
    """Be somewhere; afterwards where this machine is."""
    with monkeypatch.context() as patch:

        def move(zone: str) -> None:
            patch.setenv("TZ", zone)
            time.tzset()

        yield move
    time.tzset()


def utc(*words: int) -> float:
    return dt.datetime(*words, tzinfo=dt.UTC).timestamp()


def test_a_day_of_the_box_is_as_long_as_its_clock_has_it(live_in) -> None:
    """In Berlin it begins at 23:00 of UTC in winter; the one in which summer time ends has 25 hours."""
    live_in("Europe/Berlin")
    local = Calendar(is_local=True)
    assert local.start_of(DAY, utc(2026, 1, 10, 22, 59)) == utc(2026, 1, 9, 23)
    assert local.start_of(DAY, utc(2026, 1, 10, 23)) == utc(2026, 1, 10, 23)
    lengths = [local.end_of(DAY, start_s) - start_s for start_s in (utc(2026, 3, 28, 23), utc(2026, 10, 24, 22))]
    assert lengths == [23 * 3600, 25 * 3600]
    assert local.start_of(MONTH, utc(2026, 10, 31, 22, 59)) == utc(2026, 9, 30, 22)
    assert local.end_of(MONTH, utc(2026, 9, 30, 22)) == utc(2026, 10, 31, 23)
    assert local.start_of(HOUR, utc(2026, 3, 29, 1, 30)) == utc(2026, 3, 29, 1)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Santiago", "Asia/Kolkata", "Pacific/Apia", "Africa/Cairo"])
def test_windows_of_the_box_follow_each_other_without_a_gap(zone: str, live_in) -> None:
    """Also where summer time begins at midnight, which is then left out, or a whole day was."""
    live_in(zone)
    for calendar, window in itertools.product([Calendar(1, True), Calendar(28, True)], [DAY, MONTH]):
        wall_s, stop_s = utc(2011, 12, 1), utc(2012, 12, 1)
        while wall_s < stop_s:
            start_s = calendar.start_of(window, wall_s)
            end_s = calendar.end_of(window, start_s)
            assert start_s <= wall_s < end_s <= start_s + 32 * 86_400
            assert calendar.has(window, start_s)
            assert calendar.has(window, end_s)
            assert calendar.start_of(window, end_s - 1) == start_s
            wall_s += 3 * 3600


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York"])
def test_who_has_windows_of_the_box_from_now_on_has_no_new_one(zone: str, live_in) -> None:
    """Nor who has those of UTC again: until such a day is over for certain, what went in it stays spent."""
    live_in(zone)
    wall_s, note = utc(2026, 1, 10, 20), b""
    for calendar in (Calendar(), Calendar(is_local=True), Calendar()):
        moment = Moment("boot", wall_s, wall_s, True)
        budget = Budget({DAY: 1_000_000}, now=lambda moment=moment: moment, note=note, calendar=calendar)
        if not note:
            budget.plan()
            budget.written()
            budget.take(30_000)
        note = budget.plan(is_last=True)
        assert budget.told()["per_day"]["spent_bytes"] == 30_000
        wall_s += 3600


def test_a_note_of_all_windows_fits_where_it_stands() -> None:
    """The store keeps 256 bytes for it, whatever the numbers are."""
    most = [Spent(window, 1 << 33, COUNT_MAX, 1 << 33, 1 << 33, COUNT_MAX) for window in WINDOWS]
    note = Note(COUNT_MAX, most, Moment("0" * 36, 1e9, 1e9, True), COUNT_MAX)
    assert len(msgspec.msgpack.encode(note)) <= 256


def test_a_note_of_an_older_gateway_is_read() -> None:
    """It had no word of what was left or doubted, and of windows without an allowance none at all."""
    note = msgspec.msgpack.encode([0, [["day", int(utc(2026, 1, 10)), 5000, 0]], None, 0])
    moment = Moment("boot", 1.0, utc(2026, 1, 10, 12), True)
    told = Budget({DAY: 1_000_000, MONTH: 1_000_000}, now=lambda: moment, note=note).told()
    assert [told[name]["spent_bytes"] for name in ("per_day", "per_month")] == [5000, 0]
