"""Whether a way is one just now: what failed, since when, and how long to wait for it. Must not wait, send or lease."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gateway.uplinks.guards import InTransitError, NotYetError, PassedOnError, wait_bound_s
from gateway.uplinks.retry import Backoff
from gateway.uplinks.state import Holding

if TYPE_CHECKING:
    from random import Random

    from gateway.core.contracts import Signal, TryLaterError
    from gateway.uplinks.guards import Answer, HoldError
    from gateway.uplinks.pacing import BatchSize
    from gateway.uplinks.settings import RetrySettings
    from gateway.uplinks.state import Status, Tally

log = logging.getLogger("tidegate.uplinks")


class Outages:
    """One uplink's. What changes is said in the log once. Seconds are of one steady clock."""

    def __init__(
        self, uplink: str, retry: RetrySettings, *, random: Random, size: BatchSize, status: Status, tally: Tally
    ) -> None:
        self.is_down = False
        self.backoff = Backoff.of(retry, random)
        self.holding = Holding(retry, random)
        self._uplink = uplink
        self._retry = retry
        self._size = size
        self._status = status
        self._tally = tally

    @property
    def attempt(self) -> int:
        """How often in a row it failed, or one of its signals."""
        return max(self.backoff.failures, self.holding.failures)

    def failed(self, error: TryLaterError, readings: int) -> float:
        """Take note that a request of so many readings failed; return how long to wait, in seconds."""
        if isinstance(error, NotYetError):
            return error.after_s
        reason = str(error)
        # It may be about this data alone: whether it is, the next request shows, and that one is not to wait.
        is_alone = error.put_off_s > 0 and not (self.is_down or self.backoff.failures)
        if reason != self._status.last_error or not (self.is_down or is_alone):
            log.warning("uplink %s: %s", self._uplink, reason)
        self._status.last_error = reason
        self.is_down = not is_alone
        self._size.failed(readings, in_transit=isinstance(error, InTransitError | PassedOnError))
        self._tally.failed("throttled" if error.after_s else "later")
        if error.at_once:
            return 0.0
        wait_s = self.backoff.failed(error.after_s, bound_s=wait_bound_s(error, self._retry))
        return 0.0 if is_alone else wait_s

    def held(self, error: HoldError, signal: Signal, *, now_s: float) -> float:
        """Take note that the way of a signal is wrong; return for how long it is held back, in seconds."""
        reason = str(error)
        if reason != self.holding.reasons.get(signal):
            log.warning("uplink %s: %s are held back: %s", self._uplink, signal.name.lower(), reason)
        self._status.last_error = reason
        self._tally.failed("hold")
        return self.holding.hold(signal, reason, after_s=error.after_s, now_s=now_s)

    def heard(self, answer: Answer | None) -> None:
        """Take note of the answer to a part of a lease, None where it was not taken: one ends a row of failures.

        A lease that waits for its last part is settled much later, and the others are not to wait for that.
        """
        if answer is not None:
            self.backoff.succeeded()

    def answered(self, signal: Signal) -> bool:
        """Take note that the far side takes what it is sent, or says why not; return whether it had been away."""
        self.backoff.succeeded()
        was_away = self.holding.went(signal) or self.is_down
        if was_away:
            log.info("uplink %s: is back", self._uplink)
        self.is_down = False
        return was_away
