"""What an uplink waits for after a failure: time, a network, a clock, a commit, the next window. Must not deliver.

| what failed                       | waited for                                                    |
| --------------------------------- | ------------------------------------------------------------- |
| the request or its answer         | back-off, or sooner the kernel's word that a network came     |
| times are not known               | a clock; the receiver is asked for the hour meanwhile         |
| no link is up                     | one that the uplink may use                                   |
| no note of what is to be spent    | the commit that writes it                                     |
| the budget                        | nothing where smaller requests still fit, else its next window |
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.net.interfaces import NetworkWait
from gateway.uplinks.guards import InTransitError, NoLinkError, NotYetError, UnreachableError
from gateway.uplinks.requests import NoClockError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gateway.core.contracts import TryLaterError
    from gateway.store.database import Store
    from gateway.uplinks.clock_wait import ClockWait
    from gateway.uplinks.guards import Wire
    from gateway.uplinks.pacing import BatchSize
    from gateway.uplinks.spending import Spending

_T = TypeVar("_T")


class Waits:
    """The waits of one uplink; `say` hears state, reason and for how long."""

    def __init__(
        self,
        uplink: str,
        *,
        store: Store,
        wire: Wire,
        size: BatchSize,
        spending: Spending,
        clock_wait: ClockWait,
        say: Callable[[str, str, float], None],
    ) -> None:
        self.network = NetworkWait()
        self.lacked_clock = False
        self.is_stopping = False
        self.is_shut = False  # whether nothing more can be sent before a stop
        self._uplink = uplink
        self._store = store
        self._wire = wire
        self._size = size
        self._spending = spending
        self.clock_wait = clock_wait
        self._say = say

    def begin(self) -> None:
        """Take note that the uplink runs, again after a stop too."""
        self.is_stopping = self.is_shut = False

    async def until_again(self, error: TryLaterError, wait_s: float) -> None:
        """Return when what met `error` may be tried again, after `wait_s` where that is known."""
        if isinstance(error, NoClockError):
            await self._for_clock(error, wait_s)
        elif isinstance(error, NoLinkError):
            await self._for_link(error)
        elif isinstance(error, NotYetError):
            await self._for_budget(error)
        else:
            reason = str(error)
            # At a stop there is no time for that, and over another link it is not the same that is tried.
            if isinstance(error, UnreachableError) and not (error.at_once or self.is_stopping):
                held_back_s = self._spending.held_back_s()
                if held_back_s > wait_s:
                    wait_s, reason = held_back_s, f"{reason}; tries have had their part of what may be spent"
            self._say("waiting", reason, wait_s)
            self._store.rest(self._uplink, wait_s)
            is_quiet = isinstance(error, UnreachableError | InTransitError)
            await (self.network.sleep(wait_s) if is_quiet else asyncio.sleep(wait_s))

    async def _for_clock(self, error: NoClockError, wait_s: float) -> None:
        self.lacked_clock = not await self._may_probe(self.clock_wait.wait(error, wait_s, say=self._say))
        # Whatever kept the road closed, what is freshest goes first when it opens.
        if not self.lacked_clock:
            self._store.link_up(self._uplink)

    async def _for_link(self, error: NoLinkError) -> None:
        if self.is_stopping:
            self.is_shut = True
        else:
            await self._spending.wait_for_link(error, say=self._say)

    async def _for_budget(self, error: NotYetError) -> None:
        share = self._spending.share_that_fits(error)
        if share is not None and self._size.fit(share):
            return
        if not error.after_s:
            await self._spending.wait_for_commit()
        elif self.is_stopping:
            # Nobody waits for the next window with that.
            self.is_shut = True
        else:
            await self._may_probe(self._spending.wait(error, say=self._say, ask=self.clock_wait.probe))

    async def _may_probe(self, waiting: Coroutine[Any, Any, _T]) -> _T:
        """Return what `waiting` does."""
        try:
            return await waiting
        except asyncio.CancelledError:
            # The thread may be stuck in a probe: nothing more is asked of it.
            self._wire.stop()
            self.is_shut = True
            raise
