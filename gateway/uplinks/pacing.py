"""How much to send at once and how hard to compress it: decisions from what was measured. Does no I/O.

A request should take about as long as people can wait for fresh data behind it, whatever the link: so its size follows
the time that the last ones took, but for what each takes whatever its size: a receiver that thinks for two seconds is
not made quicker by smaller requests, it only gets through fewer readings. And compressing harder is worth what the
processor has to spare, or what the link makes us wait anyway.

A request that breaks on its way may have been taken, and goes once more. Where a smaller one then gets through, the
size that broke is come near in the manner of TCP (CUBIC, RFC 9438): from half of it, at first quickly, then ever more
slowly; and more slowly still each time that it breaks again, so that what is sent twice stays a small part of all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.core.contracts import Priority, Signal

READINGS_START: Final = 5_000
READINGS_MIN: Final = 100
REQUEST_S: Final = 2.0
# How long a request may be under way itself, at most, where what it takes whatever its size is as long.
FIXED_S_MAX: Final = 4.0
# What two readings of a steady clock may differ by where a timer was to bring them together.
TIMER_STEP_S: Final = 1e-6
# How much more is tried where requests are neither quick nor slow.
GROWTH: Final = 1.25
# How much the last request counts in what is known of all; below such a spread of sizes (their deviation, as a share)
# they do not say what size costs; and what takes so many times as long as was to be expected, or as little, and more
# than that a second, goes over a road that has changed.
NEWEST_SHARE: Final = 0.2
SPREAD_MIN: Final = 0.1
CHANGED_TIMES: Final = 3.0
CHANGED_S: Final = 1.0
# What a request may be larger than was thought, where it must fit.
SPARED: Final = 0.8
# How long requests that get through must have taken together before one of a size that broke is tried again: at first,
# and at most. One of that size counts as REQUEST_S however quick it was, a smaller one as its part of that: twenty
# seconds over a road that answers within milliseconds would be thousands of small requests, for one break.
CLIMB_S: Final = 20.0
CLIMB_S_MAX: Final = 3600.0
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
# What the hard level saves of the fast level's bytes until that is known; measured on telemetry (bench/wire.py).
HARD_SAVES: Final = 0.2
# Where it saves less than this it is not worth a processor's time, unless bytes are counted or the link is slow: a
# hundred series with a point each are names for the most part, which any level finds, and a millisecond of work saves
# 17 bytes where it saves 130 of a minute batch. It is looked at anew each so many requests of about that size.
HARD_SAVES_MIN: Final = 0.08
LOOK_EACH: Final = 64
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
        """Return how long until the next round may begin; a timer may be early by as much as a clock's step."""
        left_s = self._began_s + self._interval_s - now_s
        return left_s if left_s > TIMER_STEP_S else 0.0

    def may_begin(self, now_s: float) -> bool:
        """Whether fresh data may go now."""
        return not self.is_over or self.left_s(now_s) <= 0

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
class Toll:
    """What each request takes whatever its size: where a line through the last ones' sizes and times begins.

    Least squares, the older ones weighing less and less.
    """

    fixed_s: float = 0.0
    _is_known: bool = False  # whether sizes have differed by enough since the road was last another one
    _readings: float = 0.0
    _seconds: float = 0.0
    _variance: float = 0.0
    _covariance: float = 0.0

    def measured(self, readings: int, seconds: float) -> None:
        """Learn from a request."""
        if not self._expects(readings, seconds):
            self._readings, self._seconds = float(readings), seconds
            self.fixed_s = self._variance = self._covariance = 0.0
            self._is_known = False
        more, longer_s = readings - self._readings, seconds - self._seconds
        self._readings += NEWEST_SHARE * more
        self._seconds += NEWEST_SHARE * longer_s
        self._variance = (1 - NEWEST_SHARE) * (self._variance + NEWEST_SHARE * more * more)
        self._covariance = (1 - NEWEST_SHARE) * (self._covariance + NEWEST_SHARE * more * longer_s)
        if self._variance > (SPREAD_MIN * self._readings) ** 2:
            self._is_known = True
            self.fixed_s = max(0.0, self._seconds - max(0.0, self._covariance / self._variance) * self._readings)
        self.fixed_s = min(self.fixed_s, seconds)

    def expected_s(self, readings: int) -> float:
        """Return how long a request of so many readings should take; 0 where nothing is known yet."""
        if not self._readings:
            return 0.0
        return self.fixed_s + max(0.0, self._seconds - self.fixed_s) * readings / self._readings

    def _expects(self, readings: int, seconds: float) -> bool:
        if not self._readings:
            return False
        least_s = most_s = self.expected_s(readings)
        if not self._is_known:
            # Anything between a time that goes with the size and one that does not: to begin anew with each that has
            # another size than the one before would never find out.
            least_s, most_s = sorted((most_s, self._seconds))
        return (least_s - CHANGED_S) / CHANGED_TIMES <= seconds <= most_s * CHANGED_TIMES + CHANGED_S


