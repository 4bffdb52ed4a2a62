"""Asks a server whether a link carries anything: one connection that says nothing. Must not decide what that means."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.core.timeouts import timeout
from gateway.net.devices import bind_to
from gateway.net.line import reason
from gateway.net.wire_bytes import ATTEMPT_BYTES, CLOSE_PACKETS, PACKET_BYTES_V6, wire_bytes

if TYPE_CHECKING:
    from gateway.uplinks.link_settings import LinkSettings

# What asking costs at most: its SYN with repetitions, the question for its address, an answer and an end.
PROBE_BYTES: Final = 2 * ATTEMPT_BYTES + CLOSE_PACKETS * PACKET_BYTES_V6


class Found(NamedTuple):
    """Why the link carries nothing, "" where it does; and what it has cost to ask, in bytes on the wire."""

    why: str
    wire_bytes: int


async def ask(settings: LinkSettings, device: str) -> Found:
    """Connect to the link's server by `device` ("": by any), within its time."""
    host, port = settings.probed()
    loop = asyncio.get_running_loop()
    connection: socket.socket | None = None
    why, spent_bytes = "", ATTEMPT_BYTES
    try:
        async with timeout(float(settings.probe_timeout)):
            (family, kind, number, _, where), *_ = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            connection = socket.socket(family, kind, number)
            connection.setblocking(False)
            if device:
                bind_to(connection, device)
            await loop.sock_connect(connection, where)
    except TimeoutError:
        why = f"{settings.probe} does not answer within {settings.probe_timeout}"
    except OSError as error:
        # asyncio says it in words of its own.
        number = error.errno or 0
        why = f"{settings.probe}: {os.strerror(number) if number > 0 else reason(error)}"
    finally:
        if connection is not None:
            spent_bytes += wire_bytes(connection) + CLOSE_PACKETS * PACKET_BYTES_V6
            connection.close()
    return Found(why, spent_bytes)
