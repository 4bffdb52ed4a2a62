"""The thread in which a client's gateway lives, from its start to its end. Must not know what is sent.

It is a daemon's thread, and so is all that it begins: a program that ends is not held up by it. What is then to be done
is the client's to decide. Where the shelf can only be helped by a new start there is one, as systemd would do it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gateway.app import Gateway, StartError, StillError
from gateway.client.errors import ClientError
from gateway.core.clock import SystemClock
from gateway.core.timeouts import timeout
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gateway.control.config import Config
    from gateway.control.profiles import HardwareProfile
    from gateway.parts import Program

T = TypeVar("T")

log = logging.getLogger("tidegate.client")

START_AGAIN_S: Final = 1.0
START_AGAIN_S_MAX: Final = 60.0
# A damaged shelf is salvaged at the start, which may take minutes on a slow card; nobody waits for ever.
START_S_MAX: Final = 600.0


class Runner:
    """One gateway after another in a thread of its own. `start` once, `stop` once."""

    def __init__(self, config: Config, profile: HardwareProfile, *, program: Program) -> None:
        self.gateway: Gateway | None = None  # while it runs
        self.final: dict[str, object] | None = None  # what the status was in the end
        self._config = config
        self._profile = profile
        self._program = program
        self._loop = asyncio.new_event_loop()
        self._current: Gateway | None = None
        self._begun: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._live, name="tidegate client", daemon=True)

    def start(self) -> None:
        """Return when the gateway runs; raise ClientError that says why it cannot."""
        self._thread.start()
        try:
            self._begun.result(START_S_MAX)
        except BaseException as error:
            self.stop(0)
            if isinstance(error, StoreError | StartError | TimeoutError):
                raise ClientError(str(error) or f"the store is not open after {START_S_MAX:.0f} s") from error
            raise

    def stop(self, timeout_s: float) -> bool:
        """Have the gateway stop; return whether it did within that time."""
        self.call_soon(self._stop)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_here(self) -> bool:
        """Whether this is the thread itself: nobody may wait for it there."""
        return threading.current_thread() is self._thread

    def call_soon(self, call: Callable[..., object], *args: object) -> None:
        """Have `call` called in the thread, if it still runs."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Return what a coroutine returns in the thread; raise TimeoutError where that takes longer, and cancel it."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:
            work.close()
            raise ClientError("the client's thread has ended") from error
        try:
            return future.result(timeout_s)
        except concurrent.futures.CancelledError as error:
            raise ClientError("the client was shut down meanwhile") from error
        except TimeoutError:
            future.cancel()
            raise

    def _stop(self) -> None:
        if self._current is not None:
            self._current.stop()
        self._stopping.set()

    # In the thread.

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        except Exception as error:
            if self._begun.done():
                log.exception("the client's gateway ended")
            else:
                self._begun.set_exception(error)
        finally:
            self._close()

    def _close(self) -> None:
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        with contextlib.suppress(RuntimeError):
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _run(self) -> None:
        wait_s = START_AGAIN_S
        while not self._stopping.is_set():
            gateway = self._current = Gateway(self._config, self._profile, clock=SystemClock(), program=self._program)
            telling = asyncio.create_task(self._tell_ready(gateway), name="ready")
            try:
                await gateway.run()
                self.final = gateway.status()
                if not gateway.wants_anew:
                    return
                wait_s = START_AGAIN_S
            except (StoreError, StartError, StillError) as error:
                if not self._begun.done():
                    raise
                log.error("%s; starting again in %.0f s", error, wait_s)  # noqa: TRY400  a sentence says it all
            finally:
                telling.cancel()
                self.gateway = self._current = None
            with contextlib.suppress(TimeoutError):
                async with timeout(wait_s):
                    await self._stopping.wait()
            wait_s = min(wait_s * 2, START_AGAIN_S_MAX)

    async def _tell_ready(self, gateway: Gateway) -> None:
        await gateway.ready.wait()
        self.gateway = gateway
        if not self._begun.done():
            self._begun.set_result(None)
