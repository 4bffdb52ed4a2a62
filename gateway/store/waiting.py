"""Who waits at the shelf: for room to put something down, or for enough to take away. Must not know what it is."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.timeouts import timeout

if TYPE_CHECKING:
    from collections.abc import Callable


class RoomQueue:
    """First come, first served; `has_room` says whether one more may come.

    While `is_behind` says that those who take away are, they wait as well, but that is no reason to turn them away.
    """

    def __init__(self, has_room: Callable[[], bool], is_behind: Callable[[], bool] = lambda: False) -> None:
        self._has_room = has_room
        self._is_behind = is_behind
        self._places: deque[asyncio.Future[None]] = deque()

    async def wait(self, *, within_s: float) -> None:
        """Return when there is room; raise TimeoutError.

        Between this and taking the room nobody else may run: the next is called when this one has taken it.
        """
        if not self._places and self._may_come():
            return
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        self._places.append(place)
        try:
            async with timeout(within_s):
                await place
        except TimeoutError:
            if not self._has_room():
                raise
        finally:
            self._places.remove(place)
            loop.call_soon(self.call_next)

    def call_next(self) -> None:
        """Let the first of those who wait go on, if there is room."""
        if self._places and not self._places[0].done() and self._may_come():
            self._places[0].set_result(None)

    def _may_come(self) -> bool:
        return self._has_room() and not self._is_behind()


@dataclass(frozen=True, slots=True, eq=False)
class Watcher:
    """An uplink that waits until so many readings are held for it."""

    uplink: str
    readings: int
    enough: asyncio.Future[None]


class Watchers:
    """Uplinks that wait for enough to send; `held` says how many readings are held for one."""

    def __init__(self, held: Callable[[str], int]) -> None:
        self._held = held
        self._watchers: list[Watcher] = []

    async def wait(self, uplink: str, readings: int) -> None:
        """Return when at least so many readings are held."""
        if self._held(uplink) >= readings:
            return
        watcher = Watcher(uplink, readings, asyncio.get_running_loop().create_future())
        self._watchers.append(watcher)
        try:
            await watcher.enough
        finally:
            self._watchers.remove(watcher)

    def has_enough(self, uplink: str, held: int) -> bool:
        """Whether `uplink` waits, and for no more than `held`."""
        return any(watcher.uplink == uplink and held >= watcher.readings for watcher in self._watchers)

    def look(self) -> None:
        """Tell those who have enough; called after each commit."""
        for watcher in self._watchers:
            if self._held(watcher.uplink) >= watcher.readings and not watcher.enough.done():
                watcher.enough.set_result(None)
