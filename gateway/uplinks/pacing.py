"""How much to send at once and how hard to compress it: decisions from what was measured. Does no I/O.

A request should take about as long as people can wait for fresh data behind it, whatever the link: so its
size follows the time that the last ones took. And compressing harder is worth what the processor has to
spare, or what the link makes us wait anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.core.contracts import Priority, Signal

READINGS_START: Final = 5_000
READINGS_MIN: Final = 100
REQUEST_S: Final = 2.0
CEILING_BYTES_MIN: Final = 16 * 1024
CEILING_GROWTH: Final = 1.005
POINT_BYTES: Final = 20

HARD_LEVEL: Final = 17
FAST_LEVEL: Final = 3
# Above this the tables of a hard level would cost more memory than a small board has to spare.
HARD_BYTES_MAX: Final = 256 * 1024
# Share of one processor that goes into compressing harder, and how much of it may be saved up.
SPARE_SHARE: Final = 0.005
SPARE_S_MAX: Final = 0.5
# What the hard level saves of the fast level's bytes, measured on telemetry (gateway/bench/wire.py).
HARD_SAVES: Final = 0.2
# Before the first measurement: seconds per byte of a slow board (a Raspberry Pi Zero 2 W's class).
HARD_S_PER_BYTE: Final = 1e-6


class Rounds:
    """When fresh data is sent together: a round begins each `interval_s` at most.

    It takes from each shelf (class and signal) once, so that none waits for the others' intervals. Seconds are of one
    steady clock.
    """

    def __init__(self, interval_s: float) -> None:
        self.is_over = True
        self._interval_s = interval_s
        self._began_s = float("-inf")
        self._taken: set[tuple[Signal, Priority]] = set()

    def left_s(self, now_s: float) -> float:
        """Return how long until the next round may begin."""
        return self._began_s + self._interval_s - now_s

    def begin(self, now_s: float) -> None:
        """Begin one."""
        self.is_over = False
        self._began_s = now_s
        self._taken.clear()

    def take(self, signal: Signal, priority: Priority) -> None:
        """Take note of what goes: who has its second turn ends the round."""
        self.is_over |= (signal, priority) in self._taken
        self._taken.add((signal, priority))

    def end(self) -> None:
        """Take note that nothing is left for this one."""
        self.is_over = True


@dataclass(slots=True)
class BatchSize:
    """How many readings the next request may carry."""

    readings_max: int
    bytes_max: int
    limit: float = READINGS_START
    ceiling_bytes: float = float("inf")
    bytes_per_reading: float = POINT_BYTES

    @property
    def readings(self) -> int:
        """Return the number, at least 1."""
        by_bytes = min(self.bytes_max, self.ceiling_bytes) / self.bytes_per_reading
        return max(1, int(min(self.limit, self.readings_max, by_bytes)))

    def measured(self, readings: int, size_bytes: int) -> None:
        """Learn what a reading weighs before compression; heavier ones count at once, lighter ones slowly."""
        each = size_bytes / readings
        self.bytes_per_reading = max(each, 0.8 * self.bytes_per_reading + 0.2 * each)

    def succeeded(self, readings: int, seconds: float) -> None:
        """Grow while requests are quick, shrink when they keep fresh data waiting."""
        self.ceiling_bytes *= CEILING_GROWTH
        if readings * 2 >= self.readings and seconds < REQUEST_S / 2:
            self.limit = min(self.limit * 2, self.readings_max)
        elif seconds > REQUEST_S:
            self.limit = max(READINGS_MIN, min(self.limit, readings) * max(0.5, REQUEST_S / seconds))

    def failed(self, *, in_transit: bool) -> None:
        """Probe with little after a failure; with ever less where requests break on their way."""
        self.limit = min(self.limit, READINGS_START)
        if in_transit:
            self.limit = max(READINGS_MIN, self.limit / 2)

    def was_too_large(self, size_bytes: int) -> None:
        """Stay under half of what the receiver refused; slowly try more, for its limit may be raised.

        One monster among the readings is split down to; it must not make all that follow small.
        """
        self.ceiling_bytes = min(self.ceiling_bytes, max(CEILING_BYTES_MIN, size_bytes / 2))


@dataclass(slots=True)
class Effort:
    """Which zstd level the next request gets. Seconds are of one steady clock."""

    spare_s: float = SPARE_S_MAX
    hard_s_per_byte: float = HARD_S_PER_BYTE
    send_s_per_byte: float = 0.0
    _seen_s: float | None = None

    def level(self, size_bytes: int, *, now_s: float) -> int:
        """Choose for a request of `size_bytes` before compression."""
        if self._seen_s is not None:
            self.spare_s = min(SPARE_S_MAX, self.spare_s + (now_s - self._seen_s) * SPARE_SHARE)
        self._seen_s = now_s
        cost_s = size_bytes * self.hard_s_per_byte
        is_worth = cost_s <= self.spare_s or self.hard_s_per_byte < HARD_SAVES * self.send_s_per_byte
        return HARD_LEVEL if size_bytes <= HARD_BYTES_MAX and is_worth else FAST_LEVEL

    def spent(self, size_bytes: int, level: int, seconds: float) -> None:
        """Learn what compressing took."""
        if level == HARD_LEVEL and size_bytes:
            self.spare_s = max(0.0, self.spare_s - seconds)
            self.hard_s_per_byte += 0.2 * (seconds / size_bytes - self.hard_s_per_byte)

    def sent(self, size_bytes: int, seconds: float) -> None:
        """Learn what sending took, per byte before compression."""
        if size_bytes:
            self.send_s_per_byte += 0.2 * (seconds / size_bytes - self.send_s_per_byte)
