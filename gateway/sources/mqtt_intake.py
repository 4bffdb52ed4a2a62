"""Arrivals on their way to the disk: many at once, bounded, answered in order. Must not know sockets.

offer → accept (a task each, waiting for its commit) → answer, first come first answered
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import NO_ROOM, Arrivals, FullError
from gateway.core.timeouts import timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.contracts import Accept

# A FullError that names no time must not become a loop.
RETRY_S_MIN: Final = 0.05
# Small buffers in a trickle: each is a task, so their number is bounded as well as their bytes.
BUFFERS_MAX: Final = 256
GIVE_UP_S_MAX: Final = 1.0


@dataclass(slots=True)
class _Delivery:
    arrivals: Arrivals
    size_bytes: int
    answer: Callable[[], None]
    only_here: int = 0
    is_kept: bool = False


class Intake:
    """Offers arrivals, holds them while the shelf is full, and answers in order.

    `is_full` asks the source to stop reading; `on_change` is called whenever that may have changed. What
    `accept` raises beside FullError is nobody's fault out there: it ends up in `failure`.
    """

    def __init__(self, *, accept: Accept, bytes_max: int, on_change: Callable[[], None]) -> None:
        self.bytes_pending = 0
        self.messages_held = 0
        self.lost = 0  # messages that found no room before the end, and that nobody else has
        self.full_reason = ""
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._accept = accept
        self._bytes_max = bytes_max
        self._on_change = on_change
        self._under_way: deque[_Delivery] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read now."""
        return self.messages_held > 0 or self.bytes_pending >= self._bytes_max or len(self._under_way) >= BUFFERS_MAX

    @property
    def is_empty(self) -> bool:
        """Whether everything offered has been kept and answered."""
        return not self._under_way

    def offer(self, arrivals: Arrivals, *, size_bytes: int, answer: Callable[[], None], only_here: int = 0) -> None:
        """Take `arrivals` to the disk; call `answer` when they and all before them are there.

        `only_here` of them nobody delivers again.
        """
        delivery = _Delivery(arrivals, size_bytes, answer, only_here)
        self._under_way.append(delivery)
        self.bytes_pending += size_bytes
        # Once nothing more is read, only a commit makes that possible again.
        arrivals.is_last = arrivals.is_last or self.is_full
        task = asyncio.create_task(self._take(delivery), name=f"{arrivals.source}: accept")
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def follow(self, answer: Callable[[], None]) -> None:
        """Call `answer` when all that has been offered so far is on disk."""
        self._under_way.append(_Delivery(Arrivals("", (), (), 0), 0, answer, is_kept=True))
        self._answer()

    async def drain(self, *, within_s: float) -> bool:
        """Wait until all is kept and answered; return whether it was in time. What was not is cancelled."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        in_time = not self._tasks
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        return in_time

    async def give_up(self, *, source: str, now_ns: int) -> None:
        """Have what is `lost` stand in the ledger: for that there is room on a full shelf too."""
        lost, self.lost = self.lost, 0
        dropped = Arrivals(source, [], [], now_ns, dropped={NO_ROOM: lost})
        with contextlib.suppress(FullError, TimeoutError):
            async with timeout(GIVE_UP_S_MAX):
                await self._accept(dropped)

    async def _take(self, delivery: _Delivery) -> None:
        while True:
            try:
                await self._accept(delivery.arrivals)
            except FullError as error:
                await self._hold(delivery, error)
            except asyncio.CancelledError:
                # Once it was let in its payloads are gone, and it comes to the disk without us.
                self.lost += delivery.only_here if delivery.arrivals.payloads else 0
                raise
            else:
                break
        delivery.is_kept = True
        self._answer()
        self._on_change()

    def _answer(self) -> None:
        while self._under_way and self._under_way[0].is_kept:
            kept = self._under_way.popleft()
            self.bytes_pending -= kept.size_bytes
            kept.answer()

    async def _hold(self, delivery: _Delivery, error: FullError) -> None:
        """Keep what nobody has room for, unanswered, until it is time to ask again."""
        count = len(delivery.arrivals)
        self.messages_held += count
        self.full_reason = str(error)
        self._on_change()
        try:
            await asyncio.sleep(max(error.after_s, RETRY_S_MIN))
        except asyncio.CancelledError:
            self.lost += delivery.only_here
            raise
        finally:
            self.messages_held -= count

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.failure.done():
            self.failure.set_exception(error)
            # It is looked at when the source ends; asyncio need not warn of it meanwhile.
            self.failure.exception()


@dataclass(slots=True)
class Receipt:
    """One QoS 2 message between its PUBLISH and its PUBREL."""

    packet_id: bytes
    digest: bytes
    is_kept: bool = False


class ReceivedOnce:
    """Which QoS 2 messages a session has delivered and not yet released (MQTT 5.0 section 4.3.3).

    Lives as long as the session, across connections; lost with the process, after which the broker's copy of
    a message that was kept but not yet confirmed is taken a second time. A packet id is at most 65,535, and
    so is the size of this. An id alone is not believed: a broker that lost its memory numbers anew.
    """

    def __init__(self) -> None:
        self._receipts: dict[bytes, Receipt] = {}

    def __len__(self) -> int:
        return len(self._receipts)

    def forget(self) -> None:
        """Start over: the broker has no session of ours."""
        self._receipts.clear()

    def note(self, packet_id: bytes, topic: bytes, payload: bytes) -> tuple[Receipt, bool]:
        """Return the receipt of a PUBLISH, and whether the message is new."""
        digest = hashlib.blake2b(topic + b"\0" + payload, digest_size=16).digest()
        known = self._receipts.get(packet_id)
        if known is not None and known.digest == digest:
            return known, False
        fresh = self._receipts[packet_id] = Receipt(packet_id, digest)
        return fresh, True

    def release(self, packet_id: bytes) -> None:
        """Forget an id: the broker has released it."""
        self._receipts.pop(packet_id, None)
