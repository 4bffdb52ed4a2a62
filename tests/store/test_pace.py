"""Checks for when a commit is due."""

from __future__ import annotations

import pytest

from gateway.store.pace import Pace


def test_who_waits_for_nobody_waits_for_the_gap_alone() -> None:
    """Counted from the beginning of the last commit."""
    pace = Pace(1.0)
    assert pace.wait_s(100.0, is_last=True) == 0
    pace.began(100.0)
    assert pace.wait_s(100.04, is_last=True) == pytest.approx(0.06)
    assert pace.wait_s(100.04, is_last=False) == 1.0
    assert pace.wait_s(200.0, is_last=True) == 0


def test_both_waits_can_be_changed() -> None:
    """From one arrival to the next."""
    pace = Pace(1.0)
    pace.began(10.0)
    pace.interval_s, pace.gap_s = 5.0, 4.0
    assert (pace.wait_s(11.0, is_last=False), pace.wait_s(11.0, is_last=True)) == (5.0, 3.0)
