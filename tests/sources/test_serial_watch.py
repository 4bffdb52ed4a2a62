"""What a line's bytes say about its wiring."""

from __future__ import annotations

import pytest

from gateway.sources.serial_settings import SerialSettings
from gateway.sources.serial_watch import COUNTED_MAX, NOISE_MIN, NOISE_SHARE, SILENT_S, LineWatch


def watch(framing: str = "cobs") -> LineWatch:
    return LineWatch(SerialSettings(name="line1", port="/dev/ttyS9", framing=framing), now_s=100.0)


def test_a_silent_line_is_said_after_a_minute() -> None:
    """What a person should look at, in the order of how often it is that."""
    line = watch()
    assert line.advice(100.0 + SILENT_S - 1) == ""
    assert "is the device on, are TX and RX crossed" in line.advice(100.0 + SILENT_S)
    line.heard(1)
    assert line.advice(100.0 + SILENT_S) == ""


@pytest.mark.parametrize("framing", ["cobs", "lines"])
def test_noise_is_probably_the_baud_rate(framing: str) -> None:
    """With the settings to compare with; a few damaged ones among many are nothing."""
    line = watch(framing)
    line.heard(100_000)
    line.cut(damaged=NOISE_MIN - 1)
    assert line.advice(100.0) == ""
    line.cut(damaged=1)
    assert "115200 baud, parity none, 1 stop bit, and" in line.advice(100.0)
    line.cut(whole=NOISE_MIN // NOISE_SHARE - 1)
    assert "115200 baud" in line.advice(100.0)
    line.cut(whole=1)
    assert line.advice(100.0) == ""


def test_what_was_good_for_long_does_not_hide_what_is_bad_now() -> None:
    """A cable that broke after a month."""
    line = watch()
    line.cut(whole=10**9)
    for _ in range(COUNTED_MAX):
        line.cut(damaged=50)
    assert "damaged" in line.advice(100.0)


@pytest.mark.parametrize(("framing", "other"), [("cobs", "lines"), ("lines", "cobs")])
def test_bytes_without_an_end_are_probably_the_other_framing(framing: str, other: str) -> None:
    """Text on a line that should carry frames, or the other way round."""
    line = watch(framing)
    line.heard(3 * 4096)
    line.cut(damaged=1)
    assert line.advice(100.0) == ""
    line.heard(2 * 4096)
    assert f'framing = "{other}" meant' in line.advice(100.0)
