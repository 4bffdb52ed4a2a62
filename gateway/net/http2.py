"""HTTP/2 as an uplink speaks it: one request at a time over one kept connection. Must not know gRPC or OTLP, or retry.

Over a `Line`, so that what a budget has to know is known: which bytes have left, what they cost, and whether an answer
that does not come is one to a request that was seen. RFC 9113, as far as one stream after the other needs it; header
compression is hpack's. Whatever comes is bounded: frames, headers, the answer, and the time for each.

    call → what came meanwhile → HEADERS, DATA … (as the windows allow) → frames until the stream is over → Response

A request that the far side says it has not looked at (GOAWAY with an earlier stream, REFUSED_STREAM) is an
`UnprocessedError`: whoever sends it again doubles nothing.
"""

from __future__ import annotations

import select
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

import hpack

from gateway.net.deadline import Deadline
from gateway.net.line import BESIDE_BYTES_MAX, NEVER, BrokenError, ConnectError, HttpError, Line, StalledError
from gateway.net.quiet import keep_headers_out_of_logs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

keep_headers_out_of_logs()

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ALPN: Final = "h2"
# Types and flags of frames (RFC 9113, 6).
DATA, HEADERS, _PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20
HEAD_BYTES: Final = 9
# Ours, for what we read: the least that the protocol has.
FRAME_BYTES_MAX: Final = 16_384
WINDOW_BYTES: Final = 65_535
WINDOW_MAX: Final = 2**31 - 1
STREAM_MAX: Final = 2**31 - 1
HEADER_BYTES_MAX: Final = 32 * 1024
# Of a longer answer the beginning is kept, and so much is read past to hear how it ends.
READ_PAST_BYTES_MAX: Final = 1 << 20
# How long the rest of a frame is waited for that came without being asked for.
LOOK_S: Final = 0.005
# What a server may say between two requests before that is no conversation any more.
FRAMES_BETWEEN_MAX: Final = 1000
# And between two pieces of a request before the next one goes.
FRAMES_BY_THE_WAY_MAX: Final = 64
# What a server may say beside its answer (PING, SETTINGS, windows, what is for nobody), and one more for so many bytes
# of a request: each may have us answer it, or send a piece of its own.
FRAMES_BESIDE_MAX: Final = 1000
BYTES_PER_FRAME_BESIDE: Final = 256
# And what a request's windows may take of what is heard: two frames for each five hundred bytes.
HEARD_SHARE: Final = 16
SAID_BYTES_MAX: Final = 80
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_SETTING: Final = struct.Struct(">HI")
_NUMBER: Final = struct.Struct(">I")
ERRORS: Final = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
REFUSED_STREAM: Final = 7
CANCEL: Final = 8


class NotHttp2Error(ConnectError):
    """Whoever answers at that port speaks something else."""


class UnprocessedError(HttpError):
    """The far side says that it has not looked at the request."""


class StreamResetError(BrokenError):
    """The far side has ended the request alone, and not the connection."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: headers and trailers by name (the first of a name counts), and the body, whole or `is_cut`.

    Where an answer is headers alone they are its trailers, too.
    """

    status: int
    headers: dict[str, str]
    trailers: dict[str, str]
    body: bytes = b""
    is_cut: bool = False


@dataclass(slots=True)
class _Exchange:
    """One request and what has come of its answer."""

    stream: int
    window: int
    bytes_max: int
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] | None = None
    body: bytearray = field(default_factory=bytearray)
    read_bytes: int = 0
    is_over: bool = False
    reset: int | None = None
    beside: int = FRAMES_BESIDE_MAX  # frames that may still come beside the answer


