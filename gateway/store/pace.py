"""When a commit is due: how long arrivals wait for others to share it. Does no I/O.

A commit costs the card some pages whatever it holds, so arrivals wait `interval_s` for each other. Who sends nothing
more before an answer gains nothing by that: for such arrivals a commit is due at once, but `gap_s` after the last one
began at the earliest, since it costs as much as any other.
"""

from __future__ import annotations

from typing import Final

GAP_SHARE: Final = 0.1


class Pace:
    """The pace of one store's commits; both waits may be changed at any time. Seconds are of one steady clock."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.gap_s = interval_s * GAP_SHARE
        self._began_s = float("-inf")

    def began(self, now_s: float) -> None:
        """Note that a commit begins."""
        self._began_s = now_s

    def wait_s(self, now_s: float, *, is_last: bool) -> float:
        """Return how long after `now_s` a commit is due for what arrives then.

        >>> pace = Pace(1.0)
        >>> pace.began(10.0)
        >>> pace.wait_s(10.25, is_last=False), pace.wait_s(10.25, is_last=True)
        (1.0, 0.0)
        """
        if not is_last:
            return self.interval_s
        return max(self._began_s + self.gap_s - now_s, 0.0)
