"""What all senders have: one kept connection, what it costs, when it is given up, and what its failures mean.

Must not know what is said over it, retry, or choose what goes. One sender belongs to one uplink's thread. Two of its
methods are called from the event loop: `is_overdue` and `abort`, which end a request whose answer drips in for ever,
or that is still under way when the gateway stops.

The body is written in small pieces, each with `timeout` to be taken, so that a slow line is not mistaken
for a dead one; and the kernel is asked to hold little that is unsent, so that a piece taken is a piece that
moves. What must be over by a time of its own, however much moves, is handed down and each step gets what is left:

    whoever sends → an attempt (`attempt_timeout`) → its connection (`connect_timeout`) → each address
                                                  └→ its answer (`timeout`)
"""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import RefusedError, TryLaterError
from gateway.core.text import printable
from gateway.net.line import (
    NEVER,
    Address,
    ConnectError,
    ConnectTimeoutError,
    HandshakeError,
    HttpError,
    Line,
    OverdueError,
    ProxyRefusedError,
    StalledError,
    UnknownNameError,
    reason,
)
from gateway.net.secrets import Hidden, Secret
from gateway.net.tls import certificate_advice
from gateway.uplinks.guards import (
    Answer,
    HoldError,
    InTransitError,
    TooLargeError,
    UnreachableError,
    read_http_date,
    told_of_wait,
)
from gateway.uplinks.settings import is_header_value

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from gateway.codecs.otlp_answers import PartialSuccess
    from gateway.core.clock import Clock
    from gateway.net.deadline import Deadline
    from gateway.uplinks.guards import Packed
    from gateway.uplinks.settings import OtlpUplinkSettings, TlsSettings

PROXY_WANTS_LOGIN: Final = 407
PIECE_BYTES: Final = 8 * 1024
REASON_CHARS_MAX: Final = 120
# Linux's TCP_NOTSENT_LOWAT, not named by Python below 3.12.
TCP_NOTSENT_LOWAT: Final = 25
UNSENT_BYTES_MAX: Final = 16 * 1024
# What the kernel takes of an answer before it is read (it doubles that): it is paid for, and may be no answer at all.
UNREAD_BYTES_MAX: Final = 16 * 1024
# A request that was answered so soon went over no line that people wait for: the next one is written at once, since
# each small write is one more turn of the interpreter to wait for.
WRITTEN_AT_ONCE_BELOW_S: Final = 0.02
WRITTEN_AT_ONCE_BYTES: Final = 256 * 1024
# What OpenSSL makes of an answer that is no TLS, by its version.
_NO_TLS: Final = frozenset(("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"))

C = TypeVar("C", bound=Line)


