"""Checks for the windows of a budget: when they begin and end. What the clock does to them is in test_budget.py."""

from __future__ import annotations

import datetime as dt

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.uplinks.budget import COUNT_MAX, Note
from gateway.uplinks.settings import DAY, HOUR, MONTH
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


def test_a_note_of_all_windows_fits_where_it_stands() -> None:
    """The store keeps 256 bytes for it, whatever the numbers are."""
    most = [Spent(window, 1 << 33, COUNT_MAX, 1 << 33, 1 << 33, COUNT_MAX) for window in WINDOWS]
    note = Note(COUNT_MAX, most, Moment("0" * 36, 1e9, 1e9, True), COUNT_MAX)
    assert len(msgspec.msgpack.encode(note)) <= 256
