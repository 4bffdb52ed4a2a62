"""The measurement of OTLP in and out runs, and holds its own account: accepted is what the receiver counted."""

from __future__ import annotations

import pytest

from gateway.bench.otlp import through
from gateway.bench.report import Figure


@pytest.mark.slow
def test_records_and_spans_are_measured_and_all_arrive() -> None:
    """A few microseconds each, on any machine."""
    figures = {figure.name: figure for figure in through(True) if isinstance(figure, Figure)}
    assert len(figures) == 6
    for noun in ("log records", "spans"):
        assert 0 < figures[f"CPU for each of the {noun}"].value < 50
        assert 20 < figures[f"RSS under {noun}"].value < 200
