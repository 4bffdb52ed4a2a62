"""The far side of an uplink in virtual time: what it sends is taken at once. Must not open a socket or a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gateway.codecs.readings_json import Messages
from gateway.uplinks.guards import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.uplinks.guards import Packed


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


class TakingWire(QuietWire):
    """Takes all, and remembers it. It costs what is in it and 300 bytes, of many messages each 150 more."""

    def __init__(self) -> None:
        self.requests = self.bytes_sent = self.wire_bytes = 0
        self.head_bytes, self.piece_bytes_max = 200, 8192
        self.is_connected = self.is_encrypted = False
        self.before_piece: Any = lambda _: None
        self.sent: list[Packed] = []

    def send(self, packed: Packed, /) -> Answer:
        """Take it."""
        messages = len(packed.body.ends) if isinstance(packed.body, Messages) else 0
        self.before_piece(len(packed.body) + 150 * messages)
        self.wire_bytes += len(packed.body) + 300 + 150 * messages
        self.sent.append(packed)
        return Answer()

    def pause(self, seconds: float) -> None:
        """Nothing has to be waited for."""
        assert seconds == 0


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
