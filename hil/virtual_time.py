"""An event loop whose time jumps to the next timer instead of waiting. Must not meet real sockets or threads.

A test of a day's waits takes a millisecond, runs the same way each time, and a hang is found at once: when
every task waits and no timer is set, `VirtualHangError` says so.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

# Loops of this many turns without time moving are a task that spins.
TURNS_MAX: Final = 1_000_000


class VirtualHangError(RuntimeError):
    """Every task waits for another and no timer will wake any of them, or one spins without end."""


class _JumpingSelector(selectors.DefaultSelector):
    """Looks at sockets without waiting; where the loop would sleep, moves the time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None and not ready:
            raise VirtualHangError("every task waits and no timer is set: this would hang")
        if ready or not timeout:
            self._turns += 1
            if self._turns > TURNS_MAX:
                self._turns = 0  # what follows is the loop's own cleaning up
                raise VirtualHangError(f"{TURNS_MAX} turns of the loop and time does not move: a task spins")
            return ready
        self._turns = 0
        self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time; `time()` starts at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # Timers closer than this run in the same turn; the default comes from the real clock's resolution.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._jumping.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time.

    >>> async def nap() -> float:
    ...     await asyncio.sleep(86400)
    ...     return asyncio.get_running_loop().time()
    >>> run(nap())
    86400.0
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
