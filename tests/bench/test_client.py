"""A short round of a client's measurement, in a process of its own with a real receiver."""

from __future__ import annotations

import pytest

from gateway.bench.client import calls


@pytest.mark.slow
def test_it_is_all_measured_and_all_delivered() -> None:
    """What was sent singly arrived; the figures are the benchmark's to judge."""
    figures = list(calls(True))
    assert [figure.unit for figure in figures] == ["µs", "µs", "M/s", "MB"]
    assert all(figure.value > 0 for figure in figures), figures
    assert figures[0].value < 100
    assert figures[3].value < 150
