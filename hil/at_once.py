"""The far side of an uplink in virtual time: what it sends is taken at once. Must not open a socket or a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class QuietWire:
    """What a wire has beside `send`, where nothing is ever under way."""

    def is_overdue(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing is held open."""

    open = stop = abort = close

    def told(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class AtOnce:
    """A worker that does at once what it is given."""

    def submit(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Do it; the future has its result or error already."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001  as a thread hands every error over
            future.set_exception(error)
        return future

    def close(self) -> bool:
        """Nothing is under way."""
        return True
