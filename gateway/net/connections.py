"""The connections of a listener: how many there are, which make way, and how they end. Must not know what is said.

A connection on which nothing is being asked makes way for a new one. A handshake of TLS takes as long as the client
likes, and counts as such a one; so does a request of somebody who is not let in, since who shows a wrong token has to
wait for the answer, and may be slow to hear it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from gateway.net.listeners import keep_accepting, listen, make_ready, start_accepting, stop_accepting

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

HEAD_BYTES_MAX: Final = 16 * 1024
# What a transport reads in one go, at most: what a connection may hold that nobody has asked for yet.
READ_BYTES: Final = 64 * 1024


class HttpLimits(NamedTuple):
    """What clients may take: connections, bytes of a body as it comes, seconds."""

    connections_max: int
    body_bytes_max: int
    request_s: float
    """How long a whole request may take to arrive, and its answer to leave."""
    idle_s: float
    """How long a connection is kept without a request."""


class Watcher(Protocol):
    """Who hears of connections."""

    def turned_away(self, reason: str, why: str) -> None:
        """Hear of a connection that ended without an answer."""
        ...

    def connections_changed(self, count: int) -> None:
        """Hear how many connections there are."""
        ...


class ConnectionServer(ABC):
    """One listener. `serve` answers until it is cancelled; `address` says where, once `listening` is set.

    A handshake may take as long as a request.
    """

    def __init__(
        self,
        watcher: Watcher,
        *,
        address: str,
        limits: HttpLimits,
        tls: ssl.SSLContext | None,
        name: str,
    ) -> None:
        self.listening = asyncio.Event()
        self.address: tuple[str, int] = ("", 0)
        self._watcher = watcher
        self._where = address
        self._limits = limits
        self._tls = tls
        self._name = name
        self._is_stopping = False
        self._connections: set[asyncio.Task[None]] = set()
        # Those for whom nothing is being done, the longest first.
        self._idle: dict[asyncio.Task[None], Callable[[], None]] = {}

    @abstractmethod
    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        """Talk with a client until one of both has enough; OSError and EOFError are its going away."""

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    async def serve(self, *, stop_s: float) -> None:
        """Answer until cancelled, then end what is under way within `stop_s`; raise OSError for the address."""
        listeners = await listen(self._where)
        self.address = listeners[0].getsockname()[:2]
        self._is_stopping = False
        accepting = start_accepting(listeners, self._admit, self._lack, name=self._name)
        self.listening.set()
        try:
            await keep_accepting(accepting)
        finally:
            self.listening.clear()
            self._is_stopping = True
            await stop_accepting(accepting)
            await self._end(stop_s)

    async def _end(self, stop_s: float) -> None:
        for hang_up in list(self._idle.values()):
            hang_up()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=stop_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _lack(self, why: str) -> None:
        self._watcher.turned_away("out_of_resources", why)

    async def _admit(self, connected: socket.socket, peer: str) -> None:
        if len(self._connections) >= self._limits.connections_max:
            # Whoever connects and asks nothing must not keep out who does.
            if not self._idle:
                connected.close()
                self._watcher.turned_away("connections_max", f"too many connections; {peer} was sent away")
                return
            oldest = next(iter(self._idle))
            self._watcher.turned_away("connections_max", f"an idle connection made room for one of {peer}")
            self._idle.pop(oldest)()
            self._connections.discard(oldest)
        task = asyncio.create_task(self._meet(connected, peer), name=f"{self._name}: {peer}")
        self._connections.add(task)
        self._watcher.connections_changed(len(self._connections))
        task.add_done_callback(self._leave)
        await asyncio.sleep(0)  # begun, it closes its socket however it ends

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._idle.pop(task, None)
        self._watcher.connections_changed(len(self._connections))

    async def _meet(self, connected: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        # Until there is a transport: a handshake of TLS takes as long as the client likes.
        self._idle[task] = partial(cancel, task)
        reader = asyncio.StreamReader(limit=HEAD_BYTES_MAX)
        protocol = asyncio.StreamReaderProtocol(reader)
        is_handed_over = False
        try:
            make_ready(connected)
            is_handed_over = True  # from here on a transport owns the socket and closes it
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connected,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else self._limits.request_s,
            )
        except OSError as error:
            reason = "connection_failed" if self._tls is None else "tls_failed"
            self._watcher.turned_away(reason, f"{peer}: {getattr(error, 'reason', None) or error}")
            return
        finally:
            if not is_handed_over:
                connected.close()
        if hasattr(transport, "max_size"):
            # asyncio's own 256 KiB for each of many connections would be most of a small board's memory.
            transport.max_size = READ_BYTES
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._converse(reader, writer, peer)
        except (OSError, EOFError):
            # Gone in the middle: what was taken of it is kept, and what was not is sent again.
            pass
        except asyncio.CancelledError:
            # Nobody waits for this task's result, and with an error in it would know itself by its own frames: what is
            # read would stay until Python happens to look for such circles.
            pass
        finally:
            transport.abort()


def cancel(task: asyncio.Task[None]) -> None:
    """End a conversation where it is."""
    task.cancel()
