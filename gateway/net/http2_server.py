"""HTTP/2 as a receiver speaks it: several requests at a time over kept connections. Must not know what they are about.

The protocol is h2's, sans I/O; here are sockets, tasks and bounds. A body is handed on piece by piece as it comes, and
the client may send more only as it is read: what a connection holds that nobody has asked for is a window
(`WINDOW_BYTES`), however many requests there are. Bounded, too: requests at a time, headers, requests that are taken
back, and the time that each thing may take.

    read → h2 → request → (task: admit → answer) → headers, body, trailers
              → data → the request's body → read, and then the window opens again
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error, ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from gateway.core.timeouts import timeout
from gateway.net.connections import READ_BYTES, ConnectionServer, Watcher
from gateway.net.http2_frames import HEADERS_BYTES_MAX, FloodError, Frames, FrameSizeError
from gateway.net.http2_requests import StreamBody, request_of
from gateway.net.http_requests import Request, RequestError
from gateway.net.quiet import keep_headers_out_of_logs

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from h2.events import Event

    from gateway.net.connections import HttpLimits

keep_headers_out_of_logs()
log = logging.getLogger("tidegate.http")

ALPN: Final = "h2"
# Requests of one connection at a time; programs have a connection for each signal.
STREAMS_MAX: Final = 16
# The protocol's own to begin with, for a connection and for a request.
WINDOW_BYTES: Final = 65_535
# Requests that their client takes back, or that are refused unread, beside those that are answered: who makes and
# forgets requests by the thousand is no program that sends what it has measured.
RESETS_MAX: Final = 100
CLOSED_STREAMS_KEPT: Final = 64
# Of headers that were sent; a client may allow more than there is of memory. It is the protocol's own to begin with.
HEADER_TABLE_BYTES_MAX: Final = 4096


class Reply(NamedTuple):
    """What is sent back; without a body and headers of its own it is trailers alone."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    trailers: tuple[tuple[str, str], ...] = ()


class Handler(Watcher, Protocol):
    """What the requests are about."""

    async def admit(self, request: Request, /) -> Reply | None:
        """Look at a request before its body is read; return the answer where that is not wanted."""
        ...

    async def answer(self, request: Request, body: StreamBody, /) -> Reply:
        """Return the answer to a request; raise RequestError for one that cannot be had."""
        ...

    def refuse(self, request: Request | None, problem: RequestError, /) -> Reply:
        """Put a problem in words; without a request its head was not one."""
        ...


@dataclass(slots=True, eq=False)
class _Stream:
    body: StreamBody
    task: asyncio.Task[None] | None = None
    has_begun: bool = False
    is_admitted: bool = False
    is_reset: bool = False
    window: asyncio.Event = field(default_factory=asyncio.Event)


class _Protocol(H2Connection):
    MAX_CLOSED_STREAMS = CLOSED_STREAMS_KEPT


