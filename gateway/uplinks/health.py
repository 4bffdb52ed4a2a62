"""How one receiver of an uplink is: whether it may be asked, and what is known of it. Must not send or ask a clock.

| how a request ended                              | what it says                                                      |
| ------------------------------------------------ | ----------------------------------------------------------------- |
| taken, or too large (413)                        | it is well                                                        |
| refused (4xx)                                    | nothing yet: whether others refuse that, too, is for endpoints.py |
| no connection, no answer, 502, 504, 500, 503 …   | it is not: the breaker counts                                     |
| with a Retry-After                               | and nothing goes there before that is over                        |
| the way is wrong (401, 404, a certificate …)     | this signal is held back from it for a while, and others are not  |
| our own side (a budget, the end)                 | nothing                                                           |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.core.contracts import TryLaterError
from gateway.uplinks.breaker import Breaker, State
from gateway.uplinks.guards import (
    SERVER_ERROR,
    HoldError,
    NotYetError,
    StatusRefusedError,
    TooLargeError,
    UnheardError,
)

if TYPE_CHECKING:
    from gateway.core.contracts import Signal
    from gateway.uplinks.guards import Answer

# How much the last request counts in what is known of the line.
NEWEST: Final = 0.25


@dataclass(slots=True)
class Health:
    """What is known of one receiver; seconds are of one steady clock."""

    breaker: Breaker
    last_error: str = ""
    last_success_s: int = 0  # Unix time
    rtt_s: float = 0.0
    goodput: float = 0.0  # bytes a second, of bodies
    failures: int = 0  # since the start
    asked_s: float = float("-inf")  # it asks for nothing before then
    held_s: dict[Signal, float] = field(default_factory=dict)

    def is_asked(self, now_s: float) -> bool:
        """Whether it has asked for a wait that is not over."""
        return now_s < self.asked_s

    def is_held(self, signal: Signal, now_s: float) -> bool:
        """Whether the way for this signal was wrong a moment ago."""
        return now_s < self.held_s.get(signal, now_s)

    def allows(self, signal: Signal, now_s: float) -> bool:
        """Whether a request may go there."""
        return not self.is_asked(now_s) and not self.is_held(signal, now_s) and self.breaker.allows(now_s)

    def soonest_s(self, signal: Signal, now_s: float) -> float:
        """Return for how long nothing goes there, in seconds."""
        until_s = max(self.asked_s, self.held_s.get(signal, now_s))
        if self.breaker.state is State.OPEN:
            until_s = max(until_s, self.breaker.until_s)
        return max(0.0, until_s - now_s)

    def why_not(self, signal: Signal, now_s: float) -> TryLaterError:
        """Return what a request would meet that is not even tried."""
        if self.is_held(signal, now_s):
            return HoldError(self.last_error, self.held_s[signal] - now_s)
        return TryLaterError(self.last_error, max(0.0, self.asked_s - now_s))

    def begin(self, now_s: float) -> None:
        """Take note that a request goes there."""
        self.breaker.begin(now_s)

    def answered(self, signal: Signal, answer: Answer, *, size_bytes: int, now_s: float, wall_s: int) -> None:
        """Take note that it has taken a request of so many bytes."""
        self.breaker.succeeded(now_s)
        self.held_s.pop(signal, None)
        self.last_success_s = wall_s
        self.rtt_s += (answer.rtt_s - self.rtt_s) * (NEWEST if self.rtt_s else 1)
        if answer.seconds > 0:
            self.goodput += (size_bytes / answer.seconds - self.goodput) * (NEWEST if self.goodput else 1)

    def failed(self, signal: Signal, error: Exception, *, now_s: float) -> None:
        """Take note of how a request ended that was not taken."""
        if isinstance(error, TooLargeError | UnheardError):
            self.breaker.succeeded(now_s)
            return
        is_refused = isinstance(error, StatusRefusedError) and error.status < SERVER_ERROR
        is_known = isinstance(error, TryLaterError | StatusRefusedError)
        if is_refused or isinstance(error, NotYetError) or not is_known:
            self.breaker.left()
            return
        self.last_error = str(error)
        self.failures += 1
        if isinstance(error, HoldError):
            self.breaker.left()
            self.held_s[signal] = now_s + error.after_s
            return
        self.breaker.failed(now_s)
        if isinstance(error, TryLaterError) and error.after_s > 0:
            self.asked_s = now_s + error.after_s

    def blamed(self, error: Exception, *, now_s: float) -> None:
        """Take note that it has refused what another one took."""
        self.last_error = f"{error}; another one took it"
        self.failures += 1
        self.breaker.failed(now_s)

    def told(self, now_s: float) -> dict[str, Any]:
        """Return this as `tidegate status` shows it."""
        state, is_asked = self.breaker.state, self.is_asked(now_s)
        if state is State.OPEN and self.breaker.allows(now_s):
            # Its time is over; that it is tried is for a request that is due.
            state = State.HALF_OPEN
        # A copy, since a thread may be at it.
        held = {signal.name.lower() for signal, until_s in dict(self.held_s).items() if now_s < until_s}
        until_s = max(self.asked_s, self.breaker.until_s if state is State.OPEN else now_s)
        return {
            "state": "asked to wait" if is_asked and state is State.CLOSED else state.value,
            "retry_in_s": round(max(0.0, until_s - now_s), 1),
            "last_error": self.last_error,
            "held_back": sorted(held),
            "failures_in_a_row": self.breaker.failures,
            "failures": self.failures,
            "opened": self.breaker.opened,
            "last_success_unix_s": self.last_success_s,
            "rtt_ms": round(self.rtt_s * 1000, 1),
            "goodput_bytes_s": round(self.goodput),
        }
