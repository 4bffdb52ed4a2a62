"""A connection of an uplink: TCP, a proxy and TLS, its waits and what it has cost. Must not know what is said over it.

Blocking, for a thread of its own. Each wait has an end, and all of them together have one where a deadline is given. A
proxy is asked for a tunnel (CONNECT) where there is TLS, or where `is_tunnelled` says that the far side is to be spoken
to directly. What goes wrong is a `ConnectError` before a request could have been seen, a `BrokenError` after.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple
from urllib.parse import urlsplit

from gateway.core.words import span
from gateway.net.deadline import Deadline
from gateway.net.wire_bytes import ATTEMPT_BYTES, CLOSE_PACKETS, PACKET_BYTES_V6, round_trip_s, wire_bytes

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

# RFC 9110 sets no limits; these are what servers themselves take, which no sane answer reaches.
LINE_BYTES_MAX: Final = 8 * 1024
HEADERS_MAX: Final = 128
# "100 Continue" and its kind, before the answer.
INTERIM_MAX: Final = 8
READ_BYTES: Final = 16 * 1024
# What is read of an answer beside its body: heads, and how it is cut into pieces.
BESIDE_BYTES_MAX: Final = 64 * 1024
ENDLESS_BYTES: Final = 1 << 62
SHOWN_MAX: Final = 60
# A wait of nothing would be one without an end to the kernel.
WAIT_S_MIN: Final = 0.001
# struct linger: on, for no time at all.
_AT_ONCE: Final = struct.pack("ii", 1, 0)


NEVER: Final = Deadline.after(None)


class HttpError(Exception):
    """No answer; the message is the cause in a few words, fit to follow a colon."""


class ConnectError(HttpError):
    """There is no connection, so nothing was sent. `party` is who it failed with: a host, or a host and port."""

    def __init__(self, reason: str, *, party: str) -> None:
        super().__init__(reason)
        self.party = party


class UnknownNameError(ConnectError):
    """The name of the host cannot be resolved."""


class ConnectTimeoutError(ConnectError):
    """Nobody answered in time."""


class HandshakeError(ConnectError):
    """TLS did not come about; `__cause__` is OpenSSL's error."""


class ProxyRefusedError(ConnectError):
    """The proxy answered CONNECT with `status`."""

    def __init__(self, status: int, *, party: str) -> None:
        super().__init__(f"the proxy answered {status}", party=party)
        self.status = status


class BrokenError(HttpError):
    """The connection broke while the request or its answer was on the way, or what came was no HTTP."""


class StalledError(BrokenError):
    """Nothing moved for as long as was to be waited."""


class OverdueError(StalledError):
    """What moves does not stand still, and all the same the time for the whole of it is over."""


class Address(NamedTuple):
    """Where to connect to."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Address:
        """Return the host and port of a URL, with the scheme's own port where it names none.

        >>> Address.of("https://otel.example/x")
        Address(host='otel.example', port=443)
        """
        parts = urlsplit(url)
        assert parts.hostname is not None, "the settings have looked"
        return cls(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))

    def __str__(self) -> str:
        """Return it as it stands in a Host header or behind CONNECT."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(slots=True, kw_only=True)
