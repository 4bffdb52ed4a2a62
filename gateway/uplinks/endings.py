"""What becomes of a lease in hand: settled, given back, put off, or held with its signal. Must not send or lease.

| it was                              | then it is                                                              |
| ----------------------------------- | ----------------------------------------------------------------------- |
| taken, or refused, to its end       | settled: the store lets go of it                                        |
| not begun, and the road is none     | given back: what is freshest by then goes first                         |
| what a server failed at             | put off in hand, others go; where there is no room for that, given back |
| of a signal whose way is wrong      | in hand if it was begun, one of each signal; else given back            |
| heard by nobody where it goes       | put off in hand; where much is, the store writes all rests anew         |
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import FullError, Signal, TryLaterError
from gateway.uplinks.guards import UnheardError
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

# So long it is waited where what nobody hears finds no place to wait: it would have the next turn, too.
UNHEARD_S: Final = 1.0
# So many leases are kept apart together, or none; and where that did not work, not before so long after.
APART_MIN: Final = 8
APART_S: Final = 10.0


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
        self._apart_from_s = float("-inf")

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
        self._tell_of(hand)
        if hand.lost and not hand.delivered and REJECTED not in hand.rejected:
            self._store.refuse(hand.lease, hand.reason(), hand.message)
        else:
            self._store.ack(hand.lease, rejected=hand.lost, reason=hand.reason() or REJECTED, aside=hand.aside())

    def _tell_of(self, hand: Hand) -> None:
        if hand.message and hand.rejected and self._outages.status.is_news(hand.message, _now_s()):
            log.warning("uplink %s: %s", self._uplink, hand.verdict())

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
        is_parked = (pause_s > 0 or self._parked.has_room) and self._parked.put_off(
            hand,
            until_s=_now_s() + pause_s,
            gives_way=not (pause_s or hand.trouble or hand.waits_for or hand.is_suspect),
        )
        if not is_parked and hand.waits_for:
            await self._wait_with(hand, pause_s)
            return False
        if not is_parked and pause_s > 0:
            self.give_back(hand, maybe_delivered=hand.is_begun, put_off_s=pause_s)
            return True
        if hand.trouble:
            self._outages.failed_at_part(hand.trouble)
            hand.trouble = ""
            # It is sent again from the hand: not before the store has written that it may come twice.
            await self._store.count_maybe_twice(hand.lease, 0)
        return is_parked

    async def _wait_with(self, hand: Hand, seconds: float) -> None:
        """Wait with the rest in hand, for want of room: if it was given back, all of its lease would go again."""
        self._outages.status.last_error = hand.waits_for
        try:
            why = f"{hand.waits_for}; so much waits for that by now that all else has to"
            await self._waits.until_again(TryLaterError(why), seconds)
        except asyncio.CancelledError:
            self.give_back(hand, maybe_delivered=True)
            raise

    def may_park(self, hand: Hand, error: TryLaterError) -> bool:
        """Whether a lease may wait in hand, if there is room: what has been kept apart waits in the store."""
        if isinstance(error, UnheardError) and not hand.is_begun and self._store.apart.has_all(hand.lease):
            return False
        return error.put_off_s > 0 and not hand.is_thinned

    def apart_s(self, hand: Hand, error: TryLaterError) -> float:
        """Return how long to wait after what was given back and may have the next turn again, in seconds."""
        is_next = isinstance(error, UnheardError) and not self._store.apart.is_put_off(hand.lease)
        return UNHEARD_S if is_next else 0.0

    async def keep_apart(self) -> None:
        """Have the store write anew what is left of leases that nobody hears, where much of that is in hand."""
        if _now_s() < self._apart_from_s or not (hands := self._parked.unheard):
            return
        from gateway.uplinks.rests import lost_of, rest_of  # noqa: PLC0415  for those who have any

        rests = [(hand, rest_of(hand)) for hand in hands]
        moved = [(hand, rest) for hand, rest in rests if rest is not None]
        self._apart_from_s = _now_s() + APART_S
        if len(moved) < APART_MIN:
            return
        leases, pieces = [hand.lease for hand, _ in moved], [piece for _, rest in moved for piece in rest]
        try:
            wait_s = self._parked.unheard_s(_now_s())
            lost = [lost_of(hand) for hand, _ in moved if hand.lost]
            await self._store.apart.keep(self._uplink, leases, pieces, put_off_s=wait_s, lost=lost)
        except FullError as error:
            log.debug("uplink %s: nothing is kept apart: %s", self._uplink, error)
            return
        self._apart_from_s = _now_s()
        for hand, _ in moved:
            self._parked.remove(hand)
            self._tell_of(hand)
            self._outages.status.readings_sent += hand.delivered
            self._outages.tally.sent(hand.delivered)

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
        signal, outages = hand.lease.signal, self._outages
        was_away = outages.is_down or signal in outages.holding.reasons
        wait_s = outages.held(error, signal, now_s=_now_s())
        self._say("holding", str(error), wait_s)
        if signal is Signal.METRICS and not was_away:
            # As in an outage: of what comes from now on the newest is sent first when it is taken again. A receiver
            # without logs, or traces, goes on taking readings, and these are not late for that.
            self._store.link_up(self._uplink)
        self._store.hold(self._uplink, signal, wait_s)
        may_go_on = hand.is_begun and not hand.is_thinned and not isinstance(error, NothingTakenError)
        if not (may_go_on and self._parked.hold(hand)):
            self.give_back(hand, maybe_delivered=hand.is_taken and not hand.is_thinned)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
