"""Threads for what blocks, in a program whose main thread may have ended. Must not know what is done in them.

An executor of the standard library takes nothing more from that moment on, though the program goes on for as long as
another thread of it does (threading._shutdown, before it waits for those). These do, and are no reason to wait.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    Item: TypeAlias = "tuple[Future[Any], Callable[[], Any]] | None"

T = TypeVar("T")


def threads_of(threads_max: int, *, is_guest: bool) -> ThreadPoolExecutor:
    """Return what an event loop works in, of a process of our own or of another program's."""
    name = "tidegate"
    return DaemonThreads(threads_max, name=name) if is_guest else ThreadPoolExecutor(threads_max, name)


class DaemonThreads(ThreadPoolExecutor):
    """An executor of `threads_max` daemon threads, begun as they are needed; asyncio wants it to be of this class.

    >>> with DaemonThreads(2, name="work") as threads:
    ...     threads.submit(pow, 2, 5).result()
    32
    """

    def __init__(self, threads_max: int, *, name: str) -> None:
        super().__init__(threads_max, thread_name_prefix=name)
        self._threads_max = threads_max
        self._name = name
        self._calls: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._guard = threading.Lock()
        self._begun: list[threading.Thread] = []
        self._is_over = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have `fn` called in a thread; the future has its result or error. Raises RuntimeError after `shutdown`."""
        with self._guard:
            if self._is_over:
                raise RuntimeError("these threads were shut down")
            future: Future[T] = Future()
            self._calls.put((future, partial(fn, *args, **kwargs)))
            if not self._idle.acquire(blocking=False) and len(self._begun) < self._threads_max:
                thread = threading.Thread(target=self._serve, name=f"{self._name}_{len(self._begun)}", daemon=True)
                self._begun.append(thread)
                thread.start()
            return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  as it is there
        """Take nothing more; `wait` for what was given before."""
        with self._guard:
            self._is_over = True
            if cancel_futures:
                self._cancel()
            for _ in self._begun:
                self._calls.put(None)
        for thread in self._begun if wait else ():
            thread.join()

    def _cancel(self) -> None:
        while not self._calls.empty():
            item = self._calls.get()
            if item is not None:
                item[0].cancel()

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001  handed to the one who asked
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            # What was done is not kept alive by who waits for more.
            del item, future, call
            self._idle.release()
