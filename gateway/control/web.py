"""The window over HTTP: /healthz, /readyz, /metrics, /status, /trace. Must not change anything or slow the data path.

microdot routes the requests; what comes in before a request is whole is read here, so that size, time and
number of connections are bounded and odd bytes are answered rather than logged.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from microdot import Microdot, Request
from microdot import Response as BareResponse

from gateway import __version__
from gateway.control.metrics import MetricsPage
from gateway.core.timeouts import timeout
from gateway.net.addresses import names_this_machine
from gateway.net.listeners import keep_accepting, listen, make_ready, start_accepting, stop_accepting

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping
    from typing import TypeAlias

    from gateway.control.settings import ControlSettings
    from gateway.core.telemetry import Telemetry

    Trace: TypeAlias = Callable[[Mapping[str, str]], Awaitable[dict[str, Any]]]

log = logging.getLogger("tidegate.control")

# What microdot's own bound leaves for a line without its end.
LINE_CHARS_MAX: Final = Request.max_readline - 2
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
TRACE_PATH: Final = "/trace"
TEXT: Final = {"content-type": "text/plain; charset=utf-8"}
JSON: Final = {"content-type": "application/json"}
INDEX: Final = """\
tidegate {version}
/healthz  200 while the data path moves (not whether anybody upstream listens)
/readyz   200 while sources are open and what comes is taken
/metrics  Prometheus
/status   JSON; `tidegate status` shows it to people
/trace    what becomes of single messages; `tidegate trace` asks for it
"""
# What a query may be made of (RFC 3986): anything else is not read.
_QUERY: Final = re.compile(rb"(?:[A-Za-z0-9._~&=+-]|%[0-9A-Fa-f]{2})*")


class Response(BareResponse):
    """One whose first line says in words what its status is; microdot's own says N/A of all but 200."""

    def __init__(self, body: str | bytes, status: int, headers: dict[str, str]) -> None:
        super().__init__(body, status, headers, HTTPStatus(status).phrase)


