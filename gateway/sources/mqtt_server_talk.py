"""Whose turn it is among clients of the MQTT server that say much and publish nothing. Must not read or write.

What is published waits for its commit and is bounded by that. What is answered at once (pings, subscriptions, what may
not be published), or read past because it is too large, costs only time, of which a few hundred connections could take
all there is. So whoever says more than TALK_MAX such things between two looks at the clock stands in line: one after
the other is read again, and all of them together get TALK_SHARE of the time, however many they are.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.sources.mqtt_server_line import Pause

if TYPE_CHECKING:
    from gateway.sources.mqtt_server_line import Line

# A client pings once in its keep alive, and subscribes when it connects.
TALK_MAX: Final = 64
# A packet counts once more for so many bytes: a SUBSCRIBE may have thousands of filters.
TALK_BYTES: Final = 64
# And what is read past counts once for so many: that is quick, and a megabyte by mistake should not have to wait long.
SKIPPED_BYTES: Final = 1024
TALK_SHARE: Final = 0.1
# At least so much time lies between two of them, for what a look costs beside what it finds.
TALK_GAP_S: Final = 0.001
# When they have taken so long in one turn of the event loop, looks are short until the next turn: those who talk for
# the first time may be many, too.
TURN_S_MAX: Final = 0.02


@dataclass(slots=True)
class Talkers:
    """Those that stand in line, the longest waiting first."""

    is_enough: bool = False
    """Whether this turn of the event loop has heard enough of them."""
    _waiting: dict[Line, None] = field(default_factory=dict)
    _free_at_s: float = 0.0
    _turn_s: float = 0.0
    _timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, line: Line, *, took_s: float) -> None:
        """Send somebody to the end of the line, who has taken so much time just now."""
        loop = asyncio.get_running_loop()
        if not self._turn_s:
            loop.call_soon(self._begin_turn)
        self._turn_s += took_s
        self.is_enough = self._turn_s > TURN_S_MAX
        self._free_at_s = max(self._free_at_s, loop.time()) + max(took_s / TALK_SHARE, TALK_GAP_S)
        self._waiting[line] = None
        line.pause(Pause.TALK)
        if self._timer is None:
            self._timer = loop.call_at(self._free_at_s, self._next)

    def forget(self, line: Line) -> None:
        """Note that somebody is gone."""
        self._waiting.pop(line, None)

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        line = None
        if loop.time() >= self._free_at_s and self._waiting:
            line = next(iter(self._waiting))
            del self._waiting[line]
            self._free_at_s = loop.time() + TALK_GAP_S
        self._timer = loop.call_at(self._free_at_s, self._next) if self._waiting else None
        if line is not None:
            line.resume(Pause.TALK)

    def _begin_turn(self) -> None:
        self._turn_s = 0.0
        self.is_enough = False
