"""What is known of one class over a budget: how much of it comes in, how it comes, and what it costs. Does no I/O.

Both are what is to be expected over hours, for that is what an allowance is planned for, and not what the last minutes
happened to bring: devices that speak each quarter of an hour bring three times as much as they do in the five minutes
after that, and next to nothing in the five minutes before. So a rate is learnt when something comes, of all the time
since something last did.

Seconds are of one steady clock, bytes those on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.store.policy import Lane
from gateway.uplinks.allocation import Need

if TYPE_CHECKING:
    from gateway.core.contracts import Priority

# Until something was sent: what a reading costs whole and thinned (gateway/bench/wire.py).
WHOLE_BYTES: Final = 2.5
THINNED_BYTES: Final = 6.0
READING_BYTES_MIN: Final = 0.1
REQUEST_BYTES_MIN: Final = 200.0
# How long what came in counts in what is expected, how often something must have come, and how long to look before.
MEMORY_S: Final = 300.0
USUAL_S: Final = 3600.0
MEMORY_TIMES: Final = 10.0
LOOK_S_MIN: Final = 5.0
NEWEST_SHARE: Final = 0.2
# Who is silent for so many times as long as is usual is silent.
SILENT_TIMES: Final = 2.0


class Sent(NamedTuple):
    """A lease that was sent: how many readings it held, how many left for them, of how many series, and their cost."""

    lane: Lane
    priority: Priority
    held: int
    left: int
    series: int
    step_s: float
    wire_bytes: float


@dataclass(slots=True)
class Apart:
    """How far apart requests are that go each `every_s` at most, as a rule: there is none with nothing in it.

    It is learnt from when something came, and not from what was sent: that may have waited.
    """

    every_s: float
    seconds: float = 0.0
    _count: int = 0  # when one would have gone last
    _last_s: float = float("-inf")
    _is_quiet: bool = False  # since then nothing was there when one might have gone
    _is_known: bool = False

    def begin(self, count: int, now_s: float) -> None:
        """Begin to look, where so many readings have come so far."""
        self.seconds, self._count, self._last_s = self.every_s, count, now_s

    def look(self, count: int, now_s: float) -> None:
        """Take note of how many there are by now."""
        passed_s = now_s - self._last_s
        if count == self._count:
            self._is_quiet |= passed_s >= self.every_s
            return
        if passed_s < self.every_s:
            self._is_quiet = False
            return
        # Where nobody looked meanwhile, as in an outage, it is not known that nothing came.
        apart_s = passed_s if self._is_quiet else self.every_s
        self.seconds += (NEWEST_SHARE if self._is_known else 1.0) * (apart_s - self.seconds)
        self._count, self._last_s, self._is_quiet, self._is_known = count, now_s, False, True

    def rest(self) -> None:
        """Take note that nothing is there until the next look."""
        self._is_quiet = True


@dataclass(slots=True)
class Flow:
    """What is known of one class. `often` is how often it would go as it comes, `seldom` where bytes are short."""

    often: Apart
    seldom: Apart
    readings_s: float = 0.0
    usual_s: float = 0.0  # the same over an hour
    series: float = 0.0
    whole_bytes: float = WHOLE_BYTES
    thinned_bytes: float = THINNED_BYTES
    is_whole_known: bool = False
    is_thinned_known: bool = False
    free_s: float = float("-inf")  # from when on it may be sent again
    paid_s: float = 0.0  # what it has had for the time until then, in bytes a second
    thinned_s: float = float("-inf")  # when it was sent thinned last
    owed: float = 0.0  # readings that are to go whole by now, and did not
    _count: int = 0
    _since_s: float | None = None
    _came_s: float = 0.0

    def look(self, count: int, now_s: float) -> None:
        """Take note how many readings came in so far."""
        if self._since_s is None:
            self._count, self._since_s, self._came_s = count, now_s, now_s
            self.often.begin(count, now_s)
            self.seldom.begin(count, now_s)
            return
        self.often.look(count, now_s)
        self.seldom.look(count, now_s)
        passed_s = now_s - self._came_s
        if passed_s < LOOK_S_MIN or (count == self._count and passed_s < SILENT_TIMES * self.often.seconds):
            return
        # At first what was seen is all there is to know.
        newest = passed_s / (now_s - self._since_s)
        came_s = (count - self._count) / passed_s
        memory_s = MEMORY_TIMES * self.often.seconds
        self.readings_s += max(min(1.0, passed_s / max(MEMORY_S, memory_s)), newest) * (came_s - self.readings_s)
        self.usual_s += max(min(1.0, passed_s / max(USUAL_S, memory_s)), newest) * (came_s - self.usual_s)
        self._count, self._came_s = count, now_s

    def rest(self) -> None:
        """Take note that nothing of it is held until the next look."""
        self.often.rest()
        self.seldom.rest()

    def need(self, request_bytes: float) -> Need:
        """Return it as `allocate` wants it; where series were not counted yet, as if each came once a second."""
        readings_s = max(self.readings_s, self.usual_s)
        return Need(
            readings_s,
            self.series or readings_s,
            self.whole_bytes,
            self.thinned_bytes,
            request_bytes,
            often_s=self.often.seconds,
            seldom_s=self.seldom.seconds,
            gathers_s=self.seldom.every_s,
        )

    def cost(self, sent: Sent, request_bytes: float) -> float:
        """Learn from what was sent; return what a request costs whatever is in it, as it seems now.

        Of what was expected wrongly it is the larger part that is corrected: small requests say what requests cost,
        and large ones what readings do.
        """
        if not sent.left:
            return request_bytes
        each = self.thinned_bytes if sent.step_s else self.whole_bytes
        error = sent.wire_bytes - request_bytes - each * sent.left
        # What was only guessed until now may be wrong by a lot.
        is_known = self.is_thinned_known if sent.step_s else self.is_whole_known
        newer = max(READING_BYTES_MIN, each + (NEWEST_SHARE if is_known else 1.0) * error / sent.left)
        if each * sent.left <= request_bytes:
            request_bytes = max(REQUEST_BYTES_MIN, request_bytes + NEWEST_SHARE * error)
        elif sent.step_s:
            self.thinned_bytes, self.is_thinned_known = newer, True
        else:
            self.whole_bytes, self.is_whole_known = newer, True
        if sent.lane == Lane.LIVE and sent.series:
            self.series = max(float(sent.series), self.series + NEWEST_SHARE * (sent.series - self.series))
        return request_bytes

    def turn(self, sent: Sent, whole_share: float) -> None:
        """Take note whether what was sent went whole, of which such a share is to; one turn too many is made up for."""
        if not whole_share:
            self.owed = 0.0
            return
        owed = self.owed + sent.held * (whole_share - (0.0 if sent.step_s else 1.0))
        self.owed = max(-sent.held, min(owed, float(sent.held)))