class ControlServer:
    """One listener. `run` serves until it is cancelled."""

    def __init__(
        self,
        settings: ControlSettings,
        *,
        status: Callable[[], dict[str, Any]],
        telemetry: Telemetry,
        healthy: Callable[[], bool],
        ready: Callable[[], bool],
        trace: Trace,
        why_not: Callable[[], str] = str,
    ) -> None:
        self.started = asyncio.Event()
        self.port = 0
        self._settings = settings
        self._telemetry = telemetry
        self._token = settings.token.read() if settings.token is not None else ""
        self._connections: set[asyncio.Task[None]] = set()
        # Those for whom nothing is being done, the longest first.
        self._idle: dict[asyncio.Task[None], asyncio.WriteTransport] = {}
        # Where there is a token, paths of this machine are for those who have it.
        why_not = str if self._token else why_not
        self._app = _routes(
            telemetry=telemetry, status=status, healthy=healthy, ready=ready, trace=trace, why_not=why_not
        )
        self._app.before_request(self._admit)

    async def run(self) -> None:
        """Listen and answer until cancelled; raise OSError if the address cannot be had."""
        listeners = await listen(self._settings.listen)
        self.port = listeners[0].getsockname()[1]
        accepting = start_accepting(listeners, self._admit_from, self._lack, name="control")
        self.started.set()
        try:
            await keep_accepting(accepting)
        finally:
            self.started.clear()
            await stop_accepting(accepting)
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _lack(self, _: str) -> None:
        self._count("out of resources")

    async def _admit_from(self, connected: socket.socket, _peer: str) -> None:
        """Begin with one connection: the next is taken when this one could say what it wants.

        asyncio's own server takes a hundred at once, and whoever had asked would make room before being heard.
        """
        reader = asyncio.StreamReader(limit=int(self._settings.request_max))
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            make_ready(connected)
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connected)
        except OSError:
            # Gone again.
            connected.close()
            self._count("connection lost")
            return
        task = asyncio.create_task(self._meet(reader, asyncio.StreamWriter(transport, protocol, reader, loop)))
        task.add_done_callback(self._leave)
        await asyncio.sleep(0)  # begun, it hangs up however it ends

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self._settings.connections_max:
            self._count("connections")
            # Whoever connects and says nothing, or does not hang up, must not keep out who asks.
            if not self._idle:
                writer.transport.abort()
                return
            oldest, transport = next(iter(self._idle.items()))
            self._leave(oldest)
            transport.abort()
        self._connections.add(task)
        self._idle[task] = writer.transport
        try:
            async with timeout(float(self._settings.timeout)):
                writer.write(await self._answer(reader, writer))
                await writer.drain()
                writer.write_eof()
                # Until the client has closed too, or the answer may be cut off by a reset.
                await reader.read(1)
        except TimeoutError:
            self._count("timeout")
        except OSError:
            self._count("connection lost")
        except asyncio.CancelledError:
            # The end of `run`, and of this task.
            pass
        finally:
            self._leave(task)
            writer.transport.abort()

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._idle.pop(task, None)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Read one request and return the whole response."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return self._refuse(431, "the request is too large")
        except asyncio.IncompleteReadError:
            return self._refuse(400, "the request ends in the middle")
        problem = check_head(head)
        if problem is not None:
            return self._refuse(*problem)
        whole = asyncio.StreamReader()
        whole.feed_data(with_query_where_asked(head))
        whole.feed_eof()
        answer = _Answer(writer.get_extra_info("peername"))
        task = asyncio.current_task()
        assert task is not None
        self._idle.pop(task, None)
        await self._app.handle_request(whole, answer)  # type: ignore[arg-type]  # all it uses
        self._idle[task] = writer.transport
        return bytes(answer.data)

    def _refuse(self, status: int, text: str) -> bytes:
        self._count(f"status {status}")
        body = f"{text}\n".encode()
        head = f"HTTP/1.0 {status} {text}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def _count(self, reason: str) -> None:
        self._telemetry.count("tidegate_control_refused", reason=reason)

    def _admit(self, request: Request) -> Response | None:
        """Refuse who lacks the token; without one, refuse other sites' pages whose names point here.

        A trace is begun by asking for it, so other sites' pages may not ask: they need not read the answer.
        """
        if request.path in OPEN_PATHS:
            return None
        if request.path == TRACE_PATH and is_asked_elsewhere(request.headers):
            self._count("status 403")
            return Response("another site's page may not begin a trace\n", 403, TEXT)
        if self._token:
            given = request.headers.get("authorization", "")
            if hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                return None
            self._count("status 401")
            return Response("a token is needed\n", 401, {**TEXT, "www-authenticate": "Bearer"})
        if not names_this_machine(request.headers.get("host", "")):
            self._count("status 421")
            return Response("ask by address, like http://127.0.0.1:8181\n", 421, TEXT)
        return None


def _routes(
    *,
    telemetry: Telemetry,
    status: Callable[[], dict[str, Any]],
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    trace: Trace,
    why_not: Callable[[], str],
) -> Microdot:
    async def index(_: Request) -> Response:
        return Response(INDEX.format(version=__version__), 200, TEXT)

    async def healthz(_: Request) -> Response:
        return _verdict(healthy(), "ok", why_not() or "the data path does not move")

    async def readyz(_: Request) -> Response:
        return _verdict(ready(), "ready", why_not() or "not all sources are open; `tidegate status` says which")

    page = MetricsPage(telemetry=telemetry, status=status)

    async def metrics(_: Request) -> Response:
        return Response(page.render(), 200, {"content-type": page.content_type})

    async def status_page(_: Request) -> Response:
        return Response(msgspec.json.encode(status()), 200, JSON)

    async def missing(_: Request) -> Response:
        return Response("no such page; / lists them\n", 404, TEXT)

    async def read_only(_: Request) -> Response:
        return Response("this port is read-only; use GET\n", 405, TEXT)

    async def failed(request: Request, error: Exception) -> Response:
        log.error("%s failed: %r", request.path, error)
        return Response("the gateway could not say; its log tells why\n", 500, TEXT)

    app = Microdot()
    pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/": index,
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": metrics,
        "/status": status_page,
        TRACE_PATH: _trace_page(trace),
    }
    for path, handler in pages.items():
        app.get(path)(handler)
    app.errorhandler(404)(missing)
    app.errorhandler(405)(read_only)
    app.errorhandler(Exception)(failed)
    return app


