"""Small rounds of the uplinks' measurements, with bounds that a busy machine keeps too."""

from __future__ import annotations

import sys

import pytest

from gateway.bench.roads import decisions, hanging


@pytest.mark.alone
def test_guards_decide_within_microseconds() -> None:
    """A breaker, a wait, the choice among three receivers, what may go over an allowance."""
    figures = list(decisions(True))
    assert len(figures) == 4
    # On a slow machine; and who counts the lines that run makes each some five times as long.
    times = 10 if sys.gettrace() else 2
    assert all(figure.value < times * (figure.floor or 0) for figure in figures), figures


@pytest.mark.alone
@pytest.mark.slow
def test_who_hangs_costs_the_others_next_to_nothing() -> None:
    """Really delivered over real sockets; the exact part is the benchmark's to say, on a machine of its own."""
    at_a_rate, at_full_speed = hanging(True)
    assert at_a_rate.unit == at_full_speed.unit == "% of alone"
    assert at_a_rate.value > 90
    assert at_full_speed.value > 30
