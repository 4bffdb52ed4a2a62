"""Whose turn it is: what is in the store, or in hand and waits. Must not send, nor know how a lease is chosen.

| there is                                   | while the road is sure                     | after a server's own error |
| ------------------------------------------ | ------------------------------------------ | -------------------------- |
| fresh data for which a lease gave way      | first, in its turn (fresh_first.py)        | the same                   |
| what a server failed at, and is due        | first, for a share of the time (parked.py) | last                       |
| what waits in hand for another reason      | first                                      | first                      |
| what is held in the store                  | next, and as a rule                        | next                       |
| the same, and a server failed at it before | as in the first line, or put off           | last, or put off           |
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.uplinks.requests import Hand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.store.database import Lease
    from gateway.uplinks.endings import Endings
    from gateway.uplinks.outages import Outages
    from gateway.uplinks.parked import Parked
    from gateway.uplinks.sending import Sending

# So many leases that a server failed at before are passed over in one go.
UNSEEN_MAX: Final = 64


class Turns:
    """One uplink's."""

    def __init__(self, *, sending: Sending, parked: Parked, outages: Outages, endings: Endings) -> None:
        self._sending = sending
        self._parked = parked
        self._outages = outages
        self._endings = endings

    def is_parked_next(self) -> bool:
        """Whether something that waits in hand goes before what is held."""
        return self._parked.is_turn(_now_s()) and self._parked.has_due(_now_s())

    async def next(
        self, lease_next: Callable[[], Awaitable[Lease | None]], lease_fresh: Callable[[], Awaitable[Lease | None]]
    ) -> Hand | None:
        """Return what is to go next, None where there is nothing; `lease_fresh` gives what a lease gave way for."""
        if (fresh := await self._lease(lease_fresh, may_be_suspect=False)) is not None:
            return fresh
        # Who fails for what is in a request has to show first that it takes another one.
        is_turn = self._parked.is_turn(_now_s()) and not self._outages.is_in_doubt
        hand = self._parked.pop_due(_now_s(), may_be_suspect=is_turn)
        return hand or await self._lease(lease_next, may_be_suspect=is_turn) or self._parked.pop_due(_now_s())

    async def _lease(self, lease_next: Callable[[], Awaitable[Lease | None]], *, may_be_suspect: bool) -> Hand | None:
        """Lease what is to go next; what a server failed at before only in its turn, or where there is nothing else."""
        suspect: Lease | None = None
        passed_over: set[int] = set()
        try:
            for _ in range(UNSEEN_MAX):
                if (lease := await lease_next()) is None:
                    break
                first_id = lease.segments[0].id
                # So much is put off that the store can do so with no more: then all stay in their turn.
                if not self._sending.has_failed(lease) or first_id in passed_over:
                    return Hand(lease)
                passed_over.add(first_id)
                if self._parked.has_room and suspect is None:
                    suspect = lease
                    if may_be_suspect:
                        break
                else:
                    self._endings.put_off_unseen(lease)
            lease, suspect = suspect, None
            return None if lease is None else Hand(lease, is_suspect=True)
        finally:
            if suspect is not None:
                self._endings.put_off_unseen(suspect)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
