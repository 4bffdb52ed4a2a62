"""What an uplink knows of itself: what people ask about it, what it counts, which signals it holds back. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Signal
from gateway.uplinks.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from gateway.core.telemetry import Telemetry
    from gateway.uplinks.guards import Wire
    from gateway.uplinks.requests import Hand
    from gateway.uplinks.settings import RetrySettings

# So often the same refusal is said.
WARN_S: Final = 60.0
CLOCK_STEP_S: Final = 0.02


@dataclass(slots=True)
class Status:
    """What people ask about an uplink; times are the clock's nanoseconds, counts are since the start."""

    state: str = "stopped"
    reason: str = ""
    retry_at_ns: int = 0
    last_error: str = ""
    last_success_ns: int = 0
    readings_sent: int = 0
    readings_rejected: int = 0
    rtt_s: float = 0.0
    warned: str = ""
    warned_s: float = float("-inf")

    def told(self, *, now_ns: int) -> dict[str, object]:
        """Return this as `tidegate status` shows it."""
        return {
            "state": self.state,
            "reason": self.reason,
            "retry_in_s": round(max(0.0, (self.retry_at_ns - now_ns) / NS_PER_S), 1),
            "last_error": self.last_error,
            "last_success_unix_s": self.last_success_ns // NS_PER_S,
            "readings_sent": self.readings_sent,
            "readings_rejected": self.readings_rejected,
            "rtt_ms": round(self.rtt_s * 1000, 1),
        }

    def say(self, state: str, reason: str, *, retry_at_ns: int) -> None:
        """Take note of what it does now, why, and when that is over."""
        self.state, self.reason, self.retry_at_ns = state, reason, retry_at_ns

    def answered(self, hand: Hand, *, now_ns: int) -> None:
        """Take note of what became of a lease, at `now_ns` in Unix time."""
        self.last_success_ns = now_ns
        self.readings_sent += hand.delivered
        self.readings_rejected += hand.lost
        self.rtt_s = hand.rtt_s
        self.last_error = hand.message or self.last_error

    def is_news(self, message: str, now_s: float) -> bool:
        """Whether people are to be told of a refusal: a device that is refused each second fills no log."""
        is_news = message != self.warned or now_s - self.warned_s >= WARN_S
        if is_news:
            self.warned, self.warned_s = message, now_s
        return is_news


class Tally:
    """One uplink's counters, under the names that Prometheus reads."""

    def __init__(self, telemetry: Telemetry, uplink: str) -> None:
        self._telemetry = telemetry
        self._uplink = uplink
        self._bytes = self._requests = 0

    def sent(self, readings: int) -> None:
        """Count readings that were taken."""
        self._telemetry.count("tidegate_uplink_readings_sent", readings, uplink=self._uplink)

    def failed(self, kind: str) -> None:
        """Count a request that is to be sent again."""
        self._telemetry.count("tidegate_uplink_failures", uplink=self._uplink, kind=kind)

    def carry(self, wire: Wire) -> None:
        """Carry the wire's own counters over."""
        bytes_sent, requests, uplink = wire.bytes_sent, wire.requests, self._uplink
        self._telemetry.count("tidegate_uplink_bytes_sent", bytes_sent - self._bytes, uplink=uplink)
        self._telemetry.count("tidegate_uplink_requests", requests - self._requests, uplink=uplink)
        self._bytes, self._requests = bytes_sent, requests


class Holding:
    """The signals whose way is wrong: each has a path of its own, and one that is not there says nothing of the others.

    `reasons` are those that were held back and have not been taken since. Seconds are of one steady clock.
    """

    def __init__(self, retry: RetrySettings, random: Random) -> None:
        self.reasons: dict[Signal, str] = {}
        self._until_s: dict[Signal, float] = {}
        self._patience = {signal: Backoff.of(retry, random) for signal in Signal}

    @property
    def failures(self) -> int:
        """How often in a row the signal that was held back most often was."""
        return max(patience.failures for patience in self._patience.values())

    def told(self) -> dict[str, str]:
        """Return why signals are held back, as `tidegate status` shows it."""
        return {signal.name.lower(): reason for signal, reason in self.reasons.items()}

    def hold(self, signal: Signal, reason: str, *, after_s: float, now_s: float) -> float:
        """Hold a signal back; return for how many seconds, at least `after_s`."""
        self.reasons[signal] = reason
        wait_s = self._patience[signal].failed(after_s)
        self._until_s[signal] = now_s + wait_s
        return wait_s

    def is_held(self, signal: Signal, now_s: float) -> bool:
        """Whether a signal is held back just now."""
        return signal in self.reasons and not self.over([signal], now_s)

    def over(self, signals: Iterable[Signal], now_s: float) -> list[Signal]:
        """Return those that may be tried again; a timer may be early by as much as a clock's step."""
        return [signal for signal in signals if now_s >= self._until_s[signal] - CLOCK_STEP_S]

    def went(self, signal: Signal) -> bool:
        """Take note that a signal was taken; return whether it had been held back."""
        self._patience[signal].succeeded()
        return self.reasons.pop(signal, None) is not None

    def soonest(self, now_s: float) -> tuple[str, float]:
        """Return why the one that is tried next is held back, and for how many seconds still; "" where none is."""
        if not self.reasons:
            return "", 0.0
        signal = min(self.reasons, key=self._until_s.__getitem__)
        return self.reasons[signal], max(0.0, self._until_s[signal] - now_s)