class KeptWire(ABC, Generic[C]):
    """A wire over one kept connection. See `Wire` and `MeteredWire` for the contract."""

    # How plain text is spoken there, for who finds no TLS.
    speaks = "HTTP"

    def __init__(self, settings: OtlpUplinkSettings, *, version: str, clock: Clock, endpoint: str = "") -> None:
        self.requests = 0
        self.device = ""
        self._endpoint = endpoint or settings.endpoint
        self._settings = settings
        self._version = version
        self._clock = clock
        self._timeout_s = float(settings.timeout)
        self._connect_s = float(settings.connect_timeout or settings.timeout)
        self._attempt_s = None if settings.attempt_timeout is None else float(settings.attempt_timeout)
        self._connection: C | None = None
        self._bytes_before = 0
        self._headers: dict[str, str] = {}
        self._hidden = Hidden()  # those that went with them
        self._path = urlsplit(self._endpoint).path.rstrip("/")
        self._socket: socket.socket | None = None
        self._written_ns: int | None = None
        # Since when a way is asked for, of a proxy or by TLS.
        self._asked_ns: int | None = None
        self._begun_ns: int | None = None
        # When the connection came about, and when it was of use last.
        self._opened_ns = self._used_ns = 0
        self.before_piece: Callable[[int], None] = lambda _: None
        self.piece_bytes_max = WRITTEN_AT_ONCE_BYTES
        # Here there is one receiver alone.
        self.before_another: Callable[[], None] = lambda: None
        self._wire_before = 0
        self._ended = threading.Event()
        self._is_aborted = False
        self._is_cut = False
        self._is_quick = False
        self._has_answered = False

    def _note_answer(self) -> None:
        """Take note that a request was answered just now."""
        self._has_answered = True
        self._used_ns = self._clock.monotonic_ns()

    def _answer(self, partial: PartialSuccess, *, started_ns: int, date: str) -> Answer:
        """Return what the last answer says, with how long it took; `date` is its header of that name."""
        return Answer(
            rejected=partial.rejected,
            message=self._hidden.out_of(partial.message),
            seconds=(self._clock.monotonic_ns() - started_ns) / NS_PER_S,
            rtt_s=(self._used_ns - (self._written_ns or self._used_ns)) / NS_PER_S,
            server_time_s=read_http_date(date),
            round_trip_s=0.0 if self._connection is None else self._connection.round_trip_s,
        )

    @property
    def bytes_sent(self) -> int:
        """Heads and bodies that were handed to TCP or TLS."""
        return self._bytes_before + (0 if self._connection is None else self._connection.bytes_sent)

    @property
    def wire_bytes(self) -> int:
        """What went over the wire so far, in both directions, with all headers."""
        return self._wire_before + (0 if self._connection is None else self._connection.wire_bytes)

    @property
    def is_connected(self) -> bool:
        """Whether the next request finds a connection, as far as is known."""
        return self._connection is not None and self._connection.is_open

    @property
    def is_encrypted(self) -> bool:
        """Whether a new connection begins with TLS."""
        return urlsplit(self._endpoint).scheme == "https"

    def told(self) -> dict[str, Any]:
        """Return where it leads, and what a request under way waits for."""
        written_ns, begun_ns = self._written_ns, self._begun_ns
        is_connecting = self._asked_ns is not None or not self.is_connected
        awaited, since_ns, seconds_max = "an answer", written_ns, self._timeout_s
        if written_ns is None and is_connecting:
            awaited, since_ns, seconds_max = "a connection", begun_ns, self._connect_s
        now_ns = self._clock.monotonic_ns()
        return {
            "endpoint": self._endpoint,
            **told_of_wait(awaited, since_ns, now_ns=now_ns, seconds_max=seconds_max),
        }

    def pause(self, seconds: float) -> None:
        """Wait, unless the request is ended meanwhile."""
        self._ended.wait(seconds)

    def open(self) -> None:
        """Take requests, again after `stop` too."""
        self._is_aborted = False

    def send(self, packed: Packed, /, *, until: Deadline = NEVER) -> Answer:
        """Post `packed`; return when it was taken, else raise what to do next. It takes no longer than `until`."""
        if self._is_aborted:
            raise TryLaterError("the uplink is stopping")
        self._written_ns = self._asked_ns = None
        self._is_cut = False
        self._ended.clear()
        started_ns = self._begun_ns = self._clock.monotonic_ns()
        self.recycle()
        try:
            answer = self._post(self._connect(), packed, started_ns, until.within(self._attempt_s))
        except (TryLaterError, RefusedError, TooLargeError) as error:
            error.args = (self._hidden.out_of(str(error)),)
            if isinstance(error, HoldError):
                # Whoever mends it may do so by a new token or certificate under the same name.
                self.close()
            raise
        except (HttpError, OSError) as error:
            explained = self._explain(error)
            explained.args = (self._hidden.out_of(str(explained)),)
            self.close()
            raise explained from error
        finally:
            self._written_ns = self._asked_ns = self._begun_ns = None
        self._notice(is_quick=answer.seconds < WRITTEN_AT_ONCE_BELOW_S)
        return answer

    def is_overdue(self) -> bool:
        """Whether the whole answer should have been read by now: to the request, or to who asks for a way."""
        written_ns, asked_ns = self._written_ns, self._asked_ns
        if written_ns is not None:
            return self._clock.monotonic_ns() - written_ns > self._timeout_s * NS_PER_S
        return asked_ns is not None and self._clock.monotonic_ns() - asked_ns > self._connect_s * NS_PER_S

    def abort(self) -> None:
        """Cut the connection under the request that is under way."""
        self._is_cut = True
        self._ended.set()
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
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._bytes_before += connection.bytes_sent
            self._wire_before += connection.wire_bytes

    def recycle(self) -> None:
        """Let go of a connection that is too old, or was of no use for too long; not while a request is under way."""
        now_ns, settings = self._clock.monotonic_ns(), self._settings
        for since_ns, limit in (
            (self._opened_ns, settings.connection_max_age),
            (self._used_ns, settings.connection_max_idle),
        ):
            if limit is not None and self.is_connected and now_ns - since_ns > limit * NS_PER_S:
                self.close()

    @abstractmethod
    def _post(self, connection: C, packed: Packed, started_ns: int, until: Deadline) -> Answer:
        """Send `packed` over the connection; raise what to do next, or HttpError and OSError to be explained."""

    @abstractmethod
    def _new(self, **options: Any) -> C:
        """Return a connection that is not open yet."""

    def _connect(self) -> C:
        if self._connection is None:
            self._headers = self._read_headers()
            endpoint, proxy = self._endpoint, self._settings.proxy
            self._connection = self._new(
                to=Address.of(endpoint),
                timeout_s=self._timeout_s,
                connect_timeout_s=self._connect_s,
                context=self._build_context() if self.is_encrypted else None,
                proxy=Address.of(proxy) if proxy else None,
                options=[
                    (socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX),
                    (socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES_MAX),
                ],
                connected=self._connected,
                heard=self._heard,
                device=self.device,
            )
        return self._connection

    def _read_headers(self) -> dict[str, str]:
        headers = {"User-Agent": f"tidegate/{self._version}"}
        secrets: list[str] = []
        for name, value in self._settings.headers.items():
            try:
                text = value.read().strip() if isinstance(value, Secret) else value
            except ValueError as error:
                raise HoldError(f"header {name}: {error}") from error
            if not is_header_value(text):
                raise HoldError(f"header {name}: its secret has characters that no header can have")
            headers[name] = text
            secrets += [text] if isinstance(value, Secret) else []
        self._hidden = Hidden(secrets)
        return headers

    def _build_context(self) -> ssl.SSLContext:
        tls = self._settings.tls
        try:
            return tls_context(tls)
        except OSError as error:
            what = " or ".join(filter(None, (tls.ca_file, tls.cert_file, tls.key_file)))
            raise HoldError(f"cannot read the certificates in {what or 'the system'}: {error}") from error

    def _connected(self, connection: socket.socket) -> None:
        self._socket = connection
        self._asked_ns = self._opened_ns = self._clock.monotonic_ns()
        self._is_quick = False
        if self._is_aborted:
            self.abort()

    def _heard(self) -> None:
        """Have it paid what comes of an answer; where that cannot be, nobody knows what became of the request."""
        try:
            self.before_piece(0)
        except TryLaterError as error:
            error.answer_lost |= self._written_ns is not None
            raise

    def _notice(self, *, is_quick: bool) -> None:
        """Let the kernel hold as much as the line deserves."""
        connection = self._socket
        if connection is not None and is_quick != self._is_quick:
            self._is_quick = is_quick
            with suppress(OSError):
                connection.setsockopt(
                    socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, WRITTEN_AT_ONCE_BYTES if is_quick else UNSENT_BYTES_MAX
                )

    def _pieces(self, body: bytes) -> Iterator[bytes]:
        self._asked_ns = None
        view = memoryview(body)
        piece_bytes = min(WRITTEN_AT_ONCE_BYTES if self._is_quick else PIECE_BYTES, self.piece_bytes_max)
        for start in range(0, len(body), piece_bytes):
            if self._is_aborted:
                raise OSError("the uplink is stopping")
            piece = view[start : start + piece_bytes]
            self.before_piece(len(piece))
            yield bytes(piece)
        self._written_ns = self._clock.monotonic_ns()

    def _explain(self, error: Exception) -> TryLaterError:
        """Return what went wrong as what to do next, in a sentence."""
        answer_lost = self._written_ns is not None
        text = printable(reason(error), REASON_CHARS_MAX)
        if isinstance(error, ConnectError):
            return self._explain_connect(error, text)
        if self._is_aborted:
            return InTransitError("the uplink is stopping", answer_lost=answer_lost)
        if isinstance(error, OverdueError) and not (answer_lost and self._has_waited()):
            return InTransitError("an attempt took longer than it may", answer_lost=answer_lost)
        # One that was cut broke because we did not wait any longer.
        if isinstance(error, StalledError) or self._is_cut:
            what = "no answer" if answer_lost else "the line takes nothing"
            return InTransitError(f"{what} within {self._timeout_s:g} s", answer_lost=answer_lost)
        return InTransitError(f"the connection to {self._host()} broke: {text}{self._hint()}", answer_lost=answer_lost)

    def _hint(self) -> str:
        """Say why a connection may have broken before anything was ever answered."""
        is_plain = not (self.is_encrypted or self._settings.proxy)
        # Most servers that expect TLS say nothing at all to who does not begin with it.
        hint = "; does it speak TLS at this port? then the endpoint begins with https://"
        return hint if is_plain and not self._has_answered else ""

    def _has_waited(self) -> bool:
        """Whether the answer had all of its time, as far as a look behind can tell."""
        waited_s = (self._clock.monotonic_ns() - (self._written_ns or 0)) / NS_PER_S
        return waited_s > 0.9 * self._timeout_s

    def _explain_connect(self, error: ConnectError, text: str) -> TryLaterError:
        if isinstance(error, HandshakeError):
            return _explain_tls(error, host=self._host(), speaks=self.speaks)
        if isinstance(error, ProxyRefusedError):
            kind = HoldError if error.status == PROXY_WANTS_LOGIN else TryLaterError
            return kind(f"{text} for {self._host()}")
        if isinstance(error, UnknownNameError):
            return UnreachableError(f"the name {error.party} cannot be resolved")
        if isinstance(error, ConnectTimeoutError) or self._is_cut:
            return UnreachableError(f"no connection to {error.party} within {self._connect_s:g} s")
        return UnreachableError(f"no connection to {error.party}: {text}")

    def _host(self) -> str:
        return Address.of(self._endpoint).host


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return a context that checks the far side; raise OSError for files that cannot be used."""
    import ssl  # noqa: PLC0415  five megabytes that a plain road does without

    context = ssl.create_default_context(cafile=tls.ca_file or None)
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_password)
    return context


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal of a daemon.
    return ""


def _explain_tls(error: HandshakeError, *, host: str, speaks: str) -> TryLaterError:
    cause = error.__cause__
    why = getattr(cause, "verify_message", "")
    if why:
        advice = certificate_advice(why, named="the host in endpoint", whose="uplink")
        return HoldError(f"the certificate of {host} is not accepted: {why.rstrip('.')}; {advice}")
    is_plain = getattr(cause, "reason", "") in _NO_TLS
    hint = f"; does it speak plain {speaks} at this port? then the endpoint begins with http://" if is_plain else ""
    return TryLaterError(f"TLS with {host} failed: {printable(str(cause), REASON_CHARS_MAX)}{hint}")
