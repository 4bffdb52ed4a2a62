"""Checks for how much is read at a time."""

from __future__ import annotations

from gateway.sources.portion import PORTION_BYTES_MIN, TAKE_S_MAX, Portion

MOST = 1 << 17


def test_what_takes_long_is_read_in_smaller_portions() -> None:
    """Until it goes quickly again; small ones prove nothing."""
    portion = Portion(MOST)
    assert not portion.is_small
    for took_s, size, wanted in (
        (0.0, MOST, MOST),
        (4 * TAKE_S_MAX, 100_000, 25_000),
        (2 * TAKE_S_MAX, 100_000, 25_000),
        (0.0, 12_000, 25_000),
        (0.0, 25_000, 50_000),
        (1e6, 50_000, PORTION_BYTES_MIN),
        *((0.0, 1 << 20, min(PORTION_BYTES_MIN << doublings, MOST)) for doublings in range(1, 8)),
    ):
        portion.took(size, took_s)
        assert portion.size_bytes == wanted
        assert portion.is_small == (wanted < MOST)