class Http2Server(ConnectionServer):
    """One listener of HTTP/2; what is not TLS begins with it at once, as gRPC does."""

    def __init__(
        self, handler: Handler, *, address: str, limits: HttpLimits, tls: ssl.SSLContext | None = None, name: str = ""
    ) -> None:
        if tls is not None:
            tls.set_alpn_protocols([ALPN])
        super().__init__(handler, address=address, limits=limits, tls=tls, name=name)
        self.handler = handler
        # Those who chatter are heard one after the other. A turn of the event loop looks at everybody, so what all of
        # them say at once is what all others wait for, at other ports, too.
        self.line = asyncio.Lock()

    @property
    def limits(self) -> HttpLimits:
        """What clients may take."""
        return self._limits

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new is taken."""
        return self._is_stopping

    @property
    def name(self) -> str:
        """What the log calls it."""
        return self._name

    def set_idle(self, task: asyncio.Task[None], hang_up: Callable[[], None] | None) -> None:
        """Take note that a connection has nothing to do and how it ends, or with None that it has."""
        if hang_up is None:
            self._idle.pop(task, None)
        elif task in self._connections:
            self._idle[task] = hang_up

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        await _Conversation(self, reader, writer, peer).run()


class _Conversation:
    """One connection."""

    def __init__(
        self, server: Http2Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._peer = peer
        self._has_certificate = bool(writer.get_extra_info("peercert"))
        # Headers stay the bytes of the table that they came from: as text, each of many requests would have its own.
        self._h2 = _Protocol(H2Configuration(client_side=False, header_encoding=None))
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEADERS_BYTES_MAX,
            },
        )
        self._h2.decoder.max_header_list_size = HEADERS_BYTES_MAX
        self._streams: dict[int, _Stream] = {}
        self._frames = Frames()
        self._resets = 0
        self._is_over = self._has_said_goodbye = self._is_in_line = False
        self._waiting: asyncio.Timeout | None = None
        task = asyncio.current_task()
        assert task is not None
        self._task = task

    async def run(self) -> None:
        """Talk until the client goes, breaks the rules, or has nothing to say for too long."""
        limits = self._server.limits
        self._h2.initiate_connection()
        self._flush()
        try:
            wait_s = limits.request_s
            while not self._is_over:
                self._mark()
                try:
                    async with timeout(None if self._streams else wait_s) as self._waiting:
                        data = await self._reader.read(READ_BYTES)
                except TimeoutError:
                    break
                finally:
                    self._waiting = None
                if not data:
                    break
                wait_s = limits.idle_s
                await self._hear(data)
        except TimeoutError:
            self._server.handler.turned_away("too_slow", f"{self._peer}: it does not read its answers")
        except asyncio.CancelledError:
            # The time for what is under way is over, too.
            for stream in self._streams.values():
                if stream.task is not None:
                    stream.task.cancel()
            raise
        finally:
            await self._end()

    async def _hear(self, data: bytes) -> None:
        """Act on what came, a few frames at a time; raise TimeoutError where the client does not read the answers."""
        try:
            for some in self._frames.cut(data):
                await self._take(some)
                async with timeout(self._server.limits.request_s):
                    await self._writer.drain()
                if self._is_over:
                    return
                await asyncio.sleep(0)
        except FloodError as error:
            self._leave("flood", str(error))
        except FrameSizeError as error:
            self._leave("bad_request", str(error), ErrorCodes.FRAME_SIZE_ERROR)
        except ProtocolError as error:
            # h2 has said so to the client.
            self._is_over = self._has_said_goodbye = True
            why = f"{self._peer}: not HTTP/2: {error}" if not self._frames.answered else f"{self._peer}: {error}"
            self._server.handler.turned_away("bad_request", why)
        self._flush()

    async def _take(self, some: bytes) -> None:
        """Act on some frames; who chatters waits for its turn."""
        if not self._frames.is_chatter:
            self._act_on(some)
            return
        self._is_in_line = True
        async with self._server.line:
            self._is_in_line = False
            self._act_on(some)
            await asyncio.sleep(0)

    def _act_on(self, some: bytes) -> None:
        for event in self._h2.receive_data(some):
            self._act(event)
        self._flush()

    async def _end(self) -> None:
        """Let those go on whose body is there: what they keep is kept, whoever hears of it."""
        self._is_over = True
        self._server.set_idle(self._task, None)
        tasks = []
        for stream in self._streams.values():
            stream.body.lose()
            if stream.task is not None:
                tasks.append(stream.task)
                if not stream.is_admitted:
                    stream.task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise
        finally:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        if not self._has_said_goodbye:
            self._has_said_goodbye = True
            with contextlib.suppress(H2Error):
                self._h2.close_connection()
        self._flush()
        # What was said last leaves before the end, if the client reads it.
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()

    def _mark(self) -> None:
        """Say whether this connection may make way for another: nothing is asked, by nobody who was let in."""
        is_busy = any(stream.is_admitted for stream in self._streams.values())
        self._server.set_idle(self._task, None if is_busy else self._hang_up)

    def _hang_up(self) -> None:
        self._is_over = True
        self._say_goodbye()
        if self._is_in_line:
            self._task.cancel()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._writer.is_closing():
            self._writer.write(data)

    # What comes.

    def _act(self, event: Event) -> None:
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, DataReceived):
            size_bytes = event.flow_controlled_length or 0
            if stream is not None:
                if event.stream_ended is None:
                    self._frames.brought(size_bytes)
                stream.body.put(event.data or b"", size_bytes)
            else:
                self._acknowledge(size_bytes, event.stream_id or 0)
        elif isinstance(event, StreamEnded) and stream is not None:
            stream.body.end()
        elif isinstance(event, StreamReset):
            self._take_back(event.stream_id or 0, stream)
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            encoder = self._h2.encoder
            encoder.header_table_size = min(encoder.header_table_size, HEADER_TABLE_BYTES_MAX)
            for one in self._streams.values():
                one.window.set()
        elif isinstance(event, ConnectionTerminated):
            # Nothing can be said any more.
            self._is_over = True

    def _take_back(self, number: int, stream: _Stream | None) -> None:
        self._count_reset()
        if stream is None:
            return
        stream.is_reset = True
        stream.body.lose()
        stream.window.set()
        if not stream.is_admitted and stream.task is not None:
            stream.task.cancel()
        if not stream.has_begun:
            # Its task never runs.
            self._forget(number, stream)

    def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > RESETS_MAX + self._frames.answered:
            self._leave("flood", "it takes back what it asks for, again and again")

    def _leave(self, reason: str, why: str, code: ErrorCodes = ErrorCodes.ENHANCE_YOUR_CALM) -> None:
        if self._is_over:
            return
        self._is_over = self._has_said_goodbye = True
        with contextlib.suppress(H2Error):
            self._h2.close_connection(code)
        self._server.handler.turned_away(reason, f"{self._peer}: {why}")

    def _begin(self, event: RequestReceived) -> None:
        number = event.stream_id or 0
        if self._is_over:
            return
        if self._server.is_stopping or len(self._streams) >= STREAMS_MAX:
            # It may be asked again: nothing of it was looked at. It may also be taken back by now.
            with contextlib.suppress(H2Error):
                self._h2.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            self._count_reset()
            return
        limits = self._server.limits
        body = StreamBody(
            bytes_max=limits.body_bytes_max,
            within_s=limits.request_s,
            taken=lambda size_bytes: self._acknowledge(size_bytes, number),
        )
        stream = self._streams[number] = _Stream(body)
        self._mark()
        headers = list(event.headers or ())
        stream.task = asyncio.create_task(
            self._serve(number, stream, headers), name=f"{self._server.name}: {self._peer} {number}"
        )

    def _acknowledge(self, size_bytes: int, number: int) -> None:
        """Let the client send so much more."""
        if size_bytes and not self._is_over:
            with contextlib.suppress(H2Error):
                self._h2.acknowledge_received_data(size_bytes, number)
            self._flush()

    # What goes.

    async def _serve(self, number: int, stream: _Stream, headers: Sequence[tuple[bytes | str, bytes | str]]) -> None:
        handler = self._server.handler
        stream.has_begun = True
        request: Request | None = None
        try:
            try:
                request = request_of(headers, peer=self._peer, has_certificate=self._has_certificate)
                reply = await handler.admit(request)
                if reply is None:
                    stream.is_admitted = True
                    self._frames.admitted += 1
                    self._mark()
                    stream.body.begin_time()
                    reply = await handler.answer(request, stream.body)
            except RequestError as error:
                reply = handler.refuse(request, error)
            except asyncio.IncompleteReadError:
                handler.turned_away("cut", f"{self._peer}: the request ends in the middle")
                return
            except Exception:
                log.exception("%s: %s failed", self._server.name, request.path if request else "a request")
                why = "the gateway could not take it; its log tells why"
                reply = handler.refuse(request, RequestError(500, "failed", why))
            await self._reply(number, stream, reply)
        finally:
            self._forget(number, stream)

    def _forget(self, number: int, stream: _Stream) -> None:
        stream.body.leave()
        del self._streams[number]
        if not self._streams and not self._is_over:
            self._rest()

    def _rest(self) -> None:
        """Wait for the next request, if one may come."""
        if self._server.is_stopping:
            self._hang_up()
            return
        self._mark()
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time() + self._server.limits.idle_s)

    async def _reply(self, number: int, stream: _Stream, reply: Reply) -> None:
        if stream.is_reset or self._is_over:
            return
        try:
            await self._put(number, stream, reply)
            self._frames.answered += 1
        except StreamClosedError:
            return
        except (TimeoutError, ProtocolError):
            with contextlib.suppress(H2Error):
                self._h2.reset_stream(number, ErrorCodes.CANCEL)
        self._flush()

    async def _put(self, number: int, stream: _Stream, reply: Reply) -> None:
        head = [(":status", str(reply.status)), *reply.headers]
        if not reply.body:
            self._h2.send_headers(number, [*head, *reply.trailers], end_stream=True)
        else:
            self._h2.send_headers(number, head)
            async with timeout(self._server.limits.request_s):
                await self._put_body(number, stream, reply.body)
            self._h2.send_headers(number, list(reply.trailers), end_stream=True)
        if not stream.body.is_whole:
            # The answer stands, and nobody wants the rest of the question (RFC 9113, 8.1).
            self._h2.reset_stream(number, ErrorCodes.NO_ERROR)

    async def _put_body(self, number: int, stream: _Stream, body: bytes) -> None:
        at = 0
        while at < len(body):
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if room <= 0:
                stream.window.clear()
                self._flush()
                await stream.window.wait()
                continue
            self._h2.send_data(number, body[at : at + room])
            at += room
