"""Asks a server whether a link carries anything: one connection that says nothing. Must not decide what that means."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.core.timeouts import timeout
from gateway.net.devices import bind_to
from gateway.net.line import reason
from gateway.net.wire_bytes import ATTEMPT_BYTES, CLOSE_PACKETS, PACKET_BYTES_V6, wire_bytes
from gateway.uplinks.worker import TooManyThreadsError, Worker

if TYPE_CHECKING:
    from gateway.uplinks.link_settings import LinkSettings

# What asking costs at most: its SYN with repetitions, the question for its address, an answer and an end.
PROBE_BYTES: Final = 2 * ATTEMPT_BYTES + CLOSE_PACKETS * PACKET_BYTES_V6
# What is asked for names at once. A resolver without a network keeps its thread for half a minute and more.
LOOK_UPS_MAX: Final = 4
_room: Final = threading.BoundedSemaphore(LOOK_UPS_MAX)
# Nothing has left for an address that the link does not lead to: a name may have one of the other kind.
_NO_WAY: Final = frozenset((errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))


class Found(NamedTuple):
    """Why the link carries nothing, "" where it does; and what it has cost to ask, in bytes on the wire."""

    why: str
    wire_bytes: int


async def ask(settings: LinkSettings, device: str) -> Found:
    """Connect to the link's server by `device` ("": by any), within its time."""
    host, port = settings.probed()
    connection: socket.socket | None = None
    why, spent_bytes = "", ATTEMPT_BYTES
    try:
        async with timeout(float(settings.probe_timeout)):
            found = await _look_up(settings.name, host, port)
            for index, (family, kind, number, _, where) in enumerate(found):
                connection = socket.socket(family, kind, number)
                try:
                    await _connect(connection, where, device)
                except OSError as error:
                    if error.errno not in _NO_WAY or index + 1 == len(found):
                        raise
                    connection.close()
                    connection = None
                else:
                    break
    except TimeoutError:
        why = f"{settings.probe} does not answer within {settings.probe_timeout}"
    except (OSError, UnicodeError) as error:
        # asyncio says it in words of its own.
        number = getattr(error, "errno", None) or 0
        why = f"{settings.probe}: {os.strerror(number) if number > 0 else reason(error)}"
    finally:
        if connection is not None:
            spent_bytes += wire_bytes(connection) + CLOSE_PACKETS * PACKET_BYTES_V6
            connection.close()
    return Found(why, spent_bytes)


async def _connect(connection: socket.socket, where: Any, device: str) -> None:
    connection.setblocking(False)
    if device:
        bind_to(connection, device)
    await asyncio.get_running_loop().sock_connect(connection, where)


async def _look_up(link: str, host: str, port: int) -> list[tuple[Any, ...]]:
    """Return a server's addresses; raise OSError. In a thread of its own: others have the event loop's to work in."""
    with suppress(socket.gaierror):
        return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)]
    if not _room.acquire(blocking=False):
        raise OSError("names are not resolved any more")

    def look() -> list[tuple[Any, ...]]:
        try:
            return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        finally:
            _room.release()

    try:
        worker = Worker(f"link {link}: look-up")
    except (TooManyThreadsError, RuntimeError) as error:
        _room.release()
        raise OSError(str(error)) from error
    try:
        found: list[tuple[Any, ...]] = await worker.submit(look)
        return found
    finally:
        worker.close()