@dataclass(slots=True)
class Climb:
    """How many readings may be tried where so many broke on their way and fewer got through."""

    avoided: float = float("inf")
    climb_s: float = CLIMB_S
    _climbed_s: float = 0.0
    _broken: float = float("inf")  # the smallest since the last one that got through

    @property
    def bound(self) -> float:
        """Return the number."""
        return self.avoided * (1 - (1 - self._climbed_s / self.climb_s) ** 3 / 2)

    def broke(self, readings: int) -> None:
        """Learn from a request that broke."""
        self._broken = min(self._broken, readings)

    def succeeded(self, readings: int, seconds: float) -> None:
        """Learn from one that got through."""
        broken, self._broken = self._broken, float("inf")
        if max(readings, READINGS_MIN) < broken < float("inf"):
            if self.avoided < float("inf"):
                self.climb_s = min(2 * self.climb_s, CLIMB_S_MAX)
            self.avoided, self._climbed_s = broken, 0.0
        elif broken < float("inf") or readings >= self.avoided:
            # What breaks breaks in all sizes, as in an outage, or that size breaks no more.
            self.avoided, self.climb_s = float("inf"), max(CLIMB_S, self.climb_s / 2)
        else:
            self._climbed_s += max(seconds, REQUEST_S * readings / self.avoided)


@dataclass(slots=True)
class BatchSize:
    """How many readings the next request may carry, so that it takes about `request_s`."""

    readings_max: int
    bytes_max: int
    request_s: float = REQUEST_S
    limit: float = READINGS_START
    ceiling_bytes: float = float("inf")
    bytes_per_reading: float = POINT_BYTES
    toll: Toll = field(default_factory=Toll)
    climb: Climb = field(default_factory=Climb)

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
        """Grow while requests are quick, shrink when their size keeps fresh data waiting."""
        self.ceiling_bytes *= CEILING_GROWTH
        self.toll.measured(readings, seconds)
        self.climb.succeeded(readings, seconds)
        own_s = seconds - self.toll.fixed_s
        # Where the way alone takes long, a line that is asked for less than that at a time is idle for the most part.
        allowed_s = max(self.request_s - self.toll.fixed_s, self.request_s / 2, min(self.toll.fixed_s, FIXED_S_MAX))
        if own_s > allowed_s:
            # Where nothing smaller is left to compare with, something larger says what size costs.
            self.limit = (
                max(READINGS_MIN, self.limit / 4, min(self.limit, readings * allowed_s / own_s))
                if self.limit > READINGS_MIN
                else READINGS_MIN * GROWTH
            )
        elif own_s < allowed_s and readings * 2 >= self.readings:
            growth = 2 if seconds < self.request_s / 2 else GROWTH
            self.limit = min(self.limit * growth, self.readings_max)
        self.limit = min(self.limit, max(READINGS_MIN, self.climb.bound))

    def failed(self, readings: int, *, in_transit: bool) -> None:
        """Probe with little after a failure; with ever less where requests break on their way, as this one did."""
        self.limit = min(self.limit, READINGS_START)
        if in_transit:
            self.limit = max(READINGS_MIN, self.limit / 2)
            self.climb.broke(readings)

    def fit(self, share: float) -> bool:
        """Make requests of this share of their size; return False where they are small already."""
        if self.limit <= READINGS_MIN:
            return False
        self.limit = max(READINGS_MIN, SPARED * share * min(self.limit, self.readings))
        return True

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
    saves_min: float = HARD_SAVES_MIN
    _seen_s: float | None = None
    # By the bits of a size: what share of the fast level's bytes the hard one saves, and in how many requests to look.
    _saves: dict[int, tuple[float, int]] = field(default_factory=dict)

    def level(self, size_bytes: int, *, now_s: float) -> int:
        """Choose for a request of `size_bytes` before compression."""
        if self._seen_s is not None:
            self.spare_s = min(SPARE_S_MAX, self.spare_s + (now_s - self._seen_s) * SPARE_SHARE)
        self._seen_s = now_s
        if size_bytes > HARD_BYTES_MAX:
            return FAST_LEVEL
        saves, looks_in = self._saves.get(size_bytes.bit_length(), (HARD_SAVES, 0))
        if looks_in:
            self._saves[size_bytes.bit_length()] = saves, looks_in - 1
        is_spare = size_bytes * self.hard_s_per_byte <= self.spare_s and (saves >= self.saves_min or not looks_in)
        is_worth = is_spare or self.hard_s_per_byte < saves * self.send_s_per_byte
        return HARD_LEVEL if is_worth else FAST_LEVEL

    def is_to_be_compared(self, size_bytes: int) -> bool:
        """Whether to see what the fast level would have made of a request of this size that was compressed hard."""
        return self._saves.get(size_bytes.bit_length(), (HARD_SAVES, 0))[1] == 0

    def compared(self, size_bytes: int, *, hard_bytes: int, fast_bytes: int) -> None:
        """Learn what the hard level saves."""
        self._saves[size_bytes.bit_length()] = 1 - hard_bytes / max(fast_bytes, 1), LOOK_EACH

    def spent(self, size_bytes: int, level: int, seconds: float) -> None:
        """Learn what compressing took."""
        if level == HARD_LEVEL and size_bytes:
            self.spare_s = max(0.0, self.spare_s - seconds)
            self.hard_s_per_byte += 0.2 * (seconds / size_bytes - self.hard_s_per_byte)

    def sent(self, size_bytes: int, seconds: float) -> None:
        """Learn what sending took, per byte before compression."""
        if size_bytes:
            self.send_s_per_byte += 0.2 * (seconds / size_bytes - self.send_s_per_byte)