class Line:
    """A connection that is opened when it is needed and kept between requests. Not for two threads, but `socket` is.

    `timeout_s` bounds the wait for the line to take more bytes, and for the whole answer; `connect_timeout_s` that for
    a connection with its proxy and TLS, over all addresses of the name (it is `timeout_s` where it is not given). The
    look-up of the name is the resolver's. `connected` is called with the plain socket once it stands, so that another
    thread can shut it down. `bytes_sent` counts what was handed to TCP or TLS, heads included; `wire_bytes` what all of
    it has cost on the wire, in both directions, as far as the kernel says. `heard` is called in the thread whenever
    some of an answer has come; what it raises ends the request. Where there is a `device` it leaves by that network
    device and by no other.
    """

    is_tunnelled: ClassVar[bool] = False

    to: Address
    timeout_s: float
    connect_timeout_s: float | None = None
    context: ssl.SSLContext | None = None
    proxy: Address | None = None
    options: Iterable[tuple[int, int, int]] = ()
    connected: Callable[[socket.socket], None] = lambda _: None
    heard: Callable[[], None] = lambda: None
    device: str = ""
    bytes_sent: int = 0
    _wire_bytes: int = field(default=0, init=False)  # of connections that are gone
    _socket: socket.socket | None = field(default=None, init=False)
    _unread: bytes = field(default=b"", init=False)
    _until: Deadline = field(default=NEVER, init=False)  # of what is being read or sent now
    _wait_s: float = field(default=0.0, init=False)  # that the socket is set to
    _is_kernels: bool = field(default=False, init=False)  # and whether by the kernel
    _is_first: bool = field(default=True, init=False)  # nothing was waited for yet since `_until` was set
    _left_bytes: int = field(default=ENDLESS_BYTES, init=False)  # that may still be read of an answer

    @property
    def wire_bytes(self) -> int:
        """What went over the wire since the beginning."""
        return self._wire_bytes + (0 if self._socket is None else wire_bytes(self._socket))

    @property
    def round_trip_s(self) -> float:
        """How long packets take there and back, as the kernel measures it; 0.0 where it does not say."""
        return 0.0 if self._socket is None else round_trip_s(self._socket)

    @property
    def is_open(self) -> bool:
        """Whether the next request finds a connection, as far as is known without trying."""
        return self._socket is not None

    def close(self) -> None:
        """Let go of the connection; the next request opens another."""
        if self._socket is not None:
            self._wire_bytes += wire_bytes(self._socket) + CLOSE_PACKETS * PACKET_BYTES_V6
            self._socket.close()
        self._socket = None
        self._unread = b""

    def _cut(self) -> None:
        """Let go of the connection and of what the kernel still holds of a request that nobody waits for.

        It would leave once the line takes it again, and nobody would know what that costs.
        """
        if self._socket is not None:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.close()

    def _host(self) -> str:
        default = 80 if self.context is None else 443
        return str(self.to).removesuffix(f":{default}")

    # Beginning.

    def _was_dropped(self) -> bool:
        """Whether an idle connection has anything to read: its end, since nobody asked for more."""
        assert self._socket is not None
        look = select.poll()
        look.register(self._socket, select.POLLIN)
        return bool(self._unread or look.poll(0))

    def _connect(self, until: Deadline) -> None:
        party = self.proxy or self.to
        self._wire_bytes += ATTEMPT_BYTES
        self._socket = _open(party, until, self.device, self.options)
        self._is_kernels, self._wait_s = False, 0.0
        self.connected(self._socket)
        if self.context is None:
            if self.is_tunnelled and self.proxy is not None:
                self._until, self._is_first = until, False
                self._ask_proxy(self.proxy)
            self._is_kernels = _wait_in_kernel(self._socket, self.timeout_s)
            self._wait_s = self.timeout_s
            return
        try:
            self._until, self._is_first = until, False
            if self.proxy is not None:
                self._ask_proxy(self.proxy)
            # Wrapping moves the descriptor to another object: the one that was shown is empty from here on, and has
            # nothing to say of what a handshake costs that fails.
            self._socket = secured = self.context.wrap_socket(
                self._socket, server_hostname=self.to.host, do_handshake_on_connect=False
            )
            self.connected(secured)
            self._set_wait(until.left_s())
            secured.do_handshake()
        except TimeoutError as error:
            raise ConnectTimeoutError("no TLS handshake in time", party=self.to.host) from error
        except (OSError, ValueError) as error:  # OpenSSL's errors are OSErrors
            raise HandshakeError(reason(error), party=self.to.host) from error

    def _ask_proxy(self, proxy: Address) -> None:
        self._send(f"CONNECT {self.to} HTTP/1.1\r\nHost: {self.to}\r\n\r\n".encode("latin-1"))
        try:
            status, _, _ = self._read_head()
        except StalledError as error:
            raise ConnectTimeoutError("the proxy does not answer in time", party=proxy.host) from error
        except BrokenError as error:
            raise ConnectError(str(error), party=proxy.host) from error
        if not 200 <= status < 300:
            raise ProxyRefusedError(status, party=proxy.host)
        if self._unread:
            raise ConnectError("the proxy says more than was asked", party=proxy.host)

    # Waiting.

    def _set_wait(self, seconds: float) -> None:
        """Have the socket wait so long for bytes to come or go."""
        assert self._socket is not None
        seconds = max(seconds, WAIT_S_MIN)
        if seconds != self._wait_s:
            if self._is_kernels:
                _wait_in_kernel(self._socket, seconds)
            else:
                self._socket.settimeout(seconds)
            self._wait_s = seconds

    def _narrow(self) -> None:
        """Wait no longer than what is being done may still take."""
        left_s = self._until.left_s()
        if not left_s:
            raise OverdueError("not over in time")
        self._set_wait(min(left_s, self.timeout_s))

    def _stalled(self, what: str) -> StalledError:
        return OverdueError("not over in time") if self._until.is_over else StalledError(what)

    # Sending.

    def _send(self, data: bytes) -> bool:
        """Send; return False where the other side takes no more, which may be because it has answered already."""
        assert self._socket is not None
        if self._until is not NEVER:
            self._narrow()
        try:
            self._socket.sendall(data)
        except (TimeoutError, BlockingIOError) as error:
            raise self._stalled("the line takes nothing") from error
        except (BrokenPipeError, ConnectionResetError):
            return False
        except (OSError, ValueError) as error:  # a ValueError is ssl's word for a socket that was shut under it
            raise BrokenError(reason(error)) from error
        self.bytes_sent += len(data)
        return True

    # Receiving: what HTTP/1.1 and proxies say in lines.

    def _read_head(self) -> tuple[int, str, dict[str, str]]:
        for _ in range(INTERIM_MAX):
            line = self._read_line()
            version, _, rest = line.partition(" ")
            code = rest[:3]
            if version not in {"HTTP/1.1", "HTTP/1.0"} or not (code.isascii() and code.isdigit() and len(code) == 3):
                raise BrokenError(f"the answer is not HTTP but {line[:SHOWN_MAX]!r}")
            headers = self._read_headers()
            if not 100 <= int(code) < 200:
                return int(code), version, headers
        raise BrokenError("only interim answers")

    def _read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(HEADERS_MAX):
            line = self._read_line()
            if not line:
                return headers
            name, colon, value = line.partition(":")
            if colon:
                headers.setdefault(name.strip().lower(), value.strip())
        raise BrokenError("the answer has too many headers")

    def _read_line(self) -> str:
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) > LINE_BYTES_MAX:
                raise BrokenError("the answer has no end of line")
            if not self._fill():
                raise BrokenError("closed without an answer" if not self._unread else "the answer broke off")
        if end > LINE_BYTES_MAX:
            raise BrokenError("the answer has no end of line")
        line, self._unread = self._unread[:end], self._unread[end + 1 :]
        return line.rstrip(b"\r").decode("latin-1")

    def _fill(self) -> bool:
        """Read what there is; False at the end.

        Whatever the far side says is paid for here: who goes on for ever with what is no answer is not heard to the
        end, however fast that comes.
        """
        assert self._socket is not None
        # The first wait of an answer is as long as the socket has it already, and mostly the only one.
        if self._is_first and self._until.left_s() >= self._wait_s - WAIT_S_MIN:
            self._is_first = False
        else:
            self._narrow()
        try:
            data = self._socket.recv(READ_BYTES)
        except (TimeoutError, BlockingIOError) as error:
            raise self._stalled("no answer") from error
        except (OSError, ValueError) as error:
            raise BrokenError(reason(error)) from error
        self._unread += data
        self._left_bytes -= len(data)
        self.heard()
        if self._left_bytes < 0:
            raise BrokenError("the answer does not end")
        return bool(data)


