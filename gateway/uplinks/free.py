"""Free hours: when of a day what goes over a link costs nothing, as a tariff has it at night. Does no I/O.

They are hours of UTC, as the windows of a budget are, or of the box's time zone where they say so. Only a clock behind
which a time server stands makes an hour free: one that is astray must not.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY_S: Final = 86_400
_HOURS: Final = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})( local| UTC)?")


@dataclass(frozen=True, slots=True)
class Hours:
    """From one moment of each day up to another, in seconds after midnight; over midnight where that is before it."""

    begin_s: int
    end_s: int
    is_local: bool = False

    def left_s(self, wall_s: float) -> float:
        """Return how long they still last at a Unix time; 0: it is none of them.

        >>> read_hours("22:00-06:00").left_s(5 * 3600), read_hours("22:00-06:00").left_s(6 * 3600)
        (3600, 0.0)
        """
        into_s = (self._of_day(wall_s) - self.begin_s) % DAY_S
        return max(0.0, self._lasts_s - into_s)

    def begin_in_s(self, wall_s: float) -> float:
        """Return how long it takes until they begin."""
        return (self.begin_s - self._of_day(wall_s)) % DAY_S

    @property
    def _lasts_s(self) -> int:
        return (self.end_s - self.begin_s) % DAY_S or DAY_S

    def _of_day(self, wall_s: float) -> float:
        if self.is_local:
            offset = dt.datetime.fromtimestamp(wall_s, dt.UTC).astimezone().utcoffset()
            wall_s += 0 if offset is None else offset.total_seconds()
        return wall_s % DAY_S


def read_hours(text: str) -> Hours:
    """Read hours as people write them; raise ValueError.

    >>> read_hours("22:00-06:30 local")
    Hours(begin_s=79200, end_s=23400, is_local=True)
    """
    found = _HOURS.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f'"{text}" are no hours; write "22:00-06:00", or "22:00-06:00 local" for this box\'s time zone'
        )
    *numbers, zone = found.groups()
    hours = list(map(int, numbers))
    ends = [3600 * hour + 60 * minute for hour, minute in zip(hours[::2], hours[1::2], strict=True)]
    if max(ends) > DAY_S or max(hours[1::2]) > 59:
        raise ValueError(f'"{text}": a day has hours from 00:00 to 24:00')
    if ends[0] == ends[1]:
        raise ValueError(f'"{text}" begin when they end; a whole day is 00:00-24:00, and a road without allowances')
    return Hours(ends[0] % DAY_S, ends[1] % DAY_S, zone == " local")


@dataclass(frozen=True, slots=True)
class FreeHours:
    """All of them that a budget has."""

    hours: Sequence[Hours] = ()

    def left_s(self, wall_s: float | None, *, is_sure: bool) -> float:
        """Return for how long it is free, 0 where it is not, or nobody knows."""
        if wall_s is None or not is_sure:
            return 0.0
        return max((one.left_s(wall_s) for one in self.hours), default=0.0)

    def begin_in_s(self, wall_s: float | None, *, is_sure: bool) -> float | None:
        """Return how long it takes until it is free again, None where that is never, or nobody knows."""
        if wall_s is None or not is_sure:
            return None
        return min((one.begin_in_s(wall_s) for one in self.hours), default=None)
