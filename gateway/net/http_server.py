"""HTTP/1.1 as a receiver speaks it: requests with bodies over kept connections. Must not know what they are about.

All is bounded: connections, the head, the body, and the time that each may take. A body is handed on piece by piece as
it comes, so that whoever wants it decides how much of it is ever there at once. Framing is that of RFC 9112; what two
readers might take for two different requests is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from gateway.core.timeouts import timeout
from gateway.net.connections import READ_BYTES, ConnectionServer, HttpLimits, Watcher, cancel
from gateway.net.http_requests import Body, Request, RequestError, read_head

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("tidegate.http")

# How long, and how much, a client that was refused is listened to, so that it hears why before its connection ends.
LINGER_S: Final = 2.0
LINGER_BYTES_MAX: Final = 8 << 20


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    content_type: str = ""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Handler(Watcher, Protocol):
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


class HttpServer(ConnectionServer):
    """One listener of HTTP/1.1."""

    def __init__(
        self, handler: Handler, *, address: str, limits: HttpLimits, tls: ssl.SSLContext | None = None, name: str = ""
    ) -> None:
        super().__init__(handler, address=address, limits=limits, tls=tls, name=name)
        self._handler = handler

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
                async with timeout(wait_s):
                    head = await reader.readuntil(b"\r\n\r\n")
                if task in self._idle:
                    # Until it is let in: what is taken then is kept and answered. Who is refused makes room all along.
                    self._idle[task] = partial(cancel, task)
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
            if not await self._send(writer, request, body, answer):
                if task in self._connections:
                    self._idle.setdefault(task, writer.transport.abort)
                await _linger(reader, writer)
                return
            wait_s = self._limits.idle_s
            # What has come already is read without waiting: others have their turn between two requests.
            await asyncio.sleep(0)

    async def _answer(self, request: Request, body: Body, writer: asyncio.StreamWriter) -> Answer:
        """Have a request answered, whatever becomes of it."""
        try:
            body.begin(request)
            if (answer := await self._handler.admit(request)) is not None:
                return answer
            task = asyncio.current_task()
            assert task is not None
            self._idle.pop(task, None)
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
            async with timeout(self._limits.request_s):
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


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close so that the answer arrives: a client that is still sending would only see its connection reset."""
    left = LINGER_BYTES_MAX
    with contextlib.suppress(TimeoutError, OSError, NotImplementedError):
        async with timeout(LINGER_S):
            if writer.can_write_eof():
                writer.write_eof()
            while left > 0 and (data := await reader.read(READ_BYTES)):
                left -= len(data)
