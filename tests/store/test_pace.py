"""Checks for when a commit is due."""

from __future__ import annotations

import pytest

from gateway.store.pace import Pace, early_gap_s


def test_who_waits_for_nobody_waits_for_the_gap_alone() -> None:
    """Counted from the beginning of the last commit."""
    pace = Pace(1.0)
    assert pace.wait_s(100.0, is_last=True) == 0
    pace.began(100.0)
    assert pace.wait_s(100.01, is_last=True) == pytest.approx(0.015)
    assert pace.wait_s(100.01) == 1.0
    assert pace.wait_s(200.0, is_last=True) == 0


@pytest.mark.parametrize(("interval_s", "gap_s"), [(0.0, 0.0), (0.05, 0.005), (0.25, 0.025), (1.0, 0.025), (60, 1.5)])
def test_early_commits_have_a_distance_that_goes_with_the_interval(interval_s: float, gap_s: float) -> None:
    """Forty a second with the boards' own; who wants few commits has few of these too."""
    assert early_gap_s(interval_s) == pytest.approx(gap_s)
    assert Pace(interval_s).gap_s == pytest.approx(gap_s)


@pytest.mark.parametrize(("interval_s", "wait_s"), [(0.01, 0.01), (1.0, 0.05), (2.0, 0.05), (60.0, 1.5)])
def test_a_full_segment_waits_for_no_interval(interval_s: float, wait_s: float) -> None:
    """Twenty a second under a flood, whatever the interval, unless the card has no more to give."""
    pace = Pace(interval_s)
    pace.began(10.0)
    assert pace.wait_s(10.0, is_full=True) == pytest.approx(wait_s)
    assert pace.wait_s(12.0, is_full=True) == 0
    pace.gap_s = 5.0
    assert pace.wait_s(10.0, is_full=True) == pytest.approx(5.0)
    assert pace.wait_s(10.0, is_last=True) == pytest.approx(5.0)


def test_both_waits_can_be_changed() -> None:
    """From one arrival to the next."""
    pace = Pace(1.0)
    pace.began(10.0)
    pace.interval_s, pace.gap_s = 5.0, 4.0
    assert (pace.wait_s(11.0), pace.wait_s(11.0, is_last=True)) == (5.0, 3.0)
