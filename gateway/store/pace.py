"""When a commit is due: how long arrivals wait for others to share it. Does no I/O.

A commit costs the card some pages whatever it holds, so arrivals wait `interval_s` for each other. Who sends nothing
more before an answer gains nothing by that: for such arrivals a commit is due at once, but `gap_s` after the last one
began at the earliest, since it costs as much as any other. Where a full segment waits a commit is cheap by the reading:
under a flood one is due each `FULL_GAP_S`, however long the interval, so that what senders may have unanswered does not
decide how fast they are; later where `gap_s` is longer, since the card has no more to give.
"""

from __future__ import annotations

from typing import Final

# Who has one message unanswered at a time has forty answers a second by this.
GAP_S: Final = 0.025
GAP_SHARE_MAX: Final = 1 / 10
GAP_SHARE_MIN: Final = 1 / 40
FULL_GAP_S: Final = 0.05


def early_gap_s(interval_s: float) -> float:
    """Return how far apart early commits are at least, where flash allows it.

    >>> early_gap_s(1.0), early_gap_s(10.0)
    (0.025, 0.25)
    """
    return min(max(GAP_S, interval_s * GAP_SHARE_MIN), interval_s * GAP_SHARE_MAX)


class Pace:
    """The pace of one store's commits; both waits may be changed at any time. Seconds are of one steady clock."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.gap_s = early_gap_s(interval_s)
        self._began_s = float("-inf")

    def began(self, now_s: float) -> None:
        """Note that a commit begins."""
        self._began_s = now_s

    def wait_s(self, now_s: float, *, is_last: bool = False, is_full: bool = False) -> float:
        """Return how long after `now_s` a commit is due for what arrives then.

        >>> pace = Pace(1.0)
        >>> pace.began(10.0)
        >>> pace.wait_s(10.25), pace.wait_s(10.25, is_last=True), pace.wait_s(10.25, is_full=True)
        (1.0, 0.0, 0.0)
        """
        if not is_last and not is_full:
            return self.interval_s
        gap_s = max(self.gap_s, min(self.interval_s, FULL_GAP_S)) if is_full else self.gap_s
        return max(self._began_s + gap_s - now_s, 0.0)
