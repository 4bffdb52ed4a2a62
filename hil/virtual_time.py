"""An event loop whose time jumps to the next timer instead of waiting. Must not meet real sockets or threads.

A test of a day's waits takes a millisecond, runs the same way each time, and a hang is found at once: when
every task waits and no timer is set, `VirtualHangError` says so. The loop itself is the one of the benchmark's
simulations.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.bench.virtual_time import InlineLoop, VirtualHangError, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["InlineLoop", "VirtualHangError", "VirtualLoop", "run"]

T = TypeVar("T")


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
