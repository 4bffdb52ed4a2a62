"""HTTP/1.1 as a receiver speaks it: requests with bodies over kept connections. Must not know what they are about.

All is bounded: connections, the head, the body, and the time that each may take. A connection on which nothing is being
asked makes way for a new one. A body is handed on piece by piece as it comes, so that whoever wants it decides how much
of it is ever there at once. Framing is that of RFC 9112; what two readers might take for two different requests is
refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from gateway.net.http_requests import Body, Request, RequestError, read_head
from gateway.net.listeners import accept_from, listen, make_ready, stop_accepting

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

log = logging.getLogger("tidegate.http")

HEAD_BYTES_MAX: Final = 16 * 1024
# What a transport reads in one go, at most: what a connection may hold that nobody has asked for yet.
READ_BYTES: Final = 64 * 1024
# How long, and how much, a client that was refused is listened to, so that it hears why before its connection ends.
LINGER_S: Final = 2.0
LINGER_BYTES_MAX: Final = 8 << 20


class HttpLimits(NamedTuple):
    """What clients may take: connections, bytes of a body as it comes, seconds."""

    connections_max: int
    body_bytes_max: int
    request_s: float
    """How long a whole request may take to arrive, and its answer to leave."""
    idle_s: float
    """How long a connection is kept without a request."""


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    content_type: str = ""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Handler(Protocol):
    """What the requests are about."""

    async def admit(self, request: Request) -> Answer | None:
        """Look at a request before its body is read; return the answer where that is not wanted."""
        ...

    async def answer(self, request: Request, body: Body) -> Answer:
        """Return the answer to a request; raise RequestError for one that cannot be had."""
        ...

    def refuse(self, request: Request | None, problem: RequestError) -> Answer:
        """Put a problem in words; without a request its head was not one."""
        ...

    def turned_away(self, reason: str, why: str) -> None:
        """Hear of a connection that ended without an answer."""
        ...

    def connections_changed(self, count: int) -> None:
        """Hear how many connections there are."""
        ...


class HttpServer:
    """One listener. `serve` answers until it is cancelled; `address` says where, once `listening` is set."""

    def __init__(
        self, handler: Handler, *, address: str, limits: HttpLimits, tls: ssl.SSLContext | None = None, name: str = ""
    ) -> None:
        self.listening = asyncio.Event()
        self.address: tuple[str, int] = ("", 0)
        self._handler = handler
        self._where = address
        self._limits = limits
        self._tls = tls
        self._name = name
        self._is_stopping = False
        self._connections: set[asyncio.Task[None]] = set()
        # Those for whom nothing is being done, the longest first.
        self._idle: dict[asyncio.Task[None], Callable[[], None]] = {}

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    async def serve(self, *, stop_s: float) -> None:
        """Answer until cancelled, then end what is under way within `stop_s`; raise OSError for the address."""
        listeners = await listen(self._where)
        self.address = listeners[0].getsockname()[:2]
        self._is_stopping = False
        accepting = {
            listener: asyncio.create_task(
                accept_from(listener, self._admit, lambda why: self._handler.turned_away("out_of_resources", why)),
                name=f"{self._name}: accept",
            )
            for listener in listeners
        }
        self.listening.set()
        try:
            done, _ = await asyncio.wait(accepting.values(), return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
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

    async def _admit(self, connected: socket.socket, peer: str) -> None:
        if len(self._connections) >= self._limits.connections_max:
            # Whoever connects and asks nothing must not keep out who does.
            if not self._idle:
                connected.close()
                self._handler.turned_away("connections_max", f"too many connections; {peer} was sent away")
                return
            oldest = next(iter(self._idle))
            self._handler.turned_away("connections_max", f"an idle connection made room for one of {peer}")
            self._idle.pop(oldest)()
            self._connections.discard(oldest)
        task = asyncio.create_task(self._meet(connected, peer), name=f"{self._name}: {peer}")
        self._connections.add(task)
        self._handler.connections_changed(len(self._connections))
        task.add_done_callback(self._leave)
        await asyncio.sleep(0)  # begun, it closes its socket however it ends

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._idle.pop(task, None)
        self._handler.connections_changed(len(self._connections))

    async def _meet(self, connected: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        # Until there is a transport: a handshake of TLS takes as long as the client likes.
        self._idle[task] = partial(_cancel, task)
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
            self._handler.turned_away(reason, f"{peer}: {getattr(error, 'reason', None) or error}")
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
        finally:
            transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        has_certificate = bool(writer.get_extra_info("peercert"))
        wait_s = self._limits.request_s
        while not self._is_stopping:
            self._idle[task] = writer.transport.abort
            request: Request | None = None
            body = Body(reader, bytes_max=self._limits.body_bytes_max, within_s=self._limits.request_s)
            try:
                async with asyncio.timeout(wait_s):
                    head = await reader.readuntil(b"\r\n\r\n")
                self._idle.pop(task, None)
                request = read_head(head, peer=peer, has_certificate=has_certificate)
                answer = await self._answer(request, body, writer)
            except asyncio.IncompleteReadError as error:
                if error.partial or request is not None:
                    self._handler.turned_away("cut", f"{peer}: the request ends in the middle")
                return
            except TimeoutError:
                return
            except asyncio.LimitOverrunError:
                answer = self._handler.refuse(None, RequestError(431, "head_too_large", "the head is too large"))
            except RequestError as error:
                answer = self._handler.refuse(None, error)
            self._idle.pop(task, None)
            if not await self._send(writer, request, body, answer):
                await _linger(reader, writer)
                return
            wait_s = self._limits.idle_s

    async def _answer(self, request: Request, body: Body, writer: asyncio.StreamWriter) -> Answer:
        """Have a request answered, whatever becomes of it."""
        try:
            body.begin(request)
            if (answer := await self._handler.admit(request)) is not None:
                return answer
            if request.expects_continue:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body.begin_time()
            return await self._handler.answer(request, body)
        except RequestError as error:
            body.is_lost |= error.is_end
            return self._handler.refuse(request, error)
        except (asyncio.IncompleteReadError, OSError):
            raise
        except Exception:
            log.exception("%s: %s %s failed", self._name, request.method, request.path)
            why = "the gateway could not take it; its log tells why"
            return self._handler.refuse(request, RequestError(500, "failed", why))

    async def _send(self, writer: asyncio.StreamWriter, request: Request | None, body: Body, answer: Answer) -> bool:
        """Send an answer, and read past what is left of the body; return whether the next request may follow."""
        is_kept = request is not None and request.is_kept and not body.is_lost and not self._is_stopping
        if request is not None and request.expects_continue and not body.has_begun:
            # Whether the body comes now is the client's choice: nobody knows what its next bytes are.
            is_kept = False
        phrase = HTTPStatus(answer.status).phrase
        lines = [f"HTTP/1.1 {answer.status} {phrase}", f"Content-Length: {len(answer.body)}"]
        if answer.content_type:
            lines.append(f"Content-Type: {answer.content_type}")
        lines += [f"{name}: {value}" for name, value in answer.headers]
        if not is_kept:
            lines.append("Connection: close")
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii") + answer.body)
        try:
            async with asyncio.timeout(self._limits.request_s):
                await writer.drain()
        except TimeoutError:
            return False
        if is_kept:
            body.begin_time()
            try:
                while await body.read():
                    pass
            except RequestError:
                return False
        return is_kept


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close so that the answer arrives: a client that is still sending would only see its connection reset."""
    left = LINGER_BYTES_MAX
    with contextlib.suppress(TimeoutError, OSError, NotImplementedError):
        async with asyncio.timeout(LINGER_S):
            if writer.can_write_eof():
                writer.write_eof()
            while left > 0 and (data := await reader.read(READ_BYTES)):
                left -= len(data)
