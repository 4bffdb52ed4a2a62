"""How long until what is held is gone, from how it shrank in the last minutes. Must not ask anybody itself.

What is held for an uplink rises and falls with each request, backlog or not. So lows are compared: the lowest that was
seen in the older half of the last minutes with the lowest in the newer half. What is left at a low is the backlog,
unless it has only just come in: a stream that goes on always has something on its way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

LOOK_S: Final = 5.0
LOOKS_MAX: Final = 24
# Fewer compare one moment of a request's life with another one.
LOOKS_MIN: Final = 4
# What came in so lately is no backlog: a commit, and a look, come as late.
FRESH_S: Final = 2 * LOOK_S


class Outlook(NamedTuple):
    """What will become of an uplink's backlog: `change_per_s` in readings, below zero where it shrinks."""

    change_per_s: float
    eta_s: float | None


UNKNOWN: Final = Outlook(0.0, None)


@dataclass(slots=True)
class Draining:
    """The last looks at what one uplink held, and at what had come in for it: (seconds, readings, readings)."""

    _looks: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=LOOKS_MAX))

    def look(self, now_s: float, held: int, *, came: int = 0, is_moving: bool) -> None:
        """Take a look, if it is time for one. What was seen while the road was closed says nothing of an open one."""
        if not is_moving:
            self._looks.clear()
        elif not self._looks or now_s - self._looks[-1][0] >= LOOK_S:
            self._looks.append((now_s, held, came))

    def outlook(self) -> Outlook:
        """Return what is to be expected; UNKNOWN while too little was seen, or there is no backlog.

        >>> drain = Draining()
        >>> for second in range(0, 30, 5):
        ...     drain.look(second, 10_000 - 100 * second, is_moving=True)
        >>> drain.outlook()
        Outlook(change_per_s=-100.0, eta_s=75.0)
        """
        if len(self._looks) < LOOKS_MIN:
            return UNKNOWN
        looks = list(self._looks)
        half = len(looks) // 2
        (before_s, before, _), (low_s, low, _) = (
            min(part, key=lambda look: look[1]) for part in (looks[:-half], looks[-half:])
        )
        came_s = (looks[-1][2] - looks[0][2]) / (looks[-1][0] - looks[0][0])
        if low <= came_s * FRESH_S or low_s <= before_s:
            return UNKNOWN
        change = (low - before) / (low_s - before_s)
        return Outlook(round(change, 1), round(-low / change, 1) if change < 0 else None)