@dataclass(slots=True, kw_only=True)
class Http2Connection(Line):
    """A line to a server of HTTP/2; what is not TLS begins with it at once, as gRPC does."""

    is_tunnelled: ClassVar[bool] = True

    _encoder: hpack.Encoder = field(default_factory=hpack.Encoder, init=False)
    _decoder: hpack.Decoder = field(default_factory=hpack.Decoder, init=False)
    _next_stream: int = field(default=1, init=False)
    _window: int = field(default=WINDOW_BYTES, init=False)  # of the connection
    _stream_window: int = field(default=WINDOW_BYTES, init=False)  # of a new stream
    _frame_max: int = field(default=FRAME_BYTES_MAX, init=False)
    _taken_bytes: int = field(default=0, init=False)  # that the far side does not know to be read yet
    _out: bytearray = field(default_factory=bytearray, init=False)  # leaves with what is sent next
    _has_heard: bool = field(default=False, init=False)
    _ends_with: int | None = field(default=None, init=False)  # the last stream that is answered
    _why: str = field(default="", init=False)

    def call(
        self,
        path: str,
        *,
        headers: Sequence[tuple[str, str]],
        size_bytes: int,
        pieces: Iterable[bytes],
        answer_bytes_max: int,
        until: Deadline = NEVER,
    ) -> Response:
        """Send one request and return its answer; raise HttpError, and OSError only where `pieces` raises it.

        All of it is over `until` then, however much moves. An answer may come before all of the request has gone; what
        is left of it does not go then.
        """
        assert size_bytes > 0, "a body ends its stream"
        if self._socket is not None:
            self._hear_what_came()
        # Who is asked for a way is heard within the same.
        self._left_bytes = answer_bytes_max + READ_PAST_BYTES_MAX + BESIDE_BYTES_MAX + size_bytes // HEARD_SHARE
        try:
            if self._socket is None:
                self._connect(until.within(self.connect_timeout_s or self.timeout_s))
                self._greet()
            self._set_wait(self.timeout_s)
            self._until = until
            exchange = _Exchange(self._next_stream, self._stream_window, answer_bytes_max)
            exchange.beside += size_bytes // BYTES_PER_FRAME_BESIDE
            self._next_stream += 2
            self._put_headers(exchange.stream, path, headers)
            is_sent = self._send_body(exchange, pieces, size_bytes, until)
            self._until, self._is_first = until.within(self.timeout_s), True
            while not exchange.is_over:
                self._read_frame(exchange, is_sent=is_sent)
        except BaseException:
            self._cut()
            raise
        return self._end(exchange)

    def _end(self, exchange: _Exchange) -> Response:
        stream, is_last = exchange.stream, self._next_stream > STREAM_MAX
        if is_last or self._ends_with is not None:
            self.close()
        if exchange.reset == REFUSED_STREAM or (self._ends_with is not None and stream > self._ends_with):
            raise UnprocessedError(self._why or "the server has not looked at the request")
        if exchange.reset is not None:
            raise StreamResetError(f"the server ended it ({error_name(exchange.reset)})")
        is_cut = len(exchange.body) < exchange.read_bytes
        trailers = exchange.headers if exchange.trailers is None else exchange.trailers
        return Response(exchange.status, exchange.headers, trailers, bytes(exchange.body), is_cut)

    # Beginning, and in between.

    def _greet(self) -> None:
        """Begin a conversation; what is said for it leaves with the first request."""
        assert self._socket is not None
        chosen = getattr(self._socket, "selected_alpn_protocol", None)
        if chosen is not None and chosen() != ALPN:
            raise NotHttp2Error("it does not speak HTTP/2 at this port", party=self.to.host)
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder(max_header_list_size=HEADER_BYTES_MAX)
        self._next_stream, self._window, self._stream_window = 1, WINDOW_BYTES, WINDOW_BYTES
        self._frame_max, self._taken_bytes = FRAME_BYTES_MAX, 0
        self._has_heard, self._ends_with, self._why = False, None, ""
        self._out = bytearray(PREFACE + frame(SETTINGS, 0, 0, _SETTING.pack(_ENABLE_PUSH, 0)))

    def _hear_what_came(self) -> None:
        """Read what came since the last answer; let go of a connection that has ended meanwhile, or is ending."""
        self._left_bytes = BESIDE_BYTES_MAX
        try:
            for _ in range(FRAMES_BETWEEN_MAX):
                if self._ends_with is not None:
                    break
                if not self._has_something():
                    return
                self._until, self._is_first = Deadline.after(LOOK_S), False
                try:
                    self._read_frame(None)
                except StalledError:
                    # The beginning of a frame, or of a record of TLS: the rest is read with the next answer.
                    return
        except HttpError:
            pass
        self.close()

    def _has_something(self) -> bool:
        assert self._socket is not None
        pending, unread = getattr(self._socket, "pending", None), self._unread
        # A part of a frame is nothing yet: nobody waits for the rest of it who has something to send.
        is_frame = len(unread) >= HEAD_BYTES and len(unread) >= HEAD_BYTES + int.from_bytes(unread[:3], "big")
        if is_frame or (pending is not None and pending()):
            return True
        look = select.poll()
        look.register(self._socket, select.POLLIN)
        return bool(look.poll(0))

    # Sending.

    def _put_headers(self, stream: int, path: str, headers: Sequence[tuple[str, str]]) -> None:
        scheme = "http" if self.context is None else "https"
        whole = [(":method", "POST"), (":scheme", scheme), (":path", path), (":authority", self._host()), *headers]
        block = self._encoder.encode([(name.encode("latin-1"), value.encode("latin-1")) for name, value in whole])
        kind = HEADERS
        for at in range(0, len(block), self._frame_max):
            part = block[at : at + self._frame_max]
            flags = END_HEADERS if at + len(part) == len(block) else 0
            self._out += frame(kind, flags, stream, part)
            kind = CONTINUATION

    def _send_body(self, exchange: _Exchange, pieces: Iterable[bytes], size_bytes: int, until: Deadline) -> bool:
        """Send the body as the windows allow; return whether all of it went."""
        left = size_bytes
        for piece in pieces:
            view = memoryview(piece)
            while view:
                room = min(self._window, exchange.window)
                if room <= 0:
                    if not (self._flush() and self._wait_for_window(exchange, until)):
                        return self._stop_sending(exchange)
                    continue
                some = view[: min(room, len(view))]
                view, left = view[len(some) :], left - len(some)
                self._put_data(exchange, some, is_last=not left)
            if not self._flush():
                return False
            # Once all of it has left nothing may go wrong before whoever gave it knows that.
            for _ in range(FRAMES_BY_THE_WAY_MAX):
                if not left or exchange.is_over or not self._has_something():
                    break
                self._read_frame(exchange)
            if exchange.is_over and left:
                return self._stop_sending(exchange)
        assert not left, "pieces are as long as was said"
        return True

    def _put_data(self, exchange: _Exchange, data: memoryview, *, is_last: bool) -> None:
        exchange.window -= len(data)
        self._window -= len(data)
        for at in range(0, len(data), self._frame_max):
            part = data[at : at + self._frame_max]
            is_end = is_last and at + len(part) == len(data)
            self._out += head(len(part), DATA, END_STREAM if is_end else 0, exchange.stream)
            self._out += part

    def _flush(self) -> bool:
        data, self._out = bytes(self._out), bytearray()
        return not data or self._send(data)

    def _wait_for_window(self, exchange: _Exchange, until: Deadline) -> bool:
        """Read until there is room for more; return False where the answer comes first."""
        self._until, self._is_first = until.within(self.timeout_s), True
        while min(self._window, exchange.window) <= 0 and not exchange.is_over:
            self._read_frame(exchange)
        self._until = until
        return not exchange.is_over

    def _stop_sending(self, exchange: _Exchange) -> bool:
        if exchange.is_over and exchange.reset is None:
            self._out += frame(RST_STREAM, 0, exchange.stream, _NUMBER.pack(CANCEL))
            self._flush()
        return False

    # Receiving.

    def _read_frame(self, exchange: _Exchange | None, *, is_sent: bool = True) -> None:
        """Read one frame and act on it; raise HttpError."""
        kind, flags, stream, payload = self._next_frame(is_sent=is_sent)
        if not self._has_heard and kind != SETTINGS:
            raise BrokenError("the server does not begin as HTTP/2 does")
        self._has_heard = True
        ours = exchange if exchange is not None and stream == exchange.stream else None
        if exchange is not None and (ours is None or kind not in {DATA, HEADERS}):
            exchange.beside -= 1
            if exchange.beside < 0:
                raise BrokenError("the server says all but an answer")
        if kind == DATA:
            self._take_data(ours, unpadded(payload, flags), len(payload), is_end=bool(flags & END_STREAM))
        elif kind == HEADERS:
            self._take_headers(ours, flags, stream, payload)
        elif kind == SETTINGS:
            self._take_settings(exchange, flags, payload)
        elif kind == WINDOW_UPDATE:
            self._take_window(ours, stream, payload)
        elif kind == RST_STREAM and ours is not None:
            ours.reset, ours.is_over = _number(payload), True
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, payload[:8].ljust(8, b"\0"))
        elif kind == GOAWAY:
            self._take_goaway(exchange, payload)
        elif kind in {PUSH_PROMISE, CONTINUATION}:
            raise BrokenError("the server sends what nobody asked for")
        # Between two requests it leaves with the next one, which is about to be sent.
        if self._out and exchange is not None and (exchange.is_over or kind in {PING, SETTINGS}):
            self._flush()

    def _next_frame(self, *, is_sent: bool = True) -> tuple[int, int, int, bytes]:
        self._need(HEAD_BYTES, is_sent=is_sent)
        start = self._unread[:HEAD_BYTES]
        if not self._has_heard and start[0]:
            # The first frame is a small one: what is none begins as HTTP/1.1 does, as TLS, or with a page.
            what = {b"HTTP/": "it answers with HTTP/1.1", b"\x15\x03": "it speaks TLS at this port"}
            why = next((why for sign, why in what.items() if start.startswith(sign)), "it answers with something else")
            raise NotHttp2Error(why, party=self.to.host)
        size, kind, flags = int.from_bytes(start[:3], "big"), start[3], start[4]
        if size > FRAME_BYTES_MAX:
            raise BrokenError("the server sends a frame that is too large")
        self._need(HEAD_BYTES + size, is_sent=is_sent)
        payload = self._unread[HEAD_BYTES : HEAD_BYTES + size]
        self._unread = self._unread[HEAD_BYTES + size :]
        return kind, flags, _number(start[5:]) & STREAM_MAX, payload

    def _need(self, size: int, *, is_sent: bool) -> None:
        while len(self._unread) < size:
            if not self._fill():
                if not is_sent:
                    raise BrokenError("the other side takes no more and says nothing")
                raise BrokenError("closed without an answer" if not self._unread else "the answer broke off")

    def _take_data(self, ours: _Exchange | None, data: bytes, size_bytes: int, *, is_end: bool) -> None:
        self._taken_bytes += size_bytes
        more = b""
        if self._taken_bytes >= WINDOW_BYTES // 2:
            more = frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._taken_bytes))
            if ours is not None and not is_end:
                more += frame(WINDOW_UPDATE, 0, ours.stream, _NUMBER.pack(self._taken_bytes))
            self._taken_bytes = 0
        self._out += more
        if ours is None:
            return
        ours.read_bytes += len(data)
        if ours.read_bytes > ours.bytes_max + READ_PAST_BYTES_MAX:
            raise BrokenError("the answer does not end")
        ours.body += data[: max(0, ours.bytes_max - len(ours.body))]
        ours.is_over = is_end
        if more:
            self._flush()

    def _take_headers(self, ours: _Exchange | None, flags: int, stream: int, payload: bytes) -> None:
        is_end = bool(flags & END_STREAM)
        block = unpadded(payload, flags)
        if flags & PRIORITIZED:
            block = block[5:]
        while not flags & END_HEADERS:
            kind, flags, number, more = self._next_frame()
            block += more
            if kind != CONTINUATION or number != stream or len(block) > HEADER_BYTES_MAX:
                raise BrokenError("the server's headers do not end")
        try:
            # What stands in the table is for later answers as well, whoever this one is for.
            found = self._decoder.decode(block, raw=True)
        except hpack.HPACKError as error:
            raise BrokenError("the server's headers are broken") from error
        if ours is None:
            return
        fields: dict[str, str] = {}
        for name, value in found:
            fields.setdefault(_text(name), _text(value))
        status = fields.pop(":status", "")
        if ours.status:
            ours.trailers = fields
        elif not (status.isascii() and status.isdigit() and len(status) == 3):
            raise BrokenError("the answer has no status")
        elif int(status) >= 200:
            ours.status, ours.headers = int(status), fields
        ours.is_over = is_end

    def _take_settings(self, exchange: _Exchange | None, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        for name, value in _SETTING.iter_unpack(payload[: len(payload) // _SETTING.size * _SETTING.size]):
            if name == _HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, 4096)
            elif name == _INITIAL_WINDOW_SIZE:
                if value > WINDOW_MAX:
                    raise BrokenError("the server's window is too large")
                if exchange is not None:
                    exchange.window += value - self._stream_window
                self._stream_window = value
            elif name == _MAX_FRAME_SIZE:
                # Larger ones are allowed and gain nothing; smaller ones than the least are nobody's.
                self._frame_max = min(max(value, FRAME_BYTES_MAX), 4 * FRAME_BYTES_MAX)
        self._out += frame(SETTINGS, ACK, 0, b"")

    def _take_window(self, ours: _Exchange | None, stream: int, payload: bytes) -> None:
        more = _number(payload) & WINDOW_MAX
        if not stream:
            self._window += more
            if self._window > WINDOW_MAX:
                raise BrokenError("the server's window is too large")
        elif ours is not None:
            ours.window += more

    def _take_goaway(self, exchange: _Exchange | None, payload: bytes) -> None:
        self._ends_with = _number(payload) & STREAM_MAX
        code, said = _number(payload[4:]), payload[8:][:SAID_BYTES_MAX].decode("utf-8", "replace")
        why = f"{error_name(code)}: {said}" if said else error_name(code)
        self._why = f"the server ends the connection ({why})"
        if exchange is not None and exchange.stream > self._ends_with:
            exchange.is_over = True


def head(size_bytes: int, kind: int, flags: int, stream: int) -> bytes:
    """Return what stands before a frame's payload."""
    return size_bytes.to_bytes(3, "big") + bytes((kind, flags)) + _NUMBER.pack(stream)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame.

    >>> frame(PING, ACK, 0, b"12345678").hex()
    '0000080601000000003132333435363738'
    """
    return head(len(payload), kind, flags, stream) + payload


def unpadded(payload: bytes, flags: int) -> bytes:
    """Return a payload without its padding; raise BrokenError where that is longer than all of it."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise BrokenError("a frame that is all padding")
    return payload[1 : len(payload) - payload[0]]


def error_name(code: int) -> str:
    """Return what an error code is called (RFC 9113, 7).

    >>> error_name(8), error_name(99)
    ('CANCEL', 'error 99')
    """
    return ERRORS[code] if code < len(ERRORS) else f"error {code}"


def _number(data: bytes) -> int:
    """Return the number in the first four bytes; what is missing of them is 0."""
    return int.from_bytes(data[:4].ljust(4, b"\0"), "big")


def _text(data: bytes | str) -> str:
    return data if isinstance(data, str) else data.decode("latin-1")
