"""What `tidegate bench` runs."""

from __future__ import annotations

from gateway.bench.suite import SUITE


def test_names_differ_and_say_what_they_are() -> None:
    """`--only` picks by name."""
    assert len({item.name for item in SUITE}) == len(SUITE)
    assert all(item.about for item in SUITE)
