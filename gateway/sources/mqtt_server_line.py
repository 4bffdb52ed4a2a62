"""The line to one client of the MQTT server: how much is read at a time, and when nothing is. Knows no packets.

There may be several reasons for not reading at a time (`Pause`); it goes on when the last of them is gone.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from gateway.sources.mqtt_server_connection import Connection
    from gateway.sources.mqtt_server_hub import Hub

READ_BYTES: Final = 128 * 1024
# How much is read of somebody new: a look at a full buffer of the shortest packets takes a while, and many could come
# at once. Who fills it with messages reads large buffers after a few looks.
READ_BYTES_FIRST: Final = 4 * 1024
READ_BYTES_MIN: Final = 1024
# What a client does not read waits in the kernel first. Who has so much waiting here as well is not read, either: less
# where there are many connections.
WRITE_BYTES_MAX: Final = 64 * 1024
WRITE_BYTES_MIN: Final = 8 * 1024


class Pause(enum.IntFlag):
    """Why nothing is read from a connection now."""

    NONE = 0
    OWN = 1  # it has enough in flight
    SHARED = 2  # the gateway is full, or all connections together have enough in flight
    WRITE = 4  # it does not read its answers
    ENDING = 8
    REST = 16  # it sends little at a time, and waits for a commit anyway
    TALK = 32  # it says much and publishes little


class Line(asyncio.BufferedProtocol):
    """What a `Connection` stands on. Whoever writes more than is read is not read from either."""

    __slots__ = ("_hub", "_look_bytes", "_pause", "_since_s", "_transport", "heard_s")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._transport: asyncio.Transport | None = None
        self._pause = Pause.NONE
        self._look_bytes = READ_BYTES_FIRST
        self.heard_s = hub.now_s()
        self._since_s = self.heard_s  # when its state, or that it does not read, began

    @property
    def is_tls(self) -> bool:
        """Whether nobody else can read it."""
        return self._transport is not None and self._transport.get_extra_info("ssl_object") is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. asyncio has set TCP_NODELAY."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._hub.write_bytes_max)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's signature
        """Lend the one buffer of all connections: what is read is copied out before anyone else is called."""
        hub = self._hub
        size_bytes = min(self._look_bytes, READ_BYTES_MIN if hub.talkers.is_enough else hub.intake.portion.size_bytes)
        return hub.buffer[:size_bytes]

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read."""
        self.pause(Pause.WRITE)
        self._since_s = self._hub.now_s()

    def resume_writing(self) -> None:
        """Go on."""
        self._hub.weigh_unread(cast("Connection", self), 0)
        self.resume(Pause.WRITE)

    def pause(self, why: Pause) -> None:
        """Read nothing until every reason is gone."""
        if not self._pause and self._transport is not None:
            self._transport.pause_reading()
        self._pause |= why

    def resume(self, why: Pause) -> None:
        """Take one reason away."""
        if self._pause & why:
            self._pause &= ~why
            if not self._pause and self._transport is not None:
                # What the client said meanwhile was waiting in the socket.
                self.heard_s = self._hub.now_s()
                self._hub.partials.restart(cast("Connection", self), now_s=self.heard_s)
                self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send, unless nobody is there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            if self._pause & Pause.WRITE:
                self._hub.weigh_unread(cast("Connection", self), self._transport.get_write_buffer_size())
