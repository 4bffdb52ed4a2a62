"""Turns of the event loop: who has taken long lets others have theirs before going on. Must not know what is done.

What decodes bytes that anybody may have sent cannot know how long that takes, and a loop that never waits serves nobody
else.
"""

from __future__ import annotations

import asyncio
from typing import Final

# What took longer than that is all of a turn.
TURN_S_MAX: Final = 0.001


class Turn:
    """`async with Turn():` around work: where it took long, however it ended, all others have a turn behind it."""

    __slots__ = ("_began_s",)

    async def __aenter__(self) -> None:
        self._began_s = asyncio.get_running_loop().time()

    async def __aexit__(self, *_: object) -> None:
        if asyncio.get_running_loop().time() - self._began_s > TURN_S_MAX:
            await asyncio.sleep(0)
