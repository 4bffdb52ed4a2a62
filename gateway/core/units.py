"""Durations and sizes as people write them. Must not read the environment or files itself."""

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
_NUMBER_UNIT: Final = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*")


def _parse(text: str, units: dict[str, Any], what: str, example: str) -> float:
    match = _NUMBER_UNIT.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(
            f'{text!r} is not a {what}; write a number with one of {", ".join(units)}, like "{example}"'
        )
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
        if not isinstance(text, str):
            raise ValueError(f'{text!r} is not a duration; write a string with its unit, like "5s"')  # noqa: TRY004  msgspec reports ValueError with the path
        return cls(_parse(text, DURATION_UNITS, "duration", "5s"))

    def __str__(self) -> str:
        return _as_text(float(self), {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001})

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
        if not isinstance(text, str):
            raise ValueError(f'{text!r} is not a size; write a string with its unit, like "512MiB"')  # noqa: TRY004  msgspec reports ValueError with the path
        return cls(round(_parse(text, SIZE_UNITS, "size", "512MiB")))

    def __str__(self) -> str:
        return _as_text(int(self), {unit: SIZE_UNITS[unit] for unit in ("TiB", "GiB", "MiB", "KiB", "B")})

    def __repr__(self) -> str:
        return f"Size('{self}')"


def _as_text(number: float, units: dict[str, Any]) -> str:
    """Return `number` in the largest unit in which it is whole; what `parse` reads back."""
    for unit, factor in units.items():
        count = round(number / factor)
        if count and math.isclose(count * factor, number, rel_tol=1e-12):
            return f"{count}{unit}"
    unit, factor = next((unit, factor) for unit, factor in units.items() if factor == 1)
    return f"{number:.9f}".rstrip("0").rstrip(".") + unit