def _trace_page(trace: Trace) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        try:
            found = await trace({key: request.args[key] for key in request.args})
        except ValueError as error:
            return Response(f"{error}\n", 400, TEXT)
        return Response(msgspec.json.encode(found), 200, JSON)

    return page


def _verdict(good: bool, yes: str, no: str) -> Response:  # noqa: FBT001  a plain helper of two callers
    return Response(f"{yes if good else no}\n", 200 if good else 503, TEXT)


def check_head(head: bytes) -> tuple[int, str] | None:
    """Return what is wrong with a request's head (RFC 9112), as status and sentence, or None."""
    try:
        first, *lines = head.decode("ascii").split("\r\n")[:-2]
    except UnicodeDecodeError:
        return 400, "a request's head is ASCII"
    words = first.split(" ")
    if len(words) != 3 or not words[0] or not first.isprintable():
        return 400, "not an HTTP/1 request"
    if not words[1].startswith("/") or not words[2].startswith("HTTP/1."):
        return 400, "not an HTTP/1 request"
    if any(len(line) > LINE_CHARS_MAX for line in (first, *lines)):
        return 431, "a line of the request is too long"
    return _check_fields(lines)


def _check_fields(lines: list[str]) -> tuple[int, str] | None:
    hosts = 0
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or "\n" in line or "\r" in line:
            return 400, "not a header"
        lowered = name.lower()
        if lowered == "transfer-encoding" or (lowered == "content-length" and value.strip() != "0"):
            return 413, "this port takes no content"
        hosts += lowered == "host"
    return (400, "more than one host") if hosts > 1 else None


def with_query_where_asked(head: bytes) -> bytes:
    r"""Return a request's head without what follows a question mark in its path, but for the page that asks for it.

    >>> with_query_where_asked(b"GET /status?a=1 HTTP/1.1\r\n\r\n")
    b'GET /status HTTP/1.1\r\n\r\n'
    >>> with_query_where_asked(b"GET /trace?topic=%23 HTTP/1.1\r\n\r\n")
    b'GET /trace?topic=%23 HTTP/1.1\r\n\r\n'
    """
    method, target, rest = head.split(b" ", 2)
    path, _, query = target.partition(b"?")
    if query and path == TRACE_PATH.encode() and _is_readable(query):
        path = target
    return b" ".join((method, path, rest))


def _is_readable(query: bytes) -> bool:
    if not _QUERY.fullmatch(query):
        return False
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        return False
    return True


def is_asked_elsewhere(headers: Mapping[str, str]) -> bool:
    """Whether a browser asks for another site's page, as it says itself (Fetch, "Origin"; Fetch Metadata).

    >>> is_asked_elsewhere({"Host": "127.0.0.1:8181", "Origin": "http://evil.example"})
    True
    >>> is_asked_elsewhere({"Host": "127.0.0.1:8181", "Origin": "http://127.0.0.1:8181"}), is_asked_elsewhere({})
    (False, False)
    """
    origin = headers.get("Origin")
    is_foreign = origin is not None and origin.partition("://")[2].lower() != headers.get("Host", "").lower()
    return is_foreign or headers.get("Sec-Fetch-Site", "").lower() == "cross-site"


class _Answer:
    """Takes what microdot writes, so that it leaves in one piece."""

    def __init__(self, peer: object) -> None:
        self.data = bytearray()
        self._peer = peer

    def get_extra_info(self, name: str) -> object:
        """Return the peer's address."""
        return self._peer if name == "peername" else None

    async def awrite(self, data: bytes) -> None:
        """Keep `data`."""
        self.data += data

    async def aclose(self) -> None:
        """Nothing to close here."""
