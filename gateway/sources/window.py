"""Whether a sender has stopped because too many of its messages wait for their answer. Does no I/O.

A broker or a device lets only so many messages wait for their acknowledgement (mosquitto: 20, unless told otherwise)
and an acknowledgement waits for a commit: so a window of 20 and a commit a second are 20 messages a second, however
many there are. Nobody says how large the window is. It shows: the same number waits each time when a commit ends, and
for much of the time nothing comes, though messages came quickly before. Then a commit is wanted as soon as that
number is reached. A guess that proves wrong, since more came, or since nothing became quicker by it (who says
something each second looks like one who is held back), is given up, and the next one wants twice the evidence.
"""

from __future__ import annotations

from typing import Final

# Nothing came for so much of the time between two answers, at least, for it to be a window.
STALLED_MIN: Final = 1 / 3
# How often in a row the same number has waited before it is taken for the window.
STREAK_MIN: Final = 2
STREAK_MAX: Final = 1024
# Each time that it was full so often in a row, it has to have become so much quicker than before.
JUDGED: Final = 4
QUICKER_MIN: Final = 1.5
# So often it may be full once and not again, which no sender is that has more: then there was nothing to gain.
FRUITLESS_MAX: Final = 6
# Full so often in a row it is certain, and worth a word to people.
LIMITING_MIN: Final = 20


class Window:
    """One connection's messages that wait for their answer, `waiting` of them, and what is known of their bound.

    `size` is 0 as long as none is known. Seconds are of one steady clock.
    """

    __slots__ = (
        "_answered_s",
        "_before_s",
        "_came_s",
        "_fruitless",
        "_full",
        "_full_s",
        "_has_grown",
        "_peak",
        "_streak",
        "_streak_min",
        "size",
        "waiting",
    )

    def __init__(self, *, now_s: float) -> None:
        self.waiting = 0
        self.size = 0
        self._has_grown = False
        self._came_s = self._answered_s = now_s
        # Before a guess: how many waited at the last answers, how often in a row that many, the shortest time for it.
        self._peak = self._streak = 0
        self._streak_min = STREAK_MIN
        self._before_s = 0.0
        # With a guess: how often in a row it was full, how long the last few took, how often it was for nothing.
        self._full = self._fruitless = 0
        self._full_s = 0.0

    @property
    def is_limiting(self) -> bool:
        """Whether the sender has been held back by its window all the time, for a while."""
        return self._full >= LIMITING_MIN

    def came(self, count: int, *, now_s: float) -> bool:
        """Count messages that now wait for their answer; return whether nothing more can come before that."""
        self.waiting += count
        self._came_s = now_s
        self._has_grown = True
        if self.size and self.waiting > self.size:
            self._give_up()
        return self.waiting == self.size

    def answered(self, count: int, *, now_s: float) -> None:
        """Count messages that have their answer: after the first ones of a commit, more can come."""
        if not count:
            return
        if self._has_grown:
            self._has_grown = False
            self._look(now_s)
        self.waiting -= count
        self._answered_s = now_s

    def _look(self, now_s: float) -> None:
        """See what the time since the last answers says."""
        took_s = now_s - self._answered_s
        if self.size:
            self._judge(took_s)
        elif now_s - self._came_s < STALLED_MIN * took_s:
            self._streak = 0
        elif self.waiting != self._peak or not self._streak:
            self._streak, self._before_s = 1, took_s
        else:
            self._streak += 1
            self._before_s = min(self._before_s, took_s)
            if self._streak >= self._streak_min:
                self.size = self.waiting
        self._peak = self.waiting

    def _judge(self, took_s: float) -> None:
        """See whether the guess still holds; a time of its own in which it was not full proves nothing."""
        if self.waiting < self.size:
            self._fruitless += 0 < self._full < JUDGED
            self._full, self._full_s = 0, 0.0
            if self._fruitless >= FRUITLESS_MAX:
                self._give_up()
            return
        self._full += 1
        self._full_s += took_s
        if self._full % JUDGED == 0:
            if self._full_s * QUICKER_MIN > self._before_s * JUDGED:
                self._give_up()
            self._full_s, self._fruitless = 0.0, 0

    def _give_up(self) -> None:
        self.size = self._streak = self._full = self._fruitless = 0
        self._full_s = 0.0
        self._streak_min = min(2 * self._streak_min, STREAK_MAX)
