"""Whether fresh data goes between the requests of a lease that takes several. Must not send or lease by itself.

The shelf leases segments whole, and what came in together stands in one: over a slow line that may be many requests.
The shares of the lanes count all of it as soon as it is leased. Here it is seen to that fresh data need not wait for
its last request, and that what goes in between leaves the backlog its share.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.store.policy import Lane, Terms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.store.database import Lease, Store
    from gateway.uplinks.guards import Answer
    from gateway.uplinks.pacing import Rounds
    from gateway.uplinks.requests import Hand

FRESH: Final = frozenset((Lane.LIVE, Lane.EVIDENCE))
QUICK_S: Final = 0.1
# So much of a turn that took too long is made up for; a stall is nobody's turn.
OVER_S_MAX: Final = 5.0


class FreshFirst:
    """One uplink's. Shares are of time: a small request costs a round trip, too."""

    def __init__(self, name: str, *, store: Store, rounds: Rounds) -> None:
        self._name = name
        self._store = store
        self._rounds = rounds
        self._until_s: float | None = None  # fresh data's turn, while something gives way
        self._over_s = 0.0  # how much longer than its turn the last one took

    def gives_way(self, hand: Hand, answer: Answer | None) -> bool:
        """Whether `hand`, of which a request was just answered, is to pause for fresh data that may go now.

        Over a road that answers at once nothing has to wait for long. None is one that is to be sent in parts.
        """
        if not hand.parts or hand.lease.lane in FRESH or answer is None or answer.seconds < QUICK_S:
            return False
        outlook = self._store.outlook(self._name)
        share = outlook.backlog_share
        may_go = any(lane in FRESH for lane, _ in outlook.spots) and self._rounds.may_begin(_now_s())
        if share >= 1 or not may_go:
            return False
        turn_s = (answer.seconds * (1 - share) / share if share else float("inf")) - self._over_s
        self._over_s = max(0.0, -turn_s)
        if turn_s > 0:
            self._until_s, hand.pause_s = _now_s() + turn_s, 0.0
        return turn_s > 0

    async def lease(self, lease_next: Callable[..., Awaitable[Lease | None]], terms: Terms) -> Lease | None:
        """Return what is fresh and goes before what gave way; None where it is not its turn, or its turn is over.

        `lease_next(terms=…)` leases.
        """
        if self._until_s is None:
            return None
        now_s = _now_s()
        if now_s < self._until_s and (lease := await lease_next(terms=fresh_of(terms))) is not None:
            return lease
        self._over_s, self._until_s = min(OVER_S_MAX, max(0.0, now_s - self._until_s)), None
        return None


def fresh_of(terms: Terms) -> Terms:
    """Return `terms` without what is not fresh."""
    may = tuple([tuple([lane in FRESH and one for one in row]) for lane, row in zip(Lane, terms.may, strict=True)])
    return Terms(may, terms.step_s, terms.readings_max, terms.thinned_max)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
