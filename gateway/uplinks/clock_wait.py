"""Waiting for a clock: what is held has no right times yet, and a receiver's answer may bring one. Must not deliver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.core.clock import Quality

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.store.database import Store
    from gateway.uplinks.guards import Answer
    from gateway.uplinks.requests import NoClockError
    from gateway.uplinks.sending import Sending

LOOK_S: Final = 1.0
PROBE_S: Final = 60.0


class ClockWait:
    """What one uplink does while times are not known. `watch` returns when a request was answered."""

    def __init__(
        self,
        *,
        store: Store,
        sending: Sending,
        on_server_time: Callable[[int, float], object] | None,
        watch: Callable[[asyncio.Future[Answer]], Awaitable[None]],
    ) -> None:
        self._store = store
        self._sending = sending
        self._on_server_time = on_server_time
        self._watch = watch
        self._probed_s = float("-inf")

    async def wait(self, error: NoClockError, wait_s: float, *, say: Callable[[str, str, float], None]) -> bool:
        """Return whether there is a clock now, after `wait_s` at the latest; `say` hears state, reason, for how long.

        Raises CancelledError while a probe may be stuck: then nothing more is to be asked of the thread.
        """
        until_s = _now_s() + wait_s
        say("waiting for the clock", str(error), wait_s)
        await self.probe()
        while not self._is_known and (left_s := until_s - _now_s()) > 0:
            say("waiting for the clock", str(error), left_s)
            await asyncio.sleep(min(left_s, LOOK_S))
        return self._is_known

    def answered(self, server_time_s: int | None, rtt_s: float) -> None:
        """Pass on what a receiver's answer says of the time."""
        if self._on_server_time is not None and server_time_s is not None:
            self._on_server_time(server_time_s, rtt_s)

    @property
    def _is_known(self) -> bool:
        return self._store.timeline.quality is not Quality.UNKNOWN

    async def probe(self, every_s: float = PROBE_S) -> None:
        """Send an empty request, once in `every_s`, for the Date in its answer; its failure costs nothing."""
        if self._on_server_time is None or _now_s() < self._probed_s + every_s:
            return
        self._probed_s = _now_s()
        future = self._sending.probe().answer
        await self._watch(future)
        answer = None if future.exception() else future.result()
        if answer is not None:
            self.answered(answer.server_time_s, answer.rtt_s)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
