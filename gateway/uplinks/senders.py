"""Senders: packed requests go out as OTLP/HTTP over one kept connection. Must not retry or choose what goes.

One sender belongs to one uplink's thread. Two of its methods are called from the event loop: `is_overdue`
and `abort`, which end a request whose answer drips in for ever, or that is still under way when the gateway
stops.

The body is written in small pieces, each with `timeout` to be taken, so that a slow line is not mistaken
for a dead one; and the kernel is asked to hold little that is unsent, so that a piece taken is a piece that
moves.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)

from gateway.codecs.otlp import read_response, read_status_message
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Signal, TryLaterError
from gateway.core.text import printable
from gateway.net.secrets import Secret
from gateway.uplinks.guards import (
    Answer,
    HoldError,
    InTransitError,
    Reply,
    check_reply,
    read_http_date,
    read_retry_after,
)
from gateway.uplinks.settings import is_header_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.core.clock import Clock
    from gateway.uplinks.guards import Packed
    from gateway.uplinks.settings import OtlpUplinkSettings

PATHS: Final = {Signal.METRICS: "/v1/metrics", Signal.LOGS: "/v1/logs", Signal.TRACES: "/v1/traces"}
CONTENT_TYPE: Final = "application/x-protobuf"
RESPONSE_BYTES_MAX: Final = 64 * 1024
PIECE_BYTES: Final = 8 * 1024
REASON_CHARS_MAX: Final = 120
# Linux's TCP_NOTSENT_LOWAT, not named by Python below 3.12.
TCP_NOTSENT_LOWAT: Final = 25
UNSENT_BYTES_MAX: Final = 16 * 1024
_PAGE_TYPES: Final = ("text/html", "application/xhtml")
_PAGE_STARTS: Final = (b"<!doctype html", b"<html")


class HttpSender:
    """One road's HTTP side. See `Wire` for the contract."""

    def __init__(self, settings: OtlpUplinkSettings, *, version: str, clock: Clock) -> None:
        self.bytes_sent = 0
        self.requests = 0
        self._settings = settings
        self._version = version
        self._clock = clock
        self._timeout_s = float(settings.timeout)
        self._manager: urllib3.PoolManager | None = None
        self._headers: dict[str, str] = {}
        self._socket: socket.socket | None = None
        self._written_ns: int | None = None
        self._is_aborted = False

    def open(self) -> None:
        """Take requests, again after `stop` too."""
        self._is_aborted = False

    def send(self, packed: Packed, /) -> Answer:
        """Post `packed`; return when it was taken, else raise what to do next."""
        if self._is_aborted:
            raise TryLaterError("the uplink is stopping")
        self._written_ns = None
        started_ns = self._clock.monotonic_ns()
        try:
            return self._post(self._manage(), packed, started_ns)
        except HoldError:
            # Whoever mends it may do so by a new token or certificate under the same name.
            self.close()
            raise
        except (HTTPError, OSError, ValueError) as error:
            # The ValueErrors are those of http.client and ssl for what a peer or an abort left half done.
            self.close()
            raise self._explain(error) from error
        finally:
            self._written_ns = None

    def is_overdue(self) -> bool:
        """Whether the whole request was written and the whole answer should have been read by now."""
        written_ns = self._written_ns
        if written_ns is None:
            return False
        return self._clock.monotonic_ns() - written_ns > self._timeout_s * NS_PER_S

    def abort(self) -> None:
        """Cut the connection under the request that is under way."""
        connection = self._socket
        if connection is not None:
            # The plain socket's method: an SSLSocket's own would pull its state from under the reading
            # thread.
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def stop(self) -> None:
        """Abort, and start no further request."""
        self._is_aborted = True
        self.abort()

    def close(self) -> None:
        """Let go of the connection; the next request reads secrets and certificates anew."""
        self._socket = None
        if self._manager is not None:
            self._manager.clear()
            self._manager = None

    def _manage(self) -> urllib3.PoolManager:
        if self._manager is None:
            self._headers = self._read_headers()
            self._manager = self._build_manager()
        return self._manager

    def _read_headers(self) -> dict[str, str]:
        headers = {"User-Agent": f"tidegate/{self._version}"}
        for name, value in self._settings.headers.items():
            try:
                text = value.read().strip() if isinstance(value, Secret) else value
            except ValueError as error:
                raise HoldError(f"header {name}: {error}") from error
            if not is_header_value(text):
                raise HoldError(f"header {name}: its secret has characters that no header can have")
            headers[name] = text
        return headers

    def _build_manager(self) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": 1,
            "maxsize": 1,
            "socket_options": [
                *HTTPConnection.default_socket_options,
                (socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX),
            ],
        }
        if urlsplit(self._settings.endpoint).scheme == "https":
            options["ssl_context"] = self._build_context()
        proxy = self._settings.proxy
        manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
        manager.pool_classes_by_scheme = _pool_classes(self._connected)
        return manager

    def _build_context(self) -> ssl.SSLContext:
        tls = self._settings.tls
        try:
            context = ssl.create_default_context(cafile=tls.ca_file or None)
            if tls.cert_file:
                context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_password)
        except OSError as error:
            what = " or ".join(filter(None, (tls.ca_file, tls.cert_file, tls.key_file)))
            raise HoldError(f"cannot read the certificates in {what or 'the system'}: {error}") from error
        return context

    def _connected(self, connection: socket.socket) -> None:
        self._socket = connection
        if self._is_aborted:
            self.abort()

    def _post(self, manager: urllib3.PoolManager, packed: Packed, started_ns: int) -> Answer:
        headers = {
            **self._headers,
            "Content-Type": CONTENT_TYPE,
            "Content-Length": str(len(packed.body)),
            **({"Content-Encoding": packed.encoding} if packed.encoding else {}),
        }
        url = self._settings.endpoint.rstrip("/") + PATHS[packed.signal]
        self.requests += 1
        self.bytes_sent += len(url) + 40 + sum(len(name) + len(value) + 4 for name, value in headers.items())
        response = manager.urlopen(
            "POST",
            url,
            body=self._pieces(packed.body),
            headers=headers,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=self._timeout_s, read=self._timeout_s),
            preload_content=False,
            decode_content=False,
        )
        answered_ns = self._clock.monotonic_ns()
        written_ns = self._written_ns or answered_ns
        reply, body = self._read(response)
        check_reply(reply)
        partial = read_response(body, content_type=reply.content_type)
        return Answer(
            rejected=partial.rejected,
            message=partial.message,
            seconds=(self._clock.monotonic_ns() - started_ns) / NS_PER_S,
            rtt_s=(answered_ns - written_ns) / NS_PER_S,
            server_time_s=read_http_date(response.headers.get("date", "")),
        )

    def _pieces(self, body: bytes) -> Iterator[bytes]:
        view = memoryview(body)
        for start in range(0, len(body), PIECE_BYTES):
            if self._is_aborted:
                raise OSError("the uplink is stopping")
            piece = view[start : start + PIECE_BYTES]
            yield bytes(piece)
            self.bytes_sent += len(piece)
        self._written_ns = self._clock.monotonic_ns()

    def _read(self, response: urllib3.BaseHTTPResponse) -> tuple[Reply, bytes]:
        """Read at most RESPONSE_BYTES_MAX of the answer. Its status counts even if its body breaks off."""
        body = b""
        try:
            body = response.read(RESPONSE_BYTES_MAX)
            is_whole = len(body) < RESPONSE_BYTES_MAX
        except (HTTPError, OSError, ValueError):
            is_whole = False
        if is_whole:
            response.release_conn()
        else:
            response.close()
        headers = response.headers
        content_type = printable(headers.get("content-type", "").lower(), 100)
        now_s = read_http_date(headers.get("date", ""))
        is_page = content_type.startswith(_PAGE_TYPES) or body.lstrip()[:20].lower().startswith(_PAGE_STARTS)
        reply = Reply(
            status=response.status,
            content_type=content_type,
            message="" if is_page else read_status_message(body, content_type=content_type),
            # The server's own clock, where it says it, is the one that its date is meant by.
            retry_after_s=read_retry_after(
                headers.get("retry-after", ""),
                now_s=self._clock.wall_ns() / NS_PER_S if now_s is None else now_s,
            ),
            location=printable(headers.get("location", ""), 200),
            is_page=is_page,
        )
        return reply, body

    def _explain(self, error: Exception) -> TryLaterError:
        """Return a foreign error as what to do next, in a sentence."""
        host = urlsplit(self._settings.endpoint).hostname
        answer_lost = self._written_ns is not None
        cause: BaseException = error
        if isinstance(error, ProxyError) and error.original_error is not None:
            host, cause = urlsplit(self._settings.proxy).hostname, error.original_error
        if isinstance(cause, SSLError):
            return _explain_tls(cause, host=host or "")
        if isinstance(cause, NameResolutionError):
            return TryLaterError(f"the name {host} cannot be resolved")
        if isinstance(cause, ConnectTimeoutError) and not isinstance(cause, NewConnectionError):
            return TryLaterError(f"no connection to {host} within {self._timeout_s:g} s")
        if isinstance(cause, NewConnectionError):
            return TryLaterError(f"no connection to {host}: {_reason(cause)}")
        if isinstance(_innermost(cause), TimeoutError):
            what = "no answer" if answer_lost else "the line takes nothing"
            return InTransitError(f"{what} within {self._timeout_s:g} s", answer_lost=answer_lost)
        return InTransitError(f"the connection to {host} broke: {_reason(cause)}", answer_lost=answer_lost)


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal of a daemon.
    return ""


def _innermost(error: BaseException) -> BaseException:
    """Return the error that started it: urllib3 wraps what the socket said."""
    for _ in range(10):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error


def _reason(error: BaseException) -> str:
    """Return the first words of it, without the objects that urllib3 prints in front of them."""
    first = _innermost(error)
    text = first.strerror if isinstance(first, OSError) and first.strerror else str(first)
    return printable(text, REASON_CHARS_MAX) or type(first).__name__


def _explain_tls(error: SSLError, *, host: str) -> TryLaterError:
    inner = error.args[0] if error.args else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        hint = ""
        if "not yet valid" in inner.verify_message or "expired" in inner.verify_message:
            hint = "; is this box's clock right?"
        return HoldError(f"the certificate of {host} is not accepted: {inner.verify_message}{hint}")
    return TryLaterError(f"TLS with {host} failed: {printable(str(inner), REASON_CHARS_MAX)}")


def _pool_classes(connected: Callable[[socket.socket], None]) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Return urllib3's pools with connections that show their socket once it stands."""

    class Http(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            connected(self.sock)

    class Https(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            connected(self.sock)

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Https

    return {"http": HttpPool, "https": HttpsPool}
