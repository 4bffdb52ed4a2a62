"""Delivery: lease, send, and let go only of what the far side has. Must not know HTTP or SQLite.

One uplink is one loop with one thread and one request under way; where answers come at once, the next one stands
ready behind it. A lease that fails is released before the wait, so that what is freshest by then goes first when the
link is back; only one of which a part was taken is kept, in hand or parked, so that no part is sent twice without need.

    wait for data → combine → lease → decode, repair, encode → (thread: compress, post) → ack | refuse
                                      └ try later: release or park, wait with back-off ┘

Every state that a person may ask about stands in `status`; every change of it is logged once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import TryLaterError
from gateway.core.timeouts import timeout
from gateway.store.policy import ALL
from gateway.uplinks.clock_wait import ClockWait
from gateway.uplinks.endings import Endings
from gateway.uplinks.endpoints import Endpoints
from gateway.uplinks.fresh_first import FreshFirst
from gateway.uplinks.guards import HoldError
from gateway.uplinks.outages import Outages
from gateway.uplinks.pacing import Rounds
from gateway.uplinks.parked import Parked
from gateway.uplinks.requests import Hand, encoder_of
from gateway.uplinks.sending import Ahead, NotBegunError, Sending
from gateway.uplinks.spending import Spending
from gateway.uplinks.state import Status, Tally
from gateway.uplinks.turns import Turns
from gateway.uplinks.waits import Waits
from gateway.uplinks.watching import QUICK_S, Watching
from gateway.uplinks.worker import NO_SEAMS, Seams

if TYPE_CHECKING:
    from random import Random

    from gateway.core.batch import Attributes
    from gateway.core.clock import Clock
    from gateway.core.telemetry import Telemetry
    from gateway.store.database import Lease, Store
    from gateway.store.policy import Terms as LeaseTerms
    from gateway.uplinks.guards import Answer
    from gateway.uplinks.sending import Flight
    from gateway.uplinks.terms import Terms

log = logging.getLogger("tidegate.uplinks")

FINISH_S: Final = 5.0
ABORT_S: Final = 1.0
# The store said that there is something, and there was not: others hold it, or it was let go meanwhile.
EMPTY_WAIT_S: Final = 0.25
# So often it is looked what may be spent, where nothing is.
PACE_LOOK_S: Final = 5.0
# So soon at the earliest it is looked again whether something that was put off may go.
LOOK_S: Final = 0.01


class Uplink:
    """One road upstream. `run` delivers until cancelled; it may be run again after it failed."""

    def __init__(
        self,
        settings: Terms,
        *,
        store: Store,
        gateway_attributes: Attributes,
        version: str,
        clock: Clock,
        telemetry: Telemetry,
        random: Random,
        seams: Seams = NO_SEAMS,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._store = store
        self._clock = clock
        self._spending = Spending(settings, store=store, clock=clock, road=seams.road)
        wire = seams.wire or Endpoints.of(cast("Any", settings), version=version, clock=clock, random=random)
        self._wire = self._spending.around(wire)
        encoder = seams.encoder or encoder_of(
            settings.protocol, series=store.series, gateway_attributes=gateway_attributes, version=version
        )
        builder = seams.builder(timeline=store.timeline, encoder=encoder, counts_series=self._spending.may_bind)
        self._sending = Sending(
            settings, wire=self._wire, builder=builder, start_worker=seams.start_worker, clock=clock, random=random
        )
        self._size = self._sending.size
        self._status = Status()
        self._tally = Tally(telemetry, settings.name)
        self._outages = Outages(
            settings.name, settings.retry, random=random, size=self._size, status=self._status, tally=self._tally
        )
        self._parked = Parked(self._outages.holding)
        self._watching = Watching(self._wire, on_speed=self._on_speed)
        self._rounds = Rounds(float(settings.batch_interval))
        self._clock_wait = ClockWait(
            store=store, sending=self._sending, on_server_time=seams.on_server_time, watch=self._watching.watch
        )
        self._waits = Waits(
            settings.name,
            store=store,
            wire=self._wire,
            size=self._size,
            spending=self._spending,
            clock_wait=self._clock_wait,
            say=self._say,
        )
        self._endings = Endings(
            settings.name,
            store=store,
            clock=clock,
            outages=self._outages,
            parked=self._parked,
            waits=self._waits,
            say=self._say,
        )
        self._turns = Turns(sending=self._sending, parked=self._parked, outages=self._outages, endings=self._endings)
        self._fresh_first, self._terms = FreshFirst(settings.name, store=store, rounds=self._rounds), ALL
        self._hand: Hand | None = None
        self._ahead: Ahead | None = None

    async def run(self) -> None:
        """Deliver until cancelled; then end the request under way, send what is fresh, and stop."""
        self._sending.overdraws = self._spending.overdraws
        self._spending.tell_of_links(self.network_up)
        self._sending.open()
        self._waits.begin()
        try:
            await self._serve()
        except asyncio.CancelledError:
            self._waits.is_stopping = True
            await self._flush()
            raise
        finally:
            self._bring_back_ahead(may_have=True)
            self._endings.give_back_all()
            self._watching.note_speed(is_quick=False)
            self._sending.close()
            self._say("stopped")

    def network_up(self) -> None:
        """Take note that this box may have a network again: who waits for one tries now."""
        self._waits.network.end()

    def status(self) -> dict[str, object]:
        """Return what `tidegate status` shows of this uplink, counted since the start."""
        return {
            "type": "otlp",
            **self._wire.told(),
            **self._status.told(now_ns=self._clock.monotonic_ns()),
            "attempt": self._outages.attempt,
            "held_back": self._outages.holding.told(),
            "put_off": self._parked.told(),
            "requests": self._wire.requests,
            "bytes_sent": self._wire.bytes_sent,
            # Of leases in hand, which are settled as a whole: what a slow road has taken of a large one so far.
            "in_hand_taken": sum(hand.delivered for hand in (self._hand, *self._parked) if hand is not None),
            "compression": self._sending.encoding or "none",
            "batch_readings": self._size.readings,
            **self._sending.speeds.told(),
            **self._spending.told(),
        }

    async def _serve(self) -> None:
        while True:
            if self._ahead is None:
                if not self._may_have():
                    self._say_idle()
                    self._watching.note_speed(is_quick=False)
                    with contextlib.suppress(TimeoutError):
                        async with timeout(self._parked.left_s(_now_s())):
                            await self._store.wait_held(self.name)
                    self._rounds.end()
                if not await self._combine():
                    continue
                await self._spending.prepare()
                if await self._is_kept():
                    continue
            if await self._deliver_next() is None and self._may_have():
                self._rounds.end()  # what is left is kept, and what comes from now on is of the next one
                self._say_idle()
                await asyncio.sleep(EMPTY_WAIT_S)

    def _may_have(self) -> bool:
        """Whether there may be something to send: what is known to be empty is waited for, and not asked again."""
        return self._store.has_some(self.name) or self._parked.has_due(_now_s())

    async def _combine(self) -> bool:
        """Between two rounds let fresh data gather, unless what is held fills half a request already.

        Nobody waits meanwhile, so that what was put off has its turn. Returns whether a round has begun.
        """
        if not self._rounds.is_over:
            return True
        left_s = self._rounds.left_s(_now_s())
        # What is held back, put off or kept for want of budget counts as held, and fills no request.
        waits = self._outages.holding.reasons or self._store.put_off_s(self.name)
        may_fill = not (waits or self._spending.lets_live_alone(self._terms))
        is_gap = left_s > 0 and not (may_fill and self._is_much_held())
        if is_gap and (hand := self._parked.pop_due(_now_s())) is not None:
            await self._deliver(hand)
            return False
        if left_s > 0:
            self._say("combining")
            if is_gap:
                # Nobody is to wait for a road that itself waits for more.
                self._watching.note_speed(is_quick=False)
            self._store.rest(self.name, left_s)
            enough = (self._size.readings + 1) // 2 + self._parked.leased_readings
            due_s = self._parked.left_s(_now_s())
            with contextlib.suppress(TimeoutError):
                async with timeout(left_s if due_s is None else min(left_s, max(due_s, LOOK_S))):
                    await (self._store.wait_for_readings(self.name, enough) if may_fill else asyncio.sleep(left_s))
                    left_s = 0.0
            if self._rounds.left_s(_now_s()) > 0 and left_s > 0:
                return False
        self._rounds.begin(_now_s())
        return True

    async def _is_kept(self) -> bool:
        """Wait a little where what may be spent lets nothing go that is held; return whether it did."""
        decision = self._spending.decide()
        if decision is None:
            return False
        self._terms = decision.terms
        if decision.wait_s <= 0 or self._parked.has_due(_now_s()):
            return False
        self._say("pacing", decision.why, decision.wait_s)
        self._store.rest(self.name, decision.wait_s)
        # What comes meanwhile may be of a class that is let go.
        await asyncio.sleep(min(decision.wait_s, PACE_LOOK_S))
        return True

    async def _deliver_next(self) -> Lease | None:
        """Lease what is to go next and deliver it; return it, or None where there was nothing."""
        hand = await self._turns.next(self._lease_next, self._lease_fresh) if self._ahead is None else self._ahead.hand
        if hand is None:
            return None
        await self._deliver(hand)
        return hand.lease

    async def _lease_next(self, *, may_wait: bool = True, terms: LeaseTerms | None = None) -> Lease | None:
        readings_max, bytes_max = self._size.readings, int(self._settings.request_bytes_max)
        lease = await self._store.lease(
            self.name, readings_max=readings_max, bytes_max=bytes_max, may_wait=may_wait, terms=terms or self._terms
        )
        if lease is not None and lease.lane == "live" and lease.readings * 2 < readings_max:
            self._rounds.take(lease.signal, lease.segments[0].priority)
        return lease

    async def _lease_fresh(self) -> Lease | None:
        return await self._fresh_first.lease(self._lease_next, self._terms)

    async def _deliver(self, hand: Hand) -> None:
        self._hand = hand
        began_s, is_suspect = _now_s(), hand.is_suspect or bool(hand.waits_for)
        hand.is_hurried = self._parked.is_crowded
        try:
            await self._bring_to_end(hand)
            await self._endings.keep_apart()
        finally:
            self._hand = None
            self._spending.charge(hand)
            if is_suspect:
                self._parked.tried(_now_s() - began_s, now_s=_now_s())

    async def _bring_to_end(self, hand: Hand) -> None:
        """Settle `hand`, or give it back, or park it; return when the next may be tried."""
        while True:
            error = await self._attempt(hand)
            if error is None and hand.parts:
                if await self._endings.pause(hand):
                    return
                continue
            if error is None:
                self._endings.settle(hand)
                return
            if isinstance(error, HoldError):
                self._endings.hold(error, hand)
                return
            was_down = self._outages.is_down
            wait_s = self._outages.failed(error, hand.next_readings)
            if self._outages.is_down and not was_down:
                # What comes from now on is live: of that the newest is sent first when the road is back.
                self._store.link_up(self.name)
            may_park = self._endings.may_park(hand, error)
            is_parked = may_park and not self._outages.is_down and self._parked.finds_room()
            if not is_parked and (not hand.is_begun or hand.is_thinned):
                self._endings.give_back(hand, maybe_delivered=error.answer_lost, put_off_s=error.put_off_s)
                await self._waits.until_again(error, wait_s or self._endings.apart_s(hand, error))
                return
            try:
                if error.answer_lost and hand.parts:
                    # It is sent again from the hand: the store hears of it in no other way.
                    await self._store.count_maybe_twice(hand.lease, hand.next_readings)
                await self._waits.until_again(error, wait_s)
            except asyncio.CancelledError:
                # Some of it was taken, and the store knows leases only whole.
                self._store.release(hand.lease, maybe_delivered=True)
                raise
            if may_park:
                # What made a server fail waits by itself: others are sent meanwhile, if they can be.
                self._endings.put_off(hand, error.put_off_s)
                return

    async def _attempt(self, hand: Hand) -> TryLaterError | None:
        """Send what is left of `hand`; return why not all of it could be, for now."""
        self._say("sending")
        flight: Flight | None = None
        try:
            if self._ahead is not None:
                (_, flight), self._ahead = self._ahead, None
            else:
                if self._outages.wants_proof and self._parked.has_room:
                    self._sending.lead(hand)
                flight = self._begin(hand)
            while flight is not None:
                await self._look_ahead(hand, flight)
                await self._watching.watch(flight.answer)
                landing, flight = flight, None
                answer = self._land(hand, landing)
                self._hear(answer, hand)
                self._watching.heard(answer)
                if answer is None:
                    self._bring_back_ahead()
                if self._ahead is not None or (hand.pause_s is not None and not hand.is_thinned):
                    break
                if self._fresh_first.gives_way(hand, answer):
                    break
                flight = self._begin(hand)
        except TryLaterError as error:
            self._watching.note_speed(is_quick=False)
            self._bring_back_ahead()
            return error
        except asyncio.CancelledError:
            await self._leave(hand, flight)
            raise
        except BaseException:
            # Our own mistake: the store must not believe that somebody is still sending this.
            self._bring_back_ahead(may_have=True)
            self._store.release(hand.lease, maybe_delivered=hand.is_begun or flight is not None)
            raise
        finally:
            self._tally.carry(self._wire)
        return None

    def _hear(self, answer: Answer | None, hand: Hand) -> None:
        was_down = self._outages.is_down and answer is not None
        self._outages.heard(answer)
        if was_down and self._outages.answered(hand.lease.signal):
            self._store.link_up(self.name)

    def _land(self, hand: Hand, flight: Flight) -> Answer | None:
        try:
            return self._sending.land(hand, flight)
        finally:
            readings, hand.maybe_taken = hand.maybe_taken, 0
            if readings:
                self._store.note_maybe_twice(hand.lease, readings)

    def _begin(self, hand: Hand, *, behind: Flight | None = None) -> Flight | None:
        return self._sending.begin(hand, behind=behind, in_haste=self._watching.is_quick and self._is_much_held())

    def _is_much_held(self) -> bool:
        return self._store.unleased(self.name) * 2 >= self._size.readings

    async def _look_ahead(self, hand: Hand, flight: Flight) -> None:
        """Where answers come at once, have the next request ready behind the one under way.

        The thread then takes it up without waiting for its turn in the loop, which under a flood is long in coming.
        """
        is_right = (
            self._watching.is_quick
            and not self._outages.is_down
            and not self._spending.is_bound
            and not self._waits.is_stopping
            and self._ahead is None
            and not hand.is_suspect
            and self._parked.has_room
        )
        is_long = hand.is_split or self._size.toll.expected_s(flight.request.readings) >= QUICK_S
        if not is_right or is_long or self._turns.is_parked_next() or not self._is_much_held():
            return
        # Nobody waits for a commit here: the answer to the one under way may be there before that.
        if (lease := await self._lease_next(may_wait=False)) is None:
            return
        if self._sending.has_failed(lease):
            self._endings.put_off_unseen(lease)
            return
        following = Hand(lease)
        try:
            behind = self._begin(following, behind=flight)
        except BaseException as error:
            self._store.release(lease, maybe_delivered=False)
            if isinstance(error, Exception):
                # When its turn comes it goes wrong again, and then there is no other one under way.
                return
            raise
        if behind is None:
            self._endings.settle(following)
        else:
            self._ahead = Ahead(following, behind)

    def _bring_back_ahead(self, *, may_have: bool = False) -> None:
        """After a failure: what was to follow has not been begun, and is leased anew in its turn."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.flight.wanted = False
            ahead.flight.answer.cancel()
            self._endings.give_back(ahead.hand, maybe_delivered=may_have)

    async def _leave(self, hand: Hand, flight: Flight | None) -> None:
        """Bring to its end what is under way; what was answered in time counts, the rest goes back."""
        until_s = _now_s() + FINISH_S
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.flight.wanted = False
        await self._end({under_way.answer for under_way in (flight, ahead and ahead.flight) if under_way is not None})
        if ahead is not None:
            self._conclude(*ahead)
        may_have = False
        try:
            # A lease that was cut in parts is not left half sent without need.
            while flight is not None and hand.is_split and flight.answer.done() and not hand.is_suspect:
                landing, flight = flight, None
                self._land(hand, landing)
                flight = self._sending.begin(hand)
                if flight is not None:
                    await self._end({flight.answer}, within_s=until_s - _now_s())
        except TryLaterError as error:
            may_have = error.answer_lost
        self._conclude(hand, flight, may_have=may_have)

    async def _end(self, answers: set[asyncio.Future[Answer]], *, within_s: float = FINISH_S) -> None:
        """Wait for answers; those that are late are not waited for any longer, and nothing is sent after them."""
        late = (await asyncio.wait(answers, timeout=max(0.0, within_s)))[1] if answers else set()
        if late:
            self._wire.stop()
            self._outages.is_down = True
            await asyncio.wait(late, timeout=ABORT_S)

    def _conclude(self, hand: Hand, flight: Flight | None, *, may_have: bool = False) -> None:
        """Settle or release a lease whose last request has ended, or is not waited for any longer."""
        if flight is not None and not flight.answer.done():
            flight.answer.cancel()
            may_have = True
        elif flight is not None:
            try:
                self._land(hand, flight)
            except TryLaterError as error:
                may_have = error.answer_lost
            except NotBegunError:
                pass
        if hand.parts is None or hand.parts:
            self._endings.give_back(hand, maybe_delivered=may_have or (hand.is_begun and not hand.is_thinned))
        else:
            self._endings.settle(hand)

    async def _flush(self) -> None:
        """At the end, where the link is up: send what is fresh for a moment. The rest is kept anyway."""
        grace_s = float(self._settings.stop_grace)
        if self._outages.is_down or self._waits.is_shut or not grace_s:
            return
        try:
            async with timeout(grace_s):
                while not (self._outages.is_down or self._waits.is_shut):
                    lease = await self._deliver_next()
                    if lease is None or lease.lane == "backlog":
                        return
        except TimeoutError:
            log.info("uplink %s: stopped with data held", self.name)

    def _on_speed(self, is_quick: bool) -> None:  # noqa: FBT001  there is nothing else to hear
        self._store.keeps_up(self.name, keeps_up=is_quick)

    def _say_idle(self) -> None:
        """Say that nothing can be sent just now, and why where something is held back."""
        reason, wait_s = self._outages.holding.soonest(_now_s())
        put_off_s = self._store.put_off_s(self.name) or self._parked.left_s(_now_s())
        if not reason and put_off_s:
            self._say("waiting", self._status.last_error, put_off_s)
        else:
            self._say("holding" if reason else "idle", reason, wait_s)
        if reason:
            # What is held is not taken for sent if the process dies meanwhile.
            self._store.rest(self.name, wait_s)

    def _say(self, state: str, reason: str = "", wait_s: float = 0.0) -> None:
        self._status.say(state, reason, retry_at_ns=self._clock.monotonic_ns() + int(wait_s * NS_PER_S))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
