"""From the PUBLISHes of all connections to the gateway's door, and the answers back. Knows no packets.

What many connections bring in one turn of the event loop is offered as one `Arrivals`: the work behind the
door is per offer, so a thousand devices with a message each cost about what one device with a thousand does.
While earlier offers wait for their commit, the next one gathers a little longer (GATHER_S), since it would
wait for the same commit anyway.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from gateway.core.contracts import NO_ROOM, Arrivals, FullError
from gateway.core.text import sentence
from gateway.sources.portion import Portion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.core.clock import Clock
    from gateway.core.contracts import Accept, Lost
    from gateway.core.telemetry import Telemetry
    from gateway.sources.mqtt_server_session import Session

log = logging.getLogger("tidegate.mqtt_server")

GATHER_S: Final = 0.005
# About what one read of a busy socket brings; larger offers save nothing and cost memory while they are mapped.
GATHER_BYTES_MAX: Final = 1 << 17
# What a message costs beyond its bytes on the wire: an object for the payload and a place in each list.
MESSAGE_BYTES: Final = 48
# What one of QoS 2 costs beyond that: its id, and its place in the set of those that are on their way.
EXACTLY_ONCE_BYTES: Final = 128
# What those handed in together cost beyond that: a receipt, and what its owner remembers of it.
RECEIPT_BYTES: Final = 320
# Of the offers that one commit answers the first has waited longest: longer waits count at once, shorter ones slowly.
WAIT_GAIN: Final = 0.02
RETRY_S_MIN: Final = 0.05
RETRY_S_MAX: Final = 30.0
GIVE_UP_S_MAX: Final = 1.0
# Reading goes on when this much of a limit is free again, so that it does not flutter.
RESUME_AT: Final = 0.75
# Which part of all that may be held may wait at the door as it came. More than the next commits take would be read from
# the sockets for nothing: there it waits as well, and takes none of our memory.
DOOR_SHARE: Final = 16
# And not more portions than that, where these are small.
DOOR_PORTIONS: Final = 2


class Owner(Protocol):
    """Who handed messages in and wants to know."""

    def settle(self) -> None:
        """Look at the receipts: some are kept now."""
        ...

    def fail(self) -> None:
        """Messages were not kept and never will be: end without answering them."""
        ...


@dataclass(slots=True, eq=False)
class Receipt:
    """Messages handed in together: what to write once they are kept, and what they take of the limits.

    `unacknowledged` of them have a packet id. `exactly_once` are the ids of QoS 2 among them, `session` is
    where those are remembered. `user` is who sent them, "" for somebody without a name. `is_last` says that they
    send nothing more before these are answered.
    """

    owner: Owner
    answers: bytes
    messages: int
    bytes_held: int
    unacknowledged: int = 0
    session: Session | None = None
    exactly_once: tuple[bytes, ...] = ()
    is_kept: bool = False
    user: str = ""
    is_last: bool = False


class Intake:
    """Offers what was handed in, holds it while the gateway is full, and settles when it is on disk.

    `on_pressure(True)` asks for reading to stop on every connection, `on_pressure(False)` to go on.
    """

    def __init__(
        self,
        *,
        source: str,
        accept: Accept,
        clock: Clock,
        telemetry: Telemetry,
        bytes_max: int,
        on_pressure: Callable[[bool], None],
    ) -> None:
        self.received = 0
        self.acknowledged = 0
        self.bytes_held = 0
        self.wait_s = 0.0  # how long offers have lately waited for their commit, the longest of them
        self.portion = Portion(GATHER_BYTES_MAX)  # how much to read and to offer at a time
        self.is_round = False  # whether what comes now comes together, so that nothing is won by waiting for more
        self.last_error = ""
        self._source = source
        self._accept = accept
        self._clock = clock
        self._telemetry = telemetry
        self._bytes_max = bytes_max
        self._on_pressure = on_pressure
        self._is_pressed = False
        self._offers_held = 0
        self._offers: set[asyncio.Task[None]] = set()
        self._topics: list[bytes] = []
        self._payloads: list[bytes] = []
        self._receipts: list[Receipt] = []
        self._lost: list[Lost] = []
        self._dropped: dict[str, int] = {}
        self._bytes_gathered = 0
        self._bytes_at_door = 0
        self._arrived_ns = 0
        self._timer: asyncio.Handle | None = None

    @property
    def is_full(self) -> bool:
        """Whether the gateway has said that it has no room."""
        return self._offers_held > 0

    def put(self, receipt: Receipt, topics: list[bytes], payloads: list[bytes], *, lost: Sequence[Lost] = ()) -> None:
        """Take messages; the lists belong to the intake from now on. Never waits and never refuses.

        `lost` are those that are not to be used.
        """
        if lost:
            self._lost += [one._replace(at=one.at + len(self._topics)) for one in lost]
        if self._receipts:
            self._topics += topics
            self._payloads += payloads
        else:
            self._arrived_ns = self._clock.monotonic_ns()
            self._topics, self._payloads = topics, payloads
            loop = asyncio.get_running_loop()
            must_wait = bool(self._offers) and not self.is_round
            self._timer = loop.call_later(GATHER_S, self.offer) if must_wait else loop.call_soon(self.offer)
        self._receipts.append(receipt)
        self.received += receipt.messages
        self._bytes_gathered += receipt.bytes_held
        self.bytes_held += receipt.bytes_held
        if self._bytes_gathered >= self.portion.size_bytes:
            self.offer()
        self._weigh()

    def drop(self, reason: str, count: int = 1) -> None:
        """Note messages that were let go; the ledger hears of them with the next offer, or when one has been kept."""
        self._dropped[reason] = self._dropped.get(reason, 0) + count

    def offer(self) -> None:
        """Hand over what has been gathered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._receipts and not self._dropped:
            return
        if not self._receipts:
            self._arrived_ns = self._clock.monotonic_ns()
        self.is_round = False
        receipts = self._receipts
        users = [(receipt.messages, receipt.user) for receipt in receipts]
        arrivals = Arrivals(
            self._source,
            self._topics,
            self._payloads,
            self._arrived_ns,
            users=users,
            lost=self._lost,
            dropped=self._dropped,
        )
        # Under pressure nobody is read: only a commit makes that possible again.
        arrivals.is_last = self._is_pressed or any(receipt.is_last for receipt in receipts)
        size_bytes = self._bytes_gathered
        self._bytes_at_door += size_bytes
        arrivals.on_prepared = lambda took_s: self._inside(size_bytes, took_s)
        self._topics, self._payloads, self._receipts, self._bytes_gathered = [], [], [], 0
        self._lost, self._dropped = [], {}
        task = asyncio.create_task(self._insist(arrivals, receipts), name=f"{self._source}: offer")
        self._offers.add(task)
        task.add_done_callback(lambda done: self._finish(done, receipts, arrivals))
        self._weigh()

    async def drain(self, *, timeout_s: float) -> bool:
        """Offer what is left and wait; give up what is not kept then. Returns whether all of it was kept.

        What nobody sends again is told to the ledger: for that there is room on a full shelf too.
        """
        self.offer()
        if self._offers:
            await asyncio.wait(self._offers, timeout=timeout_s)
        late = list(self._offers)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        if self._dropped:
            self.offer()
            last = list(self._offers)
            await asyncio.wait(last, timeout=GIVE_UP_S_MAX)
            for task in last:
                task.cancel()
            await asyncio.wait(last)
        return not late

    async def _insist(self, arrivals: Arrivals, receipts: Sequence[Receipt]) -> None:
        """Offer until there is room."""
        is_held = is_outside = False
        loop = asyncio.get_running_loop()
        try:
            while True:
                began_s = loop.time()
                is_outside = False
                try:
                    await self._accept(arrivals)
                except FullError as error:
                    self.last_error = f"full: {error}"
                    self._telemetry.count("tidegate_source_full", source=self._source)
                    self._offers_held += not is_held
                    is_held = True
                    self._weigh()
                    is_outside = True
                    await asyncio.sleep(min(max(error.after_s, RETRY_S_MIN), RETRY_S_MAX))
                else:
                    waited_s = loop.time() - began_s
                    self.wait_s = max(waited_s, self.wait_s + WAIT_GAIN * (waited_s - self.wait_s))
                    return
        except asyncio.CancelledError:
            # Once it was let in its payloads are gone, and it comes to the disk without us. Wills see to themselves.
            if is_outside or arrivals.payloads:
                lost = sum(one.messages - one.unacknowledged for one in receipts if one.session is not None)
                if lost:
                    self.drop(NO_ROOM, lost)
            raise
        finally:
            self._offers_held -= is_held

    def _inside(self, size_bytes: int, took_s: float) -> None:
        """Take note that an offer has been let in, and how long that took."""
        self._bytes_at_door -= size_bytes
        self.portion.took(size_bytes, took_s)
        self._weigh()

    def _finish(self, task: asyncio.Task[None], receipts: Sequence[Receipt], arrivals: Arrivals) -> None:
        """Supervise one offer: settle its receipts, or end their owners if it failed."""
        self._offers.discard(task)
        if arrivals.payloads:
            self._bytes_at_door -= sum(receipt.bytes_held for receipt in receipts)
        failure = None if task.cancelled() else task.exception()
        is_kept = failure is None and not task.cancelled()
        for receipt in receipts:
            self.bytes_held -= receipt.bytes_held
            receipt.is_kept = is_kept
            if is_kept:
                self.acknowledged += receipt.messages
        if failure is not None:
            log.error("%s: messages could not be taken", self._source, exc_info=failure)
            self.last_error = sentence(f"messages could not be taken: {failure!r}")
            self._telemetry.count("tidegate_source_failed", source=self._source)
        for owner in dict.fromkeys(receipt.owner for receipt in receipts):
            if is_kept:
                owner.settle()
            else:
                owner.fail()
        if not is_kept:
            for reason, count in arrivals.dropped.items():
                self.drop(reason, count)
        elif self._dropped and not self._receipts:
            self.offer()
        self._weigh()

    def _weigh(self) -> None:
        """Say it once when there is too much, and once when there is room again."""
        door_bytes_max = self._bytes_max // DOOR_SHARE
        if self.portion.is_small:
            door_bytes_max = min(door_bytes_max, DOOR_PORTIONS * self.portion.size_bytes)
        if not self._is_pressed:
            if self._offers_held or self.bytes_held >= self._bytes_max or self._bytes_at_door >= door_bytes_max:
                self._is_pressed = True
                self._on_pressure(True)
        elif (
            not self._offers_held
            and self.bytes_held <= self._bytes_max * RESUME_AT
            and self._bytes_at_door <= door_bytes_max * RESUME_AT
        ):
            self._is_pressed = False
            self._on_pressure(False)
