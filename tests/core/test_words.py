"""What people read has the units that they use."""

from __future__ import annotations

from gateway.core.words import amount, plural, span


def test_spans_and_amounts() -> None:
    """Units that people use."""
    assert [span(s) for s in (5, 120, 7200, 86400 * 30, 86400 * 36500)] == [
        "5 s",
        "2 min",
        "2 h",
        "30 days",
        "36500 days",
    ]
    assert [amount(b) for b in (12, 2048, 3 * 2**30)] == ["12 B", "2 KiB", "3 GiB"]
    assert [plural(count, "day") for count in (0, 1, 2000)] == ["0 days", "1 day", "2,000 days"]
