"""Where a program and the gateways in its process meet: each gateway gets a door to the one buffer. For one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway import __version__
from gateway.client.door import Door
from gateway.core.clock import SystemClock
from gateway.core.contracts import FullError

if TYPE_CHECKING:
    from gateway.client.buffer import Buffer
    from gateway.core.batch import Attributes
    from gateway.core.contracts import Messages
    from gateway.pipeline import Pipeline
    from gateway.store.database import Store

NOT_OPEN: Final = "the store is not open just now"


class Doorway:
    """Makes the doors. What is in the buffer when a gateway ends is brought by the next one's door."""

    def __init__(self, resource: Attributes) -> None:
        self.buffer: Buffer | None = None
        self._resource = resource
        self._door: Door | None = None

    def door(self, pipeline: Pipeline, store: Store) -> Door:
        """Return the door of one more gateway."""
        assert self.buffer is not None
        self._door = Door(
            self.buffer,
            resource=self._resource,
            version=__version__,
            pipeline=pipeline,
            store=store,
            clock=SystemClock(),
        )
        return self._door

    def hear(self, now: bool) -> None:  # noqa: FBT001  the one thing to say
        """Tell the door that something is in the buffer, and whether it is wanted now."""
        if self._door is not None:
            self._door.hear(now=now)

    async def keep(self, messages: Messages) -> None:
        """Keep OTLP messages as they are; return when they are on the disk, or raise FullError."""
        if self._door is None:
            raise FullError(NOT_OPEN)
        await self._door.keep(messages)
