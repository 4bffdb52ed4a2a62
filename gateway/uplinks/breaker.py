"""A circuit breaker: whether to try somebody who fails, decided from how requests ended. Must not send or ask a clock.

| is        | what happens                                          | becomes                       |
| --------- | ----------------------------------------------------- | ----------------------------- |
| closed    | too many failures in a row, or too large a part fails | open                          |
| open      | its time is over, or somebody tries all the same      | half-open                     |
| half-open | so many successes as there are probes                 | closed                        |
| half-open | a failure                                             | open, for twice as long       |

Closed lets everything through, open nothing, half-open its probes. What has ended while it is open says nothing new.
One that opens again soon after it closed stays open longer each time, so that traffic does not come and go.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

# The window of the failure rate moves on in so many steps.
STEPS: Final = 10
# A fleet that saw the same failure does not try again in the same second.
JITTER: Final = 0.25
_DOUBLINGS_MAX: Final = 30


class State(Enum):
    """What a breaker lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(Enum):
    """What moves a breaker."""

    TRIPPED = "tripped"
    OVER = "over"
    PROVEN = "proven"


# Everything else leaves it where it is.
TABLE: Final = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.OVER): State.HALF_OPEN,
    (State.HALF_OPEN, Event.PROVEN): State.CLOSED,
    (State.HALF_OPEN, Event.TRIPPED): State.OPEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a breaker opens, for how long, and when it closes.

    It opens after `failures` in a row, and when of at least `requests_min` requests within `window_s` a part of
    `failure_rate` failed. `probes` is how many are let through half-open, all of which must succeed.
    """

    failures: int = 3
    failure_rate: float = 0.5
    window_s: float = 60.0
    requests_min: int = 10
    open_s: float = 10.0
    open_s_max: float = 300.0
    probes: int = 1


@dataclass(slots=True)
class Breaker:
    """Ask `allows`, say `begin`, and then how it ended: `succeeded`, `failed`, or `left` where that says nothing.

    Times are seconds of one steady clock. Not for two threads.
    """

    limits: Limits
    random: Random
    state: State = State.CLOSED
    failures: int = 0  # in a row
    opened: int = 0  # times, since the start
    until_s: float = float("-inf")  # when an open one is tried again
    _steps: deque[list[int]] = field(default_factory=lambda: deque(maxlen=STEPS))  # step, requests, failures
    _under_way: int = 0
    _proofs: int = 0
    _open_s: float = 0.0  # for how long it was open last
    _strikes: int = 0  # how often it opened again soon after
    _closed_s: float = float("-inf")

    def allows(self, now_s: float) -> bool:
        """Whether a request may go now."""
        if self.state is State.OPEN:
            return now_s >= self.until_s
        return self.state is State.CLOSED or self._under_way + self._proofs < self.limits.probes

    def begin(self, now_s: float) -> None:
        """Take note that a request goes; one that goes while it is open is its probe."""
        if self.state is State.OPEN:
            self._move(Event.OVER, now_s)
        self._under_way += 1

    def succeeded(self, now_s: float) -> None:
        """Take note that a request was answered by somebody who is well."""
        self.left()
        self.failures = 0
        self._count(now_s, failed=False)
        if self.state is State.HALF_OPEN:
            self._proofs += 1
            if self._proofs >= self.limits.probes:
                self._move(Event.PROVEN, now_s)

    def failed(self, now_s: float) -> None:
        """Take note that a request failed in a way that the next one may, too."""
        self.left()
        self.failures += 1
        self._count(now_s, failed=True)
        if self.state is State.HALF_OPEN or self._is_too_much(now_s):
            self._move(Event.TRIPPED, now_s)

    def left(self) -> None:
        """Take note that a request is over and says nothing of the other side."""
        self._under_way = max(0, self._under_way - 1)

    def forgive(self, now_s: float) -> None:
        """Have an open one tried again at once: what it failed by was not its own doing."""
        self.until_s = min(self.until_s, now_s)
        self._strikes = 0

    def _is_too_much(self, now_s: float) -> bool:
        if self.failures >= self.limits.failures:
            return True
        oldest = self._step(now_s) - STEPS
        requests = sum(step[1] for step in self._steps if step[0] > oldest)
        failures = sum(step[2] for step in self._steps if step[0] > oldest)
        return requests >= self.limits.requests_min and failures >= self.limits.failure_rate * requests

    def _count(self, now_s: float, *, failed: bool) -> None:
        step = self._step(now_s)
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append([step, 0, 0])
        self._steps[-1][1] += 1
        self._steps[-1][2] += failed

    def _step(self, now_s: float) -> int:
        return int(now_s * STEPS // self.limits.window_s)

    def _move(self, event: Event, now_s: float) -> None:
        before, self.state = self.state, TABLE.get((self.state, event), self.state)
        if self.state is before:
            return
        self._proofs = self._under_way = 0
        if self.state is State.OPEN:
            is_soon = before is State.HALF_OPEN or now_s - self._closed_s < self._open_s
            self._strikes = self._strikes + 1 if is_soon else 0
            whole_s = self.limits.open_s * float(1 << min(self._strikes, _DOUBLINGS_MAX))
            self._open_s = min(whole_s, self.limits.open_s_max) * self.random.uniform(1 - JITTER, 1)
            self.until_s = now_s + self._open_s
            self.opened += 1
        elif self.state is State.CLOSED:
            self._closed_s = now_s
            self._steps.clear()
