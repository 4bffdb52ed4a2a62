"""What comes in between two commits: gathered, bounded, compressed while more is coming. Must not write.

All of it happens in one step of the event loop, compressing too: it is a hundred short calls into numpy for each
segment, and in a thread each of them would give up the interpreter and wait for its turn to have it back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.core.batch import LogRecords
from gateway.core.contracts import FullError
from gateway.store.drawer import Samples
from gateway.store.waiting import RoomQueue
from gateway.store.writer import (
    READING_BYTES,
    SEGMENT_LOG_BYTES_MAX,
    SEGMENT_READINGS_MAX,
    Pending,
    press,
    press_apart,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.core.batch import Batch, ResourceRecords
    from gateway.core.contracts import Priority
    from gateway.core.telemetry import Telemetry
    from gateway.store.apart import Moving
    from gateway.store.pace import Pace
    from gateway.store.records import Loss, SetAside
    from gateway.store.settings import StoreSettings

RETRY_S: Final = 1.0
# A disk that takes no commit for so long pushes back on the sources; until then they wait their turn.
ROOM_WAIT_S: Final = 2.0
TOO_SLOW: Final = "the disk is slower than what arrives"
# A commit does not wait for its time when so much has come, or half of what may wait: the rest takes what comes then.
EARLY_BYTES_MAX: Final = 1536 << 10
# Who brings little may come when the commit begins: each time that somebody is called in vain costs more than the work.
# Not where commits are so close that it makes no difference, and no more than so many.
DEFER_S_MIN: Final = 0.1
DEFERRED_MAX: Final = 64
# What comes with one commit is on the disk twice, in the log too: on a small shelf all of it must fit at once, or none
# of those who wait for it ever gets in.
PENDING_SHARE: Final = 4
# So many readings don't wait for others: a commit of this size is worth its fsync.
COMMIT_READINGS_MAX: Final = 131_072


class Gathering:
    """The pending work of one store.

    `want(seconds)` asks for a commit by then. `offset_ns()` is what Unix time is ahead of this boot's clock, if known.
    `is_refusing(readings)` is whether they are turned away now; `refusal()` notes that somebody was, and says why.
    `is_behind()` says that those who take away should have a turn first.
    """

    def __init__(
        self,
        *,
        settings: StoreSettings,
        telemetry: Telemetry,
        pace: Pace,
        want: Callable[[float], None],
        offset_ns: Callable[[], int | None],
        is_refusing: Callable[[int], bool],
        refusal: Callable[[], FullError],
        is_behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self.pending = Pending()
        self.is_closing = False
        self._in_flight: Pending | None = None
        self._pending_bytes = min(int(settings.pending_bytes), int(settings.max_bytes) // PENDING_SHARE)
        self._early_bytes = min(EARLY_BYTES_MAX, self._pending_bytes // 2)
        self._telemetry = telemetry
        self._pace = pace
        self._want = want
        self._offset_ns = offset_ns
        self._samples = Samples()
        self._is_refusing = is_refusing
        self._refusal = refusal
        self._queue = RoomQueue(self.has_room, is_behind)
        self._coming: list[Callable[[], None]] = []

    def append(
        self,
        pieces: Sequence[tuple[Priority, Batch]],
        *,
        logs: LogRecords | Sequence[LogRecords] | None,
        records: Sequence[tuple[Priority, ResourceRecords]] = (),
        losses: Sequence[Loss],
        set_aside: Sequence[SetAside],
        is_last: bool = False,
    ) -> asyncio.Future[None]:
        """Queue for the next commit; raise FullError where there is no room to wait."""
        readings, messages = sum(len(batch) for _, batch in pieces), sum(len(some) for _, some in records)
        pending = self.pending
        if self.is_closing:
            raise FullError("the gateway is stopping")
        if not self.has_room():
            raise self.full("pending", TOO_SLOW, self._pace.interval_s)
        if self._is_refusing(readings + messages):
            raise self._refusal()
        pending.pieces += [(priority, batch) for priority, batch in pieces if len(batch)]
        for some in [logs] if isinstance(logs, LogRecords) else logs or ():
            if len(some):
                pending.logs.append(some)
                pending.size_bytes += sum(map(len, some.bodies))
        if messages:
            self._take_messages(pending, records)
        pending.losses += losses
        pending.set_aside.extend(self._samples.pick(set_aside, now_s=asyncio.get_running_loop().time()))
        pending.size_bytes += readings * READING_BYTES
        pending.readings += readings + messages
        pending.loose += readings
        if pending.loose + readings > SEGMENT_READINGS_MAX:
            self._press_ahead(pending)
        waiter = asyncio.get_running_loop().create_future()
        pending.waiters.append(waiter)
        is_full = pending.readings >= SEGMENT_READINGS_MAX
        self._want(self._pace.wait_s(asyncio.get_running_loop().time(), is_last=is_last, is_full=is_full))
        # A little earlier where there are full segments only, and no small one has to be made of a rest.
        early_bytes = self._early_bytes if pending.pieces else self._early_bytes * 3 // 4
        if pending.readings >= COMMIT_READINGS_MAX or pending.size_bytes >= early_bytes:
            self._want(0)
        return waiter

    def keep_apart(self, moving: Moving) -> asyncio.Future[None]:
        """Queue what is left of leases for the next commit; raise FullError where there is no room to wait."""
        if self.is_closing:
            raise FullError("the gateway is stopping")
        if not self.has_room():
            raise self.full("pending", TOO_SLOW, self._pace.interval_s)
        self.pending.apart.append(moving)
        self.pending.size_bytes += moving.readings * READING_BYTES
        waiter = asyncio.get_running_loop().create_future()
        self.pending.waiters.append(waiter)
        self._want(self._pace.wait_s(asyncio.get_running_loop().time(), is_last=False))
        return waiter

    def defer(self, come: Callable[[], None], *, is_last: bool) -> bool:
        """Have `come` called when the next commit begins, so that it may append to that; it must not raise.

        The commit is due as if this was an append. Returns False where whoever asks should append now.
        """
        is_close = self._pace.interval_s < DEFER_S_MIN or len(self._coming) >= DEFERRED_MAX
        if is_close or self.is_closing or not self.has_room() or self._is_refusing(1):
            return False
        self._coming.append(come)
        self._want(self._pace.wait_s(asyncio.get_running_loop().time(), is_last=is_last))
        return True

    @staticmethod
    def _take_messages(pending: Pending, records: Sequence[tuple[Priority, ResourceRecords]]) -> None:
        pending.records += records
        size_bytes = sum(some.size_bytes for _, some in records)
        pending.size_bytes += size_bytes
        pending.records_bytes += size_bytes
        if pending.records_bytes >= SEGMENT_LOG_BYTES_MAX:
            pending.parts += press_apart(pending.records)
            pending.records, pending.records_bytes = [], 0

    def _press_ahead(self, pending: Pending) -> None:
        """Compress what fills a segment while the rest is still coming: the commit then takes as long as the disk."""
        full = pending.take_full(readings_max=SEGMENT_READINGS_MAX)
        try:
            while full:
                pending.parts.append(press(*full[0], self._offset_ns()))
                full.pop(0)
        finally:
            # Whatever failed: the commit meets it again, and answers everybody.
            pending.pieces += [(priority, batch) for priority, batches in full for batch in batches]
            pending.loose = sum(len(batch) for _, batch in pending.pieces)

    async def wait_for_room(self) -> None:
        """Return when something may be appended, in turn; raise FullError where that takes too long."""
        try:
            await self._queue.wait(within_s=ROOM_WAIT_S)
        except TimeoutError:
            raise self.full("pending", TOO_SLOW, self._pace.interval_s) from None

    def look(self) -> None:
        """Let the next of those who wait come, if they may by now."""
        self._queue.call_next()

    def has_room(self) -> bool:
        """Whether one more may wait for its commit, whatever its size."""
        return self.waiting_bytes < self._pending_bytes

    @property
    def waiting_bytes(self) -> int:
        """Memory of what waits for a commit, and of what is in the one under way."""
        return self.pending.size_bytes + (0 if self._in_flight is None else self._in_flight.size_bytes)

    def take(self) -> Pending:
        """Return all that waits, for a commit."""
        coming, self._coming = self._coming, []
        for come in coming:
            come()
        self._in_flight, self.pending = self.pending, Pending()
        return self._in_flight

    def done(self) -> None:
        """Take note that the commit under way has ended, one way or the other."""
        self._in_flight = None
        self._queue.call_next()

    def full(self, cause: str, sentence: str, after_s: float) -> FullError:
        """Return the error that pushes back, counted."""
        self._telemetry.count("tidegate_store_pushed_back", cause=cause)
        return FullError(sentence, after_s)
