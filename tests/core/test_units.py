"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.units import DURATION_UNITS, SIZE_UNITS, Duration, Rate, Size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5), (" 1.5 h ", 5400), ("10m", 600), ("10min", 600), ("30d", 2_592_000)],
)
def test_durations(text: str, seconds: float) -> None:
    """Each unit, with spaces and fractions."""
    assert Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "size"), [("12B", 12), ("64KB", 64_000), ("1.5KiB", 1536), ("2TiB", 2**41)])
def test_sizes(text: str, size: int) -> None:
    """Decimal and binary units."""
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["5", "s", "", "-5s", "5 weeks", "1e9s", "5S", "9" * 16 + "s", "5s5s", "٣s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    """A number and one of the units, nothing else."""
    with pytest.raises(ValueError, match=r'is not a duration; write a number with one of ms, s, .* like "5s"'):
        Duration.parse(text)


def test_numbers_without_unit_are_refused() -> None:
    """5 of what?"""
    with pytest.raises(ValueError, match="5 is not a duration; write a string with its unit"):
        Duration.parse(5)
    with pytest.raises(ValueError, match="5 is not a size; write a string with its unit"):
        Size.parse(5)
    with pytest.raises(ValueError, match=r'is not a size; write a number with one of B, KB.*like "512MiB"'):
        Size.parse("5mb")


def test_they_are_numbers() -> None:
    """Seconds and bytes; shown as text in the largest unit that is whole."""
    assert Duration(90) + 1 == 91
    assert (repr(Duration(90)), str(Duration(7200)), f"{Duration(0.25)}") == (
        "Duration('90s')",
        "2h",
        "250ms",
    )
    assert (repr(Size(2048)), str(Size(1500)), str(Size(0)), str(Duration(0))) == (
        "Size('2KiB')",
        "1500B",
        "0B",
        "0s",
    )
    assert str(Duration(0.0005)) == "0.0005s"


@given(st.integers(0, 10**6), st.sampled_from(sorted(DURATION_UNITS)))
def test_a_duration_is_read_back_from_its_text(number: int, unit: str) -> None:
    """Whatever it is shown as means the same."""
    duration = Duration.parse(f"{number}{unit}")
    assert Duration.parse(str(duration)) == pytest.approx(float(duration), rel=1e-12)


@given(st.integers(0, 10**6), st.sampled_from(sorted(SIZE_UNITS)))
def test_a_size_is_read_back_from_its_text(number: int, unit: str) -> None:
    """To the byte."""
    size = Size.parse(f"{number}{unit}")
    assert Size.parse(str(size)) == size


@pytest.mark.parametrize(
    ("text", "rate", "shown"),
    [
        ("9600bit/s", 1200, "9.6kbit/s"),
        ("64kbit/s", 8000, "64kbit/s"),
        ("10 Mbit/s", 1_250_000, "10Mbit/s"),
        ("1Gbit/s", 125_000_000, "1Gbit/s"),
        ("300bit/s", 37.5, "300bit/s"),
    ],
)
def test_a_rate_is_bits_as_links_have_them(text: str, rate: float, shown: str) -> None:
    """Held in bytes a second, and shown in the unit in which people think of it."""
    assert Rate.parse(text) == rate
    assert str(Rate(rate)) == shown
    assert repr(Rate(rate)) == f"Rate('{shown}')"
    assert Rate.parse(shown) == rate


@pytest.mark.parametrize("text", ["64kB/s", "64k", "kbit/s", "-1bit/s", 8000])
def test_what_is_no_rate_is_refused_with_what_is(text: object) -> None:
    """Bytes, and numbers of nothing."""
    with pytest.raises(ValueError, match='is not a rate; write a .* like "64kbit/s"'):
        Rate.parse(text)
