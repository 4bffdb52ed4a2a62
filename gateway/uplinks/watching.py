"""Waiting for an answer: cut one that is overdue, know whether answers come at once. Must not send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.uplinks.guards import Answer, Wire

WATCH_S: Final = 1.0
# Requests that are answered sooner than this leave the next one no time to be made ready.
QUICK_S: Final = 0.1
# How long everybody else in the event loop waits for us at most while answers are there as soon as we look.
TURN_S: Final = 0.003


class Watching:
    """One uplink's; `on_speed` hears when answers begin to come at once, and when they do no more."""

    def __init__(self, wire: Wire, *, on_speed: Callable[[bool], None]) -> None:
        self.is_quick = False
        self._wire = wire
        self._on_speed = on_speed
        self._turned_s = float("-inf")

    async def watch(self, answer: asyncio.Future[Answer]) -> None:
        """Return when there is an answer; others have their turn now and then even if there is one at once."""
        if answer.done() and _now_s() - self._turned_s < TURN_S:
            return
        if answer.done():
            await asyncio.sleep(0)
        while not answer.done():
            await asyncio.wait({answer}, timeout=QUICK_S if self.is_quick else WATCH_S)
            self.note_speed(is_quick=self.is_quick and answer.done())
            if not answer.done() and self._wire.is_overdue():
                self._wire.abort()
        self._turned_s = _now_s()

    def heard(self, answer: Answer | None) -> None:
        """Take note of how long the last one took, None where it was not taken."""
        self.note_speed(is_quick=answer is not None and answer.seconds < QUICK_S)

    def note_speed(self, *, is_quick: bool) -> None:
        """Take note of whether answers come at once."""
        if is_quick != self.is_quick:
            self.is_quick = is_quick
            self._on_speed(is_quick)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
