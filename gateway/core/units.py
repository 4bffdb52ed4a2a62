"""Durations, sizes and rates as people write them. Must not read the environment or files itself."""

from __future__ import annotations

import math
import re
from typing import Any, Final

DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_UNITS: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
RATE_UNITS: Final = {"bit/s": 0.125, "kbit/s": 125.0, "Mbit/s": 125_000.0, "Gbit/s": 125_000_000.0}
_NUMBER_UNIT: Final = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*(?:/s)?)\s*")


def _parse(text: object, units: dict[str, Any], what: str, example: str) -> float:
    if not isinstance(text, str):
        raise ValueError(f'{text!r} is not a {what}; write a string with its unit, like "{example}"')  # noqa: TRY004  msgspec reports ValueError with the path
    match = _NUMBER_UNIT.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(f'{text!r} is not a {what}; write a number with one of {", ".join(units)}, like "{example}"')
    return float(match[1]) * float(units[match[2]])


class Duration(float):
    """Seconds, written as "250ms", "5s", "10m", "2h" or "30d".

    >>> Duration.parse("250ms")
    Duration('250ms')
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Read `text`; raise ValueError that says what would be right."""
        return cls(_parse(text, DURATION_UNITS, "duration", "5s"))

    def __str__(self) -> str:
        seconds = float(self)
        for unit in ("d", "h", "m", "s", "ms"):
            count = round(seconds / DURATION_UNITS[unit])
            if count and math.isclose(count * DURATION_UNITS[unit], seconds, rel_tol=1e-12):
                return f"{count}{unit}"
        return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"

    def __repr__(self) -> str:
        return f"Duration('{self}')"


class Size(int):
    """Bytes, written as "512MiB" or "64KB".

    >>> Size.parse("2KiB")
    Size('2KiB')
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Size:
        """Read `text`; raise ValueError that says what would be right."""
        return cls(round(_parse(text, SIZE_UNITS, "size", "512MiB")))

    def __str__(self) -> str:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            count, rest = divmod(int(self), SIZE_UNITS[unit])
            if count and not rest:
                return f"{count}{unit}"
        return f"{int(self)}B"

    def __repr__(self) -> str:
        return f"Size('{self}')"


class Rate(float):
    """Bytes per second, written in bits as links are: "9.6kbit/s" or "10Mbit/s".

    >>> Rate.parse("64kbit/s") / 1000
    8.0
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Rate:
        """Read `text`; raise ValueError that says what would be right."""
        return cls(_parse(text, RATE_UNITS, "rate", "64kbit/s"))

    def __str__(self) -> str:
        unit = next((unit for unit in ("Gbit/s", "Mbit/s", "kbit/s") if self >= RATE_UNITS[unit]), "bit/s")
        return f"{self / RATE_UNITS[unit]:.9g}{unit}"

    def __repr__(self) -> str:
        return f"Rate('{self}')"
