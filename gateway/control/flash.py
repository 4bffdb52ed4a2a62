"""How much may be written to flash: a day's allowance, and what the pace of commits does to keep within it. No I/O.

What a commit costs the card hardly depends on what it holds, so the one thing that can be done about too much is fewer
of them. The allowance fills a purse at a steady rate, what is written is paid from it. As long as the purse is half
full, commits keep their own pace; below that they wait for each other the longer the emptier it is. Where that is
enough, the purse settles at the level at which exactly the allowance is written; where the data itself is too much,
it empties, commits are as rare as they may be, and a person has to decide.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from gateway.store.pace import early_gap_s

DAY_S: Final = 86_400.0
# What a purse holds: an hour's allowance. A burst of that is what a card does not notice.
PURSE_S: Final = 3600.0
# After a start nothing is known of the day before it: half a purse, or a gateway that restarts often would be rich.
START_SHARE: Final = 0.5
# Nobody waits longer for a PUBACK than this, unless the configuration says so.
INTERVAL_S_MAX: Final = 5.0
# Rates are of the last hour, seen once a minute, and not before a minute is over.
SAMPLES_MAX: Final = 61
SAMPLE_S: Final = 60.0


class Pace(NamedTuple):
    """How long arrivals wait for others to share a commit, and how far apart early commits are."""

    interval_s: float
    gap_s: float


def stretch(base_interval_s: float, *, shortage: float) -> Pace:
    """Return the pace for a shortage between 0 (plenty) and 1 (nothing left).

    >>> stretch(1.0, shortage=0.0), stretch(1.0, shortage=1.0)
    (Pace(interval_s=1.0, gap_s=0.025), Pace(interval_s=5.0, gap_s=5.0))
    >>> stretch(10.0, shortage=1.0)
    Pace(interval_s=10.0, gap_s=10.0)
    """
    longest_s = max(base_interval_s, INTERVAL_S_MAX)
    gap_s = early_gap_s(base_interval_s)
    return Pace(
        base_interval_s + (longest_s - base_interval_s) * shortage,
        gap_s + (longest_s - gap_s) * shortage,
    )


class Allowance:
    """What was written against what may be: `look` at it now and then, with totals that only grow.

    Bytes are what the kernel has sent to the disk for this process; seconds are of one steady clock.
    """

    def __init__(self, *, bytes_per_day: int, base_interval_s: float) -> None:
        self.bytes_per_day_max = bytes_per_day
        self._base_interval_s = base_interval_s
        self._purse_max = bytes_per_day * PURSE_S / DAY_S
        self._purse = self._purse_max * START_SHARE
        # (when, bytes written, readings accepted)
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=SAMPLES_MAX)
        self._last: tuple[float, int, int] | None = None

    def look(self, now_s: float, *, written_bytes: int, readings: int) -> Pace:
        """Take note of the totals; return the pace from now on."""
        if self._last is not None:
            then_s, written_then, _ = self._last
            income = (now_s - then_s) * self.bytes_per_day_max / DAY_S
            self._purse = min(max(self._purse + income - (written_bytes - written_then), 0.0), self._purse_max)
        self._last = (now_s, written_bytes, readings)
        if not self._samples or now_s - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append(self._last)
        return self.pace

    @property
    def shortage(self) -> float:
        """How far the purse is below half: 0 is plenty, 1 nothing left."""
        return min(max(1.0 - 2.0 * self._purse / self._purse_max, 0.0), 1.0)

    @property
    def pace(self) -> Pace:
        """The pace that the purse allows."""
        return stretch(self._base_interval_s, shortage=self.shortage)

    @property
    def bytes_per_day(self) -> float | None:
        """What is written in a day at the rate of the last hour; None before a minute is over."""
        rates = self._since()
        return None if rates is None else rates[1] / rates[0] * DAY_S

    @property
    def bytes_per_reading(self) -> float | None:
        """What a reading of the last hour cost; None before a minute is over, and where none came."""
        rates = self._since()
        return None if rates is None or not rates[2] else rates[1] / rates[2]

    def _since(self) -> tuple[float, int, int] | None:
        """Return seconds, bytes and readings of the last hour."""
        if self._last is None or self._last[0] - self._samples[0][0] < SAMPLE_S:
            return None
        seconds, written, readings = (now - then for now, then in zip(self._last, self._samples[0], strict=True))
        return seconds, int(written), int(readings)
