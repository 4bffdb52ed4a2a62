"""Numbers for people: sizes, time spans, and how many of what."""

from __future__ import annotations

from gateway.core.units import SIZE_UNITS

_SPANS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def amount(size_bytes: float) -> str:
    """Return a size.

    >>> amount(512 << 20), amount(12_000), amount(0)
    ('512 MiB', '11.72 KiB', '0 B')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes >= SIZE_UNITS[unit]:
            return f"{size_bytes / SIZE_UNITS[unit]:.4g} {unit}"
    return f"{size_bytes:.0f} B"


def span(seconds: float) -> str:
    """Return a time span.

    >>> span(90), span(200000), span(86400), span(float("inf"))
    ('1.5 min', '2.31 days', '1 day', 'for ever')
    """
    if seconds == float("inf"):
        return "for ever"
    for size_s, unit in _SPANS:
        if seconds >= size_s:
            count = f"{seconds / size_s:.3g}" if seconds < 1000 * size_s else f"{seconds / size_s:.0f}"
            return f"{count} {unit}" if (count, unit) != ("1", "days") else "1 day"
    return f"{seconds:.3g} s"


def plural(number: int, noun: str) -> str:
    """Return how many of what.

    >>> plural(1, "source"), plural(12_000, "reading")
    ('1 source', '12,000 readings')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
