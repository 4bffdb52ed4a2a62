"""Small rounds of the parts' measurements, with bounds that a busy machine keeps too."""

from __future__ import annotations

import pytest

from gateway.bench.micro import encode, on_the_wire, shelf
from gateway.bench.report import Figure


@pytest.mark.alone
def test_encoding_ten_thousand_readings_takes_under_a_millisecond() -> None:
    """P99 of the thread's own time, in ten series, a thousand, ten thousand."""
    figures = [figure for figure in encode(True) if isinstance(figure, Figure)]
    assert len(figures) == 3
    assert all(figure.meets(figure.floor) for figure in figures), figures


def test_minute_batches_stay_under_their_bytes() -> None:
    """Whole seconds under 2 bytes, own milliseconds under 2.7; a request a timestamp takes several times that."""
    figures = [figure for figure in on_the_wire(True) if isinstance(figure, Figure)]
    seconds, own, jittered = (figure for figure in figures if figure.unit == "bytes")
    assert seconds.value < 2
    assert own.value < 2.7
    assert jittered.value < 2.7
    # Against the best that others do with attributes on each point.
    shares = [figure for figure in figures if figure.unit == "%"]
    assert len(shares) == 3
    assert all(figure.meets(figure.floor) for figure in shares), shares


def test_a_decimal_reading_takes_about_a_byte_on_the_shelf() -> None:
    """All shapes under 8 bytes, a walk in steps of 0.01 under 1.2."""
    figures = {figure.name: figure.value for figure in shelf(True) if isinstance(figure, Figure)}
    assert max(figures.values()) < 8.5
    assert [value for name, value in figures.items() if "1 Hz" in name and value < 1.2]
