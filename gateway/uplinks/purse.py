"""What an uplink over links pays from: its own budget, and that of the link that it uses. Must not send or wait.

| the link in use                    | pays                                                            |
| ---------------------------------- | --------------------------------------------------------------- |
| is free (`metered = false`)        | nobody: it is whole and as fast as the rates allow               |
| is metered                         | the uplink's own budget, where it has one                        |
| is metered and has a budget itself | that too, and what others send over it is in it                  |

What goes has to find room in all of them, or nothing is taken of any. The thread pays for the link that it sends over;
what is planned and waited for is about the link that is to be used now, which may be the next one already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.uplinks.budget import COUNT_MAX, Budget, OverBudgetError
from gateway.uplinks.guards import NotYetError
from gateway.uplinks.scheduling import WindowLeft
from gateway.uplinks.windows import calendar_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.core.contracts import Priority
    from gateway.uplinks.budget_settings import BudgetSettings
    from gateway.uplinks.links import Link, Road
    from gateway.uplinks.pacer import Pacer
    from gateway.uplinks.windows import Moment


class Paying(Protocol):
    """A `Budget`, or several as one."""

    @property
    def largest_bytes(self) -> int:
        """The most that one request can ever cost."""
        ...

    def take(self, size_bytes: int, *, is_probe: bool = ..., may_overdraw: bool = ..., payer: str = ...) -> bool:
        """See `Budget`."""
        ...

    def go_on(self, spent_bytes: int, *, may_overdraw: bool = ..., payer: str = ...) -> None:
        """See `Budget`."""
        ...

    def settle(self, taken_bytes: int, spent_bytes: int, *, payer: str = ...) -> None:
        """See `Budget`."""
        ...

    def lacking(self, size_bytes: int, *, may_overdraw: bool = ...) -> OverBudgetError | None:
        """See `Budget`."""
        ...

    def covers(self, size_bytes: int) -> bool:
        """See `Budget`."""
        ...

    def windows(self) -> list[WindowLeft]:
        """See `Budget`."""
        ...


def budget_of(settings: BudgetSettings, *, now: Callable[[], Moment], note: bytes, where: str = "") -> Budget | None:
    """Return the budget that settings speak of, None where they allow whatever goes. `where` is said of it."""
    limits = settings.allowances()
    if not limits:
        return None
    return Budget(
        limits,
        now=now,
        note=note,
        calendar=calendar_of(settings),
        free=settings.free_hours(),
        overdraw_bytes=int(settings.overdraw_max or 0),
        where=where,
    )


class Purse:
    """One uplink's. `use`, `take`, `go_on` and `settle` are for its thread, the rest for the event loop."""

    def __init__(
        self, road: Road, own: Budget | None, *, overdraws: frozenset[Priority], now_s: Callable[[], float]
    ) -> None:
        self._now_s = now_s
        self._road = road
        self._own = own
        self._own_overdraws = overdraws
        self._paying: tuple[Budget, ...] = ()
        self.pacer: Pacer | None = None  # of the link that is sent over
        self._payer = road.uplink

    def _of(self, link: Link | None) -> tuple[Budget, ...]:
        if link is None or not link.settings.metered:
            return ()
        return tuple(budget for budget in (self._own, link.budget) if budget is not None)

    # From the thread.

    def use(self, link: Link) -> None:
        """Pay for what goes over `link` from now on; what was taken is settled."""
        self._paying, self.pacer = self._of(link), link.pacer

    @property
    def largest_bytes(self) -> int:
        """The most that one request can ever cost."""
        return min((budget.largest_bytes for budget in self._paying), default=COUNT_MAX)

    def take(self, size_bytes: int, *, is_probe: bool = False, may_overdraw: bool = False, payer: str = "") -> bool:
        """Spend so much of all of them, or raise as `Budget.take` does with nothing spent of any."""
        payer = payer or self._payer
        taken: list[tuple[Budget, bool]] = []
        try:
            for budget in self._paying:
                is_free = budget.take(size_bytes, is_probe=is_probe, may_overdraw=may_overdraw, payer=payer)
                taken.append((budget, is_free))
        except NotYetError:
            for budget, is_free in taken:
                budget.give_back(size_bytes, is_free=is_free, payer=payer)
            raise
        return all(is_free for _, is_free in taken)

    def go_on(self, spent_bytes: int, *, may_overdraw: bool = False, payer: str = "") -> None:
        """Go on with a request that has cost so much by now."""
        for budget in self._paying:
            budget.go_on(spent_bytes, may_overdraw=may_overdraw, payer=payer or self._payer)

    def settle(self, taken_bytes: int, spent_bytes: int, *, payer: str = "") -> None:
        """Take note what a request really cost for which `taken_bytes` had been taken."""
        for budget in self._paying:
            budget.settle(taken_bytes, spent_bytes, payer=payer or self._payer)

    # From the event loop.

    def lacking(self, size_bytes: int, *, may_overdraw: bool = False) -> OverBudgetError | None:
        """Return why so much cannot be spent now and when it can, None if it can."""
        over = [budget.lacking(size_bytes, may_overdraw=may_overdraw) for budget in self._of(self._road.current)]
        return max((error for error in over if error is not None), key=lambda error: error.after_s, default=None)

    def covers(self, size_bytes: int) -> bool:
        """Whether notes on the disk cover so much; if not, the next ones do."""
        # Each of them has to know what is wanted of it.
        lacking = [budget for budget in self._of(self._road.current) if not budget.covers(size_bytes)]
        return not lacking

    def windows(self) -> list[WindowLeft]:
        """Return what is left of those windows whose end is known; of the link's, this uplink's part of it."""
        link = self._road.current
        budgets = self._of(link)
        found = self._own.windows() if self._own in budgets and self._own is not None else []
        if link is not None and link.budget is not None and link.budget in budgets:
            for left in link.budget.windows():
                share = link.share_of(self._payer, self._now_s(), may_s=left.left_bytes / max(1.0, left.left_s))
                found.append(WindowLeft(f"{left.name} on {link.name}", share * left.left_bytes, left.left_s))
        return found

    def rate(self, own: float | None) -> float | None:
        """Return how fast it may send now, in bytes a second, where its own bound is `own`."""
        link = self._road.current
        if link is None or link.pacer is None:
            return own
        shared = link.pacer.rate * link.share_of(self._payer, self._now_s(), may_s=link.pacer.rate)
        return shared if own is None else min(own, shared)

    @property
    def is_limiting(self) -> bool:
        """Whether anything bounds what goes over the link that is used now, beside the uplink's own rate."""
        link = self._road.current
        return link is None or bool(self._of(link)) or link.pacer is not None

    def overdraws(self) -> frozenset[Priority]:
        """Return the classes that may go beyond an allowance: beyond each that they would go beyond."""
        link = self._road.current
        budgets = self._of(link)
        found = [self._own_overdraws] if self._own in budgets and self._own is not None else []
        if link is not None and link.budget is not None and link.budget in budgets:
            found.append(link.settings.budget.overdraws())
        return frozenset.intersection(*found) if found else frozenset()

    async def cover(self, write_own: Callable[[], Awaitable[bool]]) -> None:
        """Return when what is to be spent stands on the disk, as far as that takes it."""
        link = self._road.current
        for budget in self._of(link):
            if not budget.wants_note:
                continue
            is_written = await (write_own() if link is None or budget is self._own else link.write_note())
            if not is_written:
                budget.mute()
