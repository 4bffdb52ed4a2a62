"""An uplink's budget beside its wire, store and clock: what pays, what decides what goes, and waits. Must not send."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from gateway.core.clock import NS_PER_S, Quality
from gateway.store.policy import ALL, Lane

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.core.clock import Clock
    from gateway.core.contracts import Priority
    from gateway.store.database import Store
    from gateway.store.policy import Terms as LeaseTerms
    from gateway.store.spots import Outlook
    from gateway.uplinks.budget import Budget, OverBudgetError
    from gateway.uplinks.guards import MeteredWire, NoLinkError, NotYetError, Wire
    from gateway.uplinks.links import Link, Road
    from gateway.uplinks.metered import Metered
    from gateway.uplinks.purse import Purse
    from gateway.uplinks.ration import Ration
    from gateway.uplinks.requests import Hand
    from gateway.uplinks.scheduling import Decision, Scheduler
    from gateway.uplinks.terms import Terms
    from gateway.uplinks.windows import Moment

log = logging.getLogger("tidegate.uplinks")

# A clock may be set meanwhile, and a window end sooner than it seemed.
LOOK_S: Final = 60.0
# A connection that did not come about, to each of several receivers: what had gone before that is no part of it.
TRY_BYTES_MAX: Final = 4096
# A request of a few readings, with its connection; and what is worth the while.
LEAST_BYTES: Final = 16 * 1024
SMALL_BYTES: Final = 24 * 1024
# The same where something may come that goes all the same.
OVERDRAW_LOOK_S: Final = 5.0
# How often it is said anew why no link is up.
LINK_LOOK_S: Final = 5.0
# How often the time is asked for where the budget is spent: that costs too.
ASK_S: Final = 3600.0


class Spending:
    """What one uplink may spend. Without a budget all of it does nothing, and what would is not even loaded."""

    def __init__(self, settings: Terms, *, store: Store, clock: Clock, road: Road | None = None) -> None:
        self._road = road
        self._name = settings.name
        self._settings = settings.budget
        self._interval = settings.batch_interval
        self._store = store
        self._clock = clock
        self._metered: Metered | None = None
        self._own: Budget | None = None
        self._purse: Purse | None = None
        self._ration: Ration | None = None
        self._budget: Budget | Purse | None = None
        self._scheduler: Scheduler | None = None
        self._planned_for: Link | None = None
        self._own_overdraws = settings.budget.overdraws()
        self._overdrawn_s = float("-inf")  # when others were kept waiting for these last
        self._counted_bytes = self._tried_bytes = 0
        self._ends_s: dict[str, float] = {}
        if settings.budget.allowances():
            from gateway.uplinks.purse import budget_of  # noqa: PLC0415  only for who has one
            from gateway.uplinks.ration import Ration  # noqa: PLC0415  the same

            now = partial(moment_of, store, clock)
            self._budget = self._own = budget_of(settings.budget, now=now, note=store.notes.last(settings.name))
            assert self._own is not None
            self._ration = Ration(self._own, settings.budget)
            store.notes.keep(settings.name, self._own)
        if road is not None:
            from gateway.uplinks.purse import Purse  # noqa: PLC0415  the same

            self._budget = self._purse = Purse(road, self._own, overdraws=self._own_overdraws, now_s=self._now_s)

    def around(self, wire: Wire) -> Wire:
        """Return a wire that pays for what it sends and goes over links, or `wire` itself where nothing says how."""
        outer = self._metering(wire)
        if self._road is None:
            return outer
        from gateway.uplinks.linked import BoundWire, Linked  # noqa: PLC0415  only for who names links

        return Linked(outer, wire=cast("BoundWire", wire), road=self._road, pay_for=self._pay_for)

    def _pay_for(self, link: Link) -> None:
        """Pay for what goes over a link from now on. From the thread."""
        if self._metered is not None and self._purse is not None:
            self._purse.use(link)
            self._metered.share(link.pacer)

    def _metering(self, wire: Wire) -> Wire:
        is_limited = self._road is not None and self._road.is_limited
        if self._own is None and self._settings.rate is None and not is_limited:
            return wire
        from gateway.uplinks.metered import Metered  # noqa: PLC0415  the same
        from gateway.uplinks.scheduling import Scheduler  # noqa: PLC0415  the same

        self._scheduler = Scheduler(float(self._interval))
        self._metered = Metered(
            cast("MeteredWire", wire),
            self._budget,
            rate=self._settings.rate,
            now_s=self._now_s,
        )
        return self._metered

    @property
    def may_bind(self) -> bool:
        """Whether anything limits what is sent, or may do so on another link."""
        return self._scheduler is not None

    @property
    def is_bound(self) -> bool:
        """Whether anything limits what is sent just now."""
        if self._scheduler is None or self._purse is None:
            return self._scheduler is not None
        return self._settings.rate is not None or self._purse.is_limiting

    def overdraws(self) -> frozenset[Priority]:
        """Return the classes that may go beyond an allowance just now."""
        return self._own_overdraws if self._purse is None else self._purse.overdraws()

    def tell_of_links(self, on_found: Callable[[], None]) -> None:
        """Call `on_found` when there is another link to go over."""
        if self._road is not None:
            self._road.on_found = on_found

    def decide(self) -> Decision | None:
        """Return what may be leased now, and else how long to wait and why; None where nothing limits it."""
        if self._scheduler is None:
            return None
        if not self._store.unleased(self._name):
            # The store knows without looking where there may be something. If there is nothing, let it look.
            from gateway.uplinks.scheduling import Decision  # noqa: PLC0415  the same

            return Decision()
        link = None if self._road is None else self._road.current
        if link is not self._planned_for:
            # What was planned was for another one's allowances.
            self._planned_for = link
            self._ends_s.clear()
            self._scheduler.begin_window()
        windows = [] if self._budget is None else self._budget.windows()
        rate = self._settings.rate if self._purse is None else self._purse.rate(self._settings.rate)
        for window in windows:
            if window.left_s > self._ends_s.get(window.name, float("inf")):
                self._scheduler.begin_window()
            self._ends_s[window.name] = window.left_s
        outlook = self._store.outlook(self._name)
        now_s = self._now_s()
        self._scheduler.overdraws = self.overdraws() if self._has_overdraft() else frozenset()
        decision = self._scheduler.decide(now_s, windows=windows, rate=rate, outlook=outlook)
        self._say_wanted(link, outlook)
        if not self._may_overdraw(outlook) or self._budget is None:
            return decision
        # What else goes, or is thinned, is as it was decided; where nothing is left for it these go alone.
        is_spent = self._budget.lacking(LEAST_BYTES) is not None
        return replace(decision, terms=decision.terms.letting(self.overdraws(), alone=is_spent), wait_s=0.0)

    def lets_live_alone(self, terms: LeaseTerms) -> bool:
        """Whether by `terms` some of what is held is kept, and of the rest nothing is older than live."""
        spots = self._store.outlook(self._name).spots if terms is not ALL else ()
        lets = [(lane, terms.may_take(lane, priority)) for lane, priority in spots]
        return not all(may for _, may in lets) and not any(may for lane, may in lets if lane is not Lane.LIVE)

    def _say_wanted(self, link: Link | None, outlook: Outlook) -> None:
        """Have it known how much this uplink would send, to whoever else plans with the same link."""
        allocation = None if self._scheduler is None else self._scheduler.allocation
        if link is None or allocation is None:
            return
        backlog_s = outlook.backlog_share * allocation.may_s if outlook.backlog_readings else 0.0
        link.wants(self._name, allocation.wanted_s + backlog_s, self._now_s())

    def _may_overdraw(self, outlook: Outlook) -> bool:
        """Whether something is held that may go beyond an allowance, and may by how much it is spent."""
        overdraws = self.overdraws()
        return any(priority in overdraws for _, priority in outlook.spots) and self._has_overdraft()

    def _has_overdraft(self) -> bool:
        return self._budget is not None and self._budget.lacking(LEAST_BYTES, may_overdraw=True) is None

    def charge(self, hand: Hand) -> None:
        """Take note what became of a lease, and what went over the wire for it."""
        if self._scheduler is None or self._metered is None:
            return
        from gateway.uplinks.flow import Sent  # noqa: PLC0415  the same

        before, self._counted_bytes = self._counted_bytes, self._metered.wire.wire_bytes
        lease, charged, hand.charged = hand.lease, hand.charged, hand.delivered
        self._scheduler.sent(
            Sent(
                lease.lane,
                lease.segments[0].priority,
                lease.readings,
                hand.delivered - charged,
                hand.series,
                lease.step_s,
                self._counted_bytes - before,
            ),
            self._now_s(),
        )
        if not self._store.unleased(self._name):
            self._scheduler.rest()

    def held_back_s(self) -> float:
        """Take note that a try came to no connection; return for how long there is none, to cost a part of it alone."""
        if self._metered is None:
            return 0.0
        before, self._tried_bytes = max(self._tried_bytes, self._counted_bytes), self._metered.wire.wire_bytes
        link = None if self._road is None else self._road.current
        own = self._ration if link is None or link.settings.metered else None
        rations = (own, None if link is None else link.ration)
        wait_s = 0.0
        for ration in rations:
            if ration is not None:
                ration.spent(min(TRY_BYTES_MAX, self._tried_bytes - before))
                wait_s = max(wait_s, ration.wait_s(self._now_s()))
        return wait_s

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / NS_PER_S

    async def prepare(self) -> None:
        """Have the disk know what the next request may cost, before it is made."""
        if self._budget is None or self._metered is None:
            return
        if not self._budget.covers(max(LEAST_BYTES, 2 * self._metered.last_cost)):
            await self._cover()

    async def wait_for_commit(self) -> None:
        """Return when what is to be spent stands on the disk."""
        await self._cover()

    def share_that_fits(self, error: NotYetError) -> float | None:
        """Return which part of a request would still find room, None where it does not lack any or next to none has."""
        from gateway.uplinks.budget import OverBudgetError  # noqa: PLC0415  the same

        if not isinstance(error, OverBudgetError) or error.left_bytes < SMALL_BYTES:
            return None
        # What a request costs whatever its size is in both.
        return min(1.0, (error.left_bytes - LEAST_BYTES) / max(1, error.size_bytes - LEAST_BYTES))

    async def wait(
        self, error: NotYetError, *, say: Callable[[str, str, float], None], ask: Callable[[float], Awaitable[None]]
    ) -> None:
        """Return when what `error` was about may be tried again; `say` hears state, reason and for how long.

        `ask` asks the receiver for the time, unless it did so within so many seconds.
        """
        from gateway.uplinks.budget import OverBudgetError  # noqa: PLC0415  the same

        assert self._budget is not None
        assert isinstance(error, OverBudgetError)
        log.info("uplink %s: %s", self._name, error)
        while (left := self._budget.lacking(error.size_bytes, may_overdraw=error.may_overdraw)) is not None:
            if self._lets_others_go(error):
                return
            say("over budget", str(left), left.after_s)
            self._store.rest(self._name, left.after_s)
            if not left.is_end_known:
                await ask(ASK_S)
                if moment_of(self._store, self._clock).wall_s is not None:
                    continue
            await self._sleep(min(left.after_s, OVERDRAW_LOOK_S if self.overdraws() else LOOK_S))
        # What is freshest by now goes first.
        self._store.link_up(self._name)

    async def _sleep(self, seconds: float) -> None:
        await (asyncio.sleep(seconds) if self._road is None else self._road.sleep(seconds))

    def _lets_others_go(self, error: OverBudgetError) -> bool:
        """Whether what waits is to be put off for something that may overdraw; now and then, and not for its like."""
        now_s = self._now_s()
        if error.may_overdraw or now_s < self._overdrawn_s + OVERDRAW_LOOK_S:
            return False
        if not self._may_overdraw(self._store.outlook(self._name)):
            return False
        self._overdrawn_s = now_s
        error.put_off_s = LOOK_S
        return True

    async def wait_for_link(self, error: NoLinkError, *, say: Callable[[str, str, float], None]) -> None:
        """Return when a link is up that may be used; `say` hears state, reason and for how long."""
        assert self._road is not None
        say("no link", str(error), error.after_s)
        self._store.rest(self._name, error.after_s)
        while not await self._road.wait(LINK_LOOK_S):
            say("no link", self._road.why_none(), error.after_s)
        # What is freshest by now goes first.
        self._store.link_up(self._name)

    async def _cover(self) -> None:
        assert self._budget is not None
        write = partial(self._store.notes.write, self._name)
        if self._purse is not None:
            await self._purse.cover(write)
        elif self._own is not None and not await write():
            # Nothing can be written, and what is held is worth more than the account of what it costs.
            self._own.mute()

    def told(self) -> dict[str, Any]:
        """Return limits and what was spent, as `tidegate status` shows it; nothing where nothing limits it."""
        if self._metered is None:
            return {}
        rate = {} if self._settings.rate is None else {"rate_bit_s": round(self._settings.rate * 8)}
        windows = {} if self._own is None else self._own.told()
        plan = {} if self._scheduler is None else self._scheduler.told()
        told = {**rate, **windows, "wire_bytes": self._metered.wire.wire_bytes}
        return {"budget": {**told, "plan": plan} if plan else told}


def moment_of(store: Store, clock: Clock) -> Moment:
    """Return the time of day as far as a store knows it."""
    from gateway.uplinks.windows import Moment  # noqa: PLC0415  only for who has a budget

    timeline, now_ns = store.timeline, clock.monotonic_ns()
    wall_ns = timeline.wall_from(now_ns)
    return Moment(
        boot=timeline.current.uuid,
        steady_s=now_ns / NS_PER_S,
        wall_s=None if wall_ns is None else wall_ns / NS_PER_S,
        is_sure=timeline.quality is Quality.SYNCED,
    )
