"""Timeouts that hold in a task that is being cancelled, too: what asyncio's do from Python 3.11.3 on (gh-102780).

Whatever stops does so within bounds, and mostly because its task was cancelled. In Python 3.11.2, which Debian 12 has,
the end of such a bound is another CancelledError there, which ends the stop where it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Bound:
    """See `timeout`."""

    __slots__ = ("_before", "_inner", "_task")

    def __init__(self, inner: asyncio.Timeout) -> None:
        self._inner = inner
        self._task: asyncio.Task[object] | None = None
        self._before = 0

    async def __aenter__(self) -> asyncio.Timeout:
        """Begin, and return what can be rescheduled."""
        self._task = asyncio.current_task()
        self._before = 0 if self._task is None else self._task.cancelling()
        return await self._inner.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; raise TimeoutError where the time was over, and nobody else cancelled the task meanwhile."""
        is_over = self._inner.expired()
        await self._inner.__aexit__(kind, error, trace)
        assert self._task is not None
        if is_over and kind is asyncio.CancelledError and self._task.cancelling() <= self._before:
            raise TimeoutError from error


def timeout(delay_s: float | None) -> Bound:
    """Return a context manager that raises TimeoutError after so many seconds; None: never."""
    return Bound(asyncio.timeout(delay_s))


def timeout_at(when_s: float | None) -> Bound:
    """Return one that does so at a time of the loop."""
    return Bound(asyncio.timeout_at(when_s))