def reason(error: BaseException) -> str:
    """Return an error of the system in its own few words.

    >>> reason(ConnectionRefusedError(111, "Connection refused"))
    'Connection refused'
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def _wait_in_kernel(connection: socket.socket, timeout_s: float) -> bool:
    """Let the kernel bound the waits, where it can: Python's own way is to ask it first each time whether it must wait.

    Under a flood each call into the kernel is one more turn of the interpreter to wait for. A wait that is over ends in
    BlockingIOError, like any call that must not block and would. Return whether it can.
    """
    whole_s = int(timeout_s)
    wait = struct.pack("ll", whole_s, int((timeout_s - whole_s) * 1_000_000))
    try:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, wait)
    except OSError:
        # Another idea of what a time looks like, on some systems of 32 bits.
        connection.settimeout(timeout_s)
        return False
    connection.setblocking(True)
    return True


def _open(party: Address, until: Deadline, device: str, options: Iterable[tuple[int, int, int]]) -> socket.socket:
    """Connect to the first of the party's addresses that answers, by `device` if one is given; raise ConnectError.

    One that does not answer leaves those behind it their part of the time. Options are set first: how much the other
    side may send unasked is said with the first packet.
    """
    # Bytes, where they will do, keep Python from loading its tables for international names.
    host: str | bytes = party.host.encode() if party.host.isascii() else party.host
    try:
        found = socket.getaddrinfo(host, party.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnknownNameError(reason(error), party=party.host) from error
    failure: ConnectError = ConnectError("its name has no address", party=party.host)
    for index, (family, kind, number, _, where) in enumerate(found):
        one = socket.socket(family, kind, number)
        wait_s = max(until.share(len(found) - index).left_s(), WAIT_S_MIN)
        try:
            one.settimeout(wait_s)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in options:
                one.setsockopt(*option)
            if device:
                from gateway.net.devices import bind_to  # noqa: PLC0415  only for who names links

                bind_to(one, device)
            one.connect(where)
        except TimeoutError as error:
            one.close()
            failure = ConnectTimeoutError(f"no connection within {span(float(f'{wait_s:.2g}'))}", party=str(party))
            failure.__cause__ = error
        except OSError as error:
            one.close()
            failure = ConnectError(reason(error), party=str(party))
            failure.__cause__ = error
        else:
            return one
    raise failure
