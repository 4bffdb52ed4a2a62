"""What becomes of a lease in hand: settled, given back, put off, or held with its signal. Must not send or lease.

| it was                              | then it is                                                              |
| ----------------------------------- | ----------------------------------------------------------------------- |
| taken, or refused, to its end       | settled: the store lets go of it                                        |
| not begun, and the road is none     | given back: what is freshest by then goes first                         |
| what a server failed at             | put off in hand, others go; where there is no room for that, given back |
| of a signal whose way is wrong      | in hand if it was begun, one of each signal; else given back            |
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gateway.uplinks.requests import REJECTED
from gateway.uplinks.verdicts import PUT_OFF_S, PUT_OFF_S_MAX, NothingTakenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.clock import Clock
    from gateway.store.database import Lease, Store
    from gateway.uplinks.guards import HoldError
    from gateway.uplinks.outages import Outages
    from gateway.uplinks.parked import Parked
    from gateway.uplinks.requests import Hand
    from gateway.uplinks.waits import Waits

log = logging.getLogger("tidegate.uplinks")


class Endings:
    """One uplink's; `say` hears state, reason and for how long."""

    def __init__(
        self,
        uplink: str,
        *,
        store: Store,
        clock: Clock,
        outages: Outages,
        parked: Parked,
        waits: Waits,
        say: Callable[[str, str, float], None],
    ) -> None:
        self._uplink = uplink
        self._store = store
        self._clock = clock
        self._outages = outages
        self._parked = parked
        self._waits = waits
        self._say = say

    def settle(self, hand: Hand) -> None:
        """Tell the store what became of the whole lease."""
        assert not hand.parts
        assert not hand.doubted
        if hand.is_begun:
            self._answered(hand)
        if hand.is_thinned:
            # What was refused of it, or cannot be read, is counted when the rest goes.
            self._store.thinned(hand.lease, readings=hand.delivered)
            return
        if hand.message and hand.rejected and self._outages.status.is_news(hand.message, _now_s()):
            log.warning("uplink %s: %s", self._uplink, hand.verdict())
        if hand.lost and not hand.delivered and REJECTED not in hand.rejected:
            self._store.refuse(hand.lease, hand.reason(), hand.message)
        else:
            self._store.ack(hand.lease, rejected=hand.lost, reason=hand.reason() or REJECTED, aside=hand.aside())

    def _answered(self, hand: Hand) -> None:
        """Note that the far side is there and takes what it is sent, or says why not."""
        self._outages.status.answered(hand, now_ns=self._clock.wall_ns())
        self._outages.tally.sent(hand.delivered)
        if self._outages.answered(hand.lease.signal) or self._waits.lacked_clock:
            self._waits.lacked_clock = False
            self._store.link_up(self._uplink)
        self._waits.clock_wait.answered(hand.server_time_s, hand.rtt_s)

    def give_back(self, hand: Hand, *, maybe_delivered: bool, put_off_s: float = 0.0) -> None:
        """Have a lease sent again, and say how much of it may be there already."""
        if hand.is_thinned:
            # Of what stands for a lease nobody has more than that.
            waiting = hand.lease.readings if hand.parts is None else sum(map(len, hand.parts))
            if readings := hand.delivered + maybe_delivered * waiting:
                self._store.note_maybe_twice(hand.lease, readings)
        self._store.release(hand.lease, maybe_delivered=maybe_delivered and not hand.is_thinned, put_off_s=put_off_s)

    def give_back_all(self) -> None:
        """At a stop: what is in hand and waits. What a server failed at was counted each time."""
        while (hand := self._parked.pop()) is not None:
            self.give_back(hand, maybe_delivered=hand.is_begun)

    async def pause(self, hand: Hand) -> bool:
        """Let others go before the rest of `hand`; return False where it goes on at once, for want of room."""
        assert hand.pause_s is not None
        pause_s, hand.pause_s = hand.pause_s, None
        is_parked = (pause_s > 0 or self._parked.has_room) and self._parked.put_off(hand, until_s=_now_s() + pause_s)
        if not is_parked and pause_s > 0:
            self.give_back(hand, maybe_delivered=hand.is_begun, put_off_s=pause_s)
            return True
        if hand.trouble:
            self._outages.failed_at_part(hand.trouble)
            hand.trouble = ""
            # It is sent again from the hand: not before the store has written that it may come twice.
            await self._store.count_maybe_twice(hand.lease, 0)
        return is_parked

    def put_off(self, hand: Hand, seconds: float) -> None:
        """Let others go before `hand`, at which a server failed; before its other parts only as long as they take."""
        has_others = hand.put_last()
        if not self._parked.put_off(hand, until_s=_now_s() + (0.0 if has_others else seconds)):
            self.give_back(hand, maybe_delivered=hand.is_begun, put_off_s=seconds)

    def put_off_unseen(self, lease: Lease) -> None:
        """Let others go before what a server failed at, though it stands first; for long where room is lacking."""
        seconds = PUT_OFF_S if self._parked.has_room else PUT_OFF_S_MAX
        self._store.release(lease, maybe_delivered=False, put_off_s=seconds)

    def hold(self, error: HoldError, hand: Hand) -> None:
        """Keep a signal back whose way is wrong, and go on with the other."""
        signal = hand.lease.signal
        wait_s = self._outages.held(error, signal, now_s=_now_s())
        self._say("holding", str(error), wait_s)
        self._store.hold(self._uplink, signal, wait_s)
        may_go_on = hand.is_begun and not hand.is_thinned and not isinstance(error, NothingTakenError)
        if not (may_go_on and self._parked.hold(hand)):
            self.give_back(hand, maybe_delivered=hand.is_taken and not hand.is_thinned)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
