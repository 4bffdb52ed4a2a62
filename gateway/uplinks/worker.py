"""One thread for an uplink's blocking work: compress and send. Holds one call at a time, and the next one.

A daemon thread and not an executor's: an executor's threads are joined when the process ends, and a resolver
without a network keeps one busy for half a minute. What such a thread was doing is in the store.

This is the bulkhead between uplinks: whoever hangs holds up its own thread and its own request, and nobody else's. All
of them together are bounded, since one that is stuck is left behind when its uplink starts anew.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from gateway.uplinks.requests import RequestBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.uplinks.guards import Wire
    from gateway.uplinks.links import Road
    from gateway.uplinks.requests import Encoder


# Twice as many as there may be uplinks, and some more.
THREADS_MAX: Final = 40


class TooManyThreadsError(Exception):
    """So many threads are stuck that no other one is begun."""


class Worker:
    """Runs one call after the other; results come back to the event loop that asked.

    Raises TooManyThreadsError where THREADS_MAX of them are alive, those that nobody waits for included.
    """

    _room: ClassVar[threading.BoundedSemaphore] = threading.BoundedSemaphore(THREADS_MAX)

    def __init__(self, name: str) -> None:
        if not self._room.acquire(blocking=False):
            raise TooManyThreadsError(f"{THREADS_MAX} threads of uplinks are busy or stuck; no other one is begun")
        self._calls: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._begun = self._ended = 0
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._room.release()
            raise

    def submit(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Start `call`, after the one under way; the future has its result or error."""
        self._begun += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls.put((future, call))
        return future

    def close(self) -> bool:
        """Let the thread end: at once if it is idle (True), else after its call, which nobody waits for."""
        self._calls.put(None)
        if self._begun > self._ended:
            return False
        self._thread.join()
        return True

    def _serve(self) -> None:
        try:
            self._take_turns()
        finally:
            self._room.release()

    def _take_turns(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            result: Any = None
            failure: BaseException | None = None
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  handed to the one who asked
                failure = error
            self._ended += 1
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, result, failure)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                return
            del item, future, call, result, failure


def _settle(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.cancelled():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """What may be put in the place of HTTP, of OTLP and of the thread, and who hears the receivers' time.

    `road` are the links that the uplink may use, None where the kernel's routes say how it leaves.

    `on_server_time(unix_s, rtt_s)` hears the Date of each answer, so that a box without any time server can
    learn the hour from a receiver it trusts; while data waits for a clock, empty requests ask for it.
    """

    wire: Wire | None = None
    encoder: Encoder | None = None
    builder: Callable[..., RequestBuilder] = RequestBuilder
    start_worker: Callable[[str], Worker] = Worker
    road: Road | None = None
    on_server_time: Callable[[int, float], None] | None = None


NO_SEAMS: Final = Seams()
