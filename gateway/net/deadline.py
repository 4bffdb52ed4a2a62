"""A moment by which something is over, handed down: who gets one never has more than is left. Must not wait.

an operation ─ within ─→ its attempt ─ within ─→ the connection ─ shared ─→ each of the host's addresses
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Deadline:
    """When something must be over, on a steady clock.

    >>> whole = Deadline(100.0, now_s=lambda: 40.0)
    >>> whole.left_s(), whole.within(10).left_s(), whole.within(90).left_s(), whole.share(3).left_s()
    (60.0, 10.0, 60.0, 20.0)
    """

    at_s: float
    now_s: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float | None, *, now_s: Callable[[], float] = time.monotonic) -> Deadline:
        """Return one that is `seconds` away; None is for ever."""
        return cls(float("inf") if seconds is None else now_s() + seconds, now_s)

    def left_s(self) -> float:
        """Return the seconds that are left, never under 0."""
        return max(0.0, self.at_s - self.now_s())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.now_s() >= self.at_s

    def within(self, seconds: float | None) -> Deadline:
        """Return what a part of it gets: `seconds`, and no more than is left."""
        return self if seconds is None else Deadline(min(self.at_s, self.now_s() + seconds), self.now_s)

    def share(self, parts: int) -> Deadline:
        """Return what the first of `parts` gets that come one after the other: its part of what is left."""
        return self.within(self.left_s() / parts)
