"""A connection to a NATS server, from a thread that may wait: it is greeted, and answers its questions. Must not retry.

    connect → INFO → (TLS) → CONNECT, SUB, PING → PONG: it stands

A server that asks for a sign of life (PING, every two minutes) gets it whenever the thread has a look; one that was
not looked at for long hangs up, and the next request finds another connection.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.net.line import (
    READ_BYTES,
    BrokenError,
    ConnectError,
    ConnectTimeoutError,
    HandshakeError,
    HttpError,
    Line,
    StalledError,
    reason,
)
from gateway.net.nats import PING, PONG, Event, Info, Message, NatsError, Refusal, Scanner, Word, write_connect

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from gateway.net.deadline import Deadline

SUBSCRIPTION: Final = b"1"
# So much is read in one look without waiting.
LOOKS_MAX: Final = 64
# What is heard on the way to a connection: INFO, PONG, and a word or two.
GREETINGS_MAX: Final = 16
_NO_TIME: Final = struct.pack("ll", 0, 0)


class NotNatsError(BrokenError):
    """What came is no NATS."""


class SaidNoError(HttpError):
    """The server says -ERR; the message is its own word."""


class NoTlsError(ConnectError):
    """The server and the address do not agree about TLS; `wants_tls` is what the server wants."""

    def __init__(self, reason: str, *, party: str, wants_tls: bool) -> None:
        super().__init__(reason, party=party)
        self.wants_tls = wants_tls


@dataclass(slots=True, kw_only=True)
class NatsConnection(Line):
    """See `Line`. `credentials` makes what CONNECT says of who we are out of what the server said of itself.

    `inbox` is the subject below which all answers come. `info` is what the server said last of itself. `name` is whose
    certificate it has to have, where that is another than its address.
    """

    tls: ssl.SSLContext | None = None
    name: str = ""
    inbox: bytes = b"_INBOX.0"
    credentials: Callable[[Info], dict[str, Any]] = lambda _: {}
    info: Info = field(default=Info(), init=False)
    _scanner: Scanner = field(default_factory=Scanner, init=False)
    _pongs: int = field(default=0, init=False)

    def open(self, until: Deadline) -> None:
        """Connect, and be greeted; raise ConnectError, SaidNoError or what the credentials raise."""
        self.close()
        self._scanner, self._pongs = Scanner(), 0
        connect = until.within(self.timeout_s if self.connect_timeout_s is None else self.connect_timeout_s)
        try:
            self._connect(connect)
            self._until, self._is_first = connect, False
            self._greet(connect)
        except (StalledError, BrokenError) as error:
            self.close()
            raise self._explain(error) from error
        except BaseException:
            self.close()
            raise
        self._set_wait(self.timeout_s)

    def _explain(self, error: Exception) -> ConnectError:
        if isinstance(error, StalledError):
            return ConnectTimeoutError("accepted the connection and said nothing", party=str(self.to))
        return ConnectError(str(error), party=str(self.to))

    def _greet(self, until: Deadline) -> None:
        self.info, is_alone = self._await_info()
        is_wanted = self.info.tls_required or self.info.tls_available
        if self.tls is None and self.info.tls_required:
            raise NoTlsError("it wants TLS", party=str(self.to), wants_tls=True)
        if self.tls is not None and not is_wanted:
            raise NoTlsError("it does not speak TLS", party=str(self.to), wants_tls=False)
        if self.tls is not None:
            if not is_alone:
                raise NotNatsError("it says more than INFO before TLS, where anybody may speak")
            self._secure(self.tls, until)
        said = {"tls_required": self.tls is not None, **self.credentials(self.info)}
        self._say(write_connect(said) + b"SUB %b.* %b\r\n" % (self.inbox, SUBSCRIPTION) + PING)
        for _ in range(GREETINGS_MAX):
            if self._pongs:
                return
            for event in self._next_events():
                if isinstance(event, Refusal):
                    raise SaidNoError(event.reason)
        raise BrokenError("it greets without an end")

    def _await_info(self) -> tuple[Info, bool]:
        """Return it, and whether nothing else came."""
        events = self._next_events()
        while not events:
            events = self._next_events()
        if (no := next((event.reason for event in events if isinstance(event, Refusal)), None)) is not None:
            raise SaidNoError(no)
        if not isinstance(events[0], Info):
            raise NotNatsError("it does not begin with INFO")
        return events[0], len(events) == 1 and self._scanner.is_empty

    def _secure(self, context: ssl.SSLContext, until: Deadline) -> None:
        """Have all that follows encrypted: the server has said INFO in the open and waits for the handshake."""
        assert self._socket is not None
        try:
            if self._is_kernels:
                # What the kernel bounds, Python's own waits must not meet again.
                for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                    self._socket.setsockopt(socket.SOL_SOCKET, option, _NO_TIME)
            self._is_kernels, self._wait_s = False, 0.0
            self._socket = secured = context.wrap_socket(
                self._socket, server_hostname=self.name or self.to.host, do_handshake_on_connect=False
            )
            self.connected(secured)
            self._set_wait(until.left_s())
            secured.do_handshake()
        except TimeoutError as error:
            raise ConnectTimeoutError("no TLS handshake in time", party=self.to.host) from error
        except (OSError, ValueError) as error:
            raise HandshakeError(reason(error), party=self.to.host) from error

    # Once it stands.

    def look(self, until: Deadline) -> None:
        """Hear what is there already; raise HttpError where it is the end, or no word of the server's."""
        self._until = until
        for _ in range(LOOKS_MAX):
            if not self._has_some():
                return
            for event in self._next_events():
                if isinstance(event, Refusal):
                    raise SaidNoError(event.reason)
        raise BrokenError("it talks without an end")

    def write(self, data: bytes, until: Deadline) -> None:
        """Hand over all of `data`; raise HttpError."""
        self._until = until
        self._say(data)

    def hear(self, until: Deadline) -> Iterator[Message | Refusal]:
        """Wait until something comes; return messages and refusals."""
        self._until = until
        for event in self._next_events():
            if isinstance(event, Message | Refusal):
                yield event

    def ping(self, until: Deadline) -> None:
        """Return when the server has answered a PING."""
        self._until = until
        before = self._pongs
        self._say(PING)
        while self._pongs == before:
            for event in self._next_events():
                if isinstance(event, Refusal):
                    raise SaidNoError(event.reason)

    def _has_some(self) -> bool:
        connection = self._socket
        assert connection is not None
        pending = getattr(connection, "pending", None)
        if pending is not None and pending():
            return True
        look = select.poll()
        look.register(connection, select.POLLIN)
        return bool(look.poll(0))

    def _say(self, data: bytes) -> None:
        if self._send(data):
            return
        # It hung up, and may have said why before.
        why = ""
        with suppress(HttpError):
            while not why:
                why = next((event.reason for event in self._next_events() if isinstance(event, Refusal)), "")
        raise SaidNoError(why) if why else BrokenError("the server closed the connection")

    def _next_events(self) -> list[Event]:
        """Wait for what comes next; answer what asks for an answer."""
        if not self._fill():
            raise BrokenError("the server closed the connection")
        data, self._unread = self._unread, b""
        assert len(data) <= READ_BYTES
        try:
            found = self._scanner.feed(data)
        except NatsError as error:
            raise NotNatsError(str(error)) from error
        for event in found:
            if isinstance(event, Info):
                self.info = event
            elif isinstance(event, Word) and event.word == "PONG":
                self._pongs += 1
            elif isinstance(event, Word) and event.word == "PING":
                self._send(PONG)
        return found
