"""Whether a way is one just now: what failed, since when, and how long to wait for it. Must not wait, send or lease."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from gateway.uplinks.guards import InTransitError, NotYetError, PassedOnError, UnheardError, wait_bound_s
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

# So many requests in a row may each meet a server's own error for what is in it, and of whole ones so many: those
# after them are small, until one is taken.
ALONE_MAX: Final = 3
WHOLE_MAX: Final = 2
# And so many connections in a row may break at whole ones, or bring no answer: it may be what is in them.
BREAKS_MAX: Final = 3


class Outages:
    """One uplink's. What changes is said in the log once. Seconds are of one steady clock."""

    def __init__(
        self, uplink: str, retry: RetrySettings, *, random: Random, size: BatchSize, status: Status, tally: Tally
    ) -> None:
        self.is_down = False
        self.is_in_doubt = False  # the last request met what may be about its data: does the server take others?
        self._alone = self._breaks = 0
        self.backoff = Backoff.of(retry, random)
        self.holding = Holding(retry, random)
        self._uplink = uplink
        self._retry = retry
        self._size = size
        self.status = status
        self.tally = tally

    @property
    def attempt(self) -> int:
        """How often in a row it failed, or one of its signals."""
        return max(self.backoff.failures, self.holding.failures)

    @property
    def wants_proof(self) -> bool:
        """Whether a request is to be small, since it may only show that the server takes nothing."""
        is_servers = self.is_in_doubt and (self.is_down or self._alone >= WHOLE_MAX)
        return is_servers or self._breaks >= BREAKS_MAX

    def failed(self, error: TryLaterError, readings: int) -> float:
        """Take note that a request of so many readings failed; return how long to wait, in seconds."""
        if isinstance(error, NotYetError):
            return error.after_s
        reason = str(error)
        if isinstance(error, UnheardError):
            # Who is asked has told the log, of all of them together.
            self.failed_at_part(reason)
            return 0.0
        # It may be about this data alone: whether it is, the next ones show, and those are not to wait.
        self.is_in_doubt = error.put_off_s > 0
        is_alone = self.is_in_doubt and not (self.is_down or self.backoff.failures) and self._alone < ALONE_MAX
        if reason != self.status.last_error or not (self.is_down or is_alone):
            log.warning("uplink %s: %s", self._uplink, reason)
        self.status.last_error = reason
        self.tally.failed("throttled" if error.after_s else "later")
        if is_alone:
            self._alone += 1
            return 0.0
        self.is_down = True
        self._breaks += isinstance(error, InTransitError)
        self._size.failed(readings, in_transit=isinstance(error, InTransitError | PassedOnError))
        if error.at_once:
            return 0.0
        return self.backoff.failed(error.after_s, bound_s=wait_bound_s(error, self._retry))

    def failed_at_part(self, reason: str) -> None:
        """Take note that a server failed at a part of what it fails at, which says nothing of the way."""
        self.status.last_error = reason
        self.tally.failed("later")

    def held(self, error: HoldError, signal: Signal, *, now_s: float) -> float:
        """Take note that the way of a signal is wrong; return for how long it is held back, in seconds."""
        reason = str(error)
        if reason != self.holding.reasons.get(signal):
            log.warning("uplink %s: %s are held back: %s", self._uplink, signal.name.lower(), reason)
        self.status.last_error = reason
        self.tally.failed("hold")
        return self.holding.hold(signal, reason, after_s=error.after_s, now_s=now_s)

    def heard(self, answer: Answer | None) -> None:
        """Take note of the answer to a part of a lease, None where it was not taken: one ends a row of failures.

        A lease that waits for its last part is settled much later, and the others are not to wait for that.
        """
        if answer is not None:
            self._took()

    def answered(self, signal: Signal) -> bool:
        """Take note that the far side takes what it is sent, or says why not; return whether it had been away."""
        self._took()
        was_away = self.holding.went(signal) or self.is_down
        if was_away:
            log.info("uplink %s: is back", self._uplink)
        self.is_down = False
        return was_away

    def _took(self) -> None:
        self.backoff.succeeded()
        self.is_in_doubt = False
        self._alone = self._breaks = 0
