"""HTTP/2 as an uplink speaks it, against servers that are frames written by hand, right and wrong."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from typing import TYPE_CHECKING

import hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset

from gateway.net import http2
from gateway.net.deadline import Deadline
from gateway.net.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Connection,
    NotHttp2Error,
    Response,
    StreamResetError,
    UnprocessedError,
    frame,
)
from gateway.net.line import Address, BrokenError, ConnectError, HttpError, OverdueError, StalledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX = 1000
HELLO = frame(SETTINGS, 0, 0, b"")


def block(*pairs: tuple[str, str], encoder: hpack.Encoder | None = None) -> bytes:
    return (encoder or hpack.Encoder()).encode(pairs)


def headers(*pairs: tuple[str, str], stream: int = 1, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, block(*pairs))


def answer(body: bytes = b"hi", stream: int = 1) -> bytes:
    return (
        headers((":status", "200"), ("a", "1"), stream=stream)
        + frame(DATA, 0, stream, body)
        + headers(("end", "2"), stream=stream, flags=END_HEADERS | END_STREAM)
    )


def goaway(last: int, code: int = 0, said: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + said)


class Peer:
    """One connection of a server: reads frames, says what it is told."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._stream = connection.makefile("rb")
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.began = self._stream.read(len(PREFACE))

    def say(self, *data: bytes) -> None:
        self.connection.sendall(b"".join(data))

    def read(self) -> tuple[int, int, int, bytes]:
        head = self._stream.read(9)
        if len(head) < 9:
            raise EOFError
        size = int.from_bytes(head[:3], "big")
        found = head[3], head[4], int.from_bytes(head[5:], "big"), self._stream.read(size)
        self.frames.append(found)
        return found

    def read_until(self, kind: int, flags: int = 0) -> bytes:
        while True:
            found = self.read()
            if found[0] == kind and found[1] & flags == flags:
                return found[3]

    def read_request(self) -> None:
        self.read_until(DATA, END_STREAM)


class Server:
    """Serves connections one after the other, each by the next of `talks`."""

    def __init__(self, *talks: Callable[[Peer], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []
        self.thread = threading.Thread(target=self._run, args=(talks,), daemon=True)
        self.thread.start()

    def _run(self, talks: tuple[Callable[[Peer], None], ...]) -> None:
        for talk in talks:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    with contextlib.suppress(EOFError, OSError):
                        self.peers.append(Peer(connection))
                        talk(self.peers[-1])
                except AssertionError as error:
                    self.failures.append(error)
                finally:
                    self.peers[-1]._stream.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(20)
        assert not self.failures, self.failures


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Http2Connection, Server]]]:
    """Start a server and make a connection to it."""
    with contextlib.ExitStack() as stack:

        def start(*talks: Callable[[Peer], None], **options: object) -> tuple[Http2Connection, Server]:
            server = Server(*talks)
            connection = Http2Connection(to=Address(*server.address), timeout_s=20.0, **options)
            stack.callback(server.close)
            stack.callback(connection.close)
            return connection, server

        yield start


def call(connection: Http2Connection, body: bytes = b"hello", *, piece: int = 1 << 20, **options: object) -> Response:
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    return connection.call(
        "/s/m", headers=[("x", "y")], size_bytes=len(body), pieces=pieces, answer_bytes_max=MAX, **options
    )


def say(*data: bytes) -> Callable[[Peer], None]:
    """Return a talk that answers one request so, and stays."""

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        peer.say(*data)
        while True:
            peer.read()

    return talk


def test_a_request_and_its_answer(serve) -> None:
    """The preface first and one packet for all of it; trailers apart; and a second one over the same connection."""

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        for stream in (1, 3):
            peer.read_request()
            peer.say(answer(stream=stream))

    connection, server = serve(talk)
    for _ in range(2):
        assert call(connection) == Response(200, {"a": "1"}, {"end": "2"}, b"hi")
    (peer,) = server.peers
    assert peer.began == PREFACE
    kinds = [(kind, stream) for kind, flags, stream, _ in peer.frames if not (kind == SETTINGS and flags & ACK)]
    assert kinds == [(SETTINGS, 0), (HEADERS, 1), (DATA, 1), (HEADERS, 3), (DATA, 3)]
    decoder = hpack.Decoder()
    asked = [dict(decoder.decode(payload)) for kind, _, _, payload in peer.frames if kind == HEADERS]
    port = server.address[1]
    assert (
        asked
        == [{":method": "POST", ":scheme": "http", ":path": "/s/m", ":authority": f"127.0.0.1:{port}", "x": "y"}] * 2
    )
    sizes = [len(payload) for kind, _, _, payload in peer.frames if kind == HEADERS]
    assert sizes[1] < sizes[0] / 4
    assert connection.wire_bytes > connection.bytes_sent > 0


def test_an_answer_comes_in_any_shape(serve) -> None:
    """Padded, with a priority, in continuations, byte by byte, with words that nobody asked for in between."""
    whole = block((":status", "200"), ("a", "1"))
    odd = b"".join(
        (
            frame(PING, 0, 0, b"12345678"),
            frame(PING, ACK, 0, b"12345678"),
            frame(0x63, 0, 0, b"what nobody knows"),
            frame(2, 0, 1, b"\0\0\0\0\x10"),
            frame(RST_STREAM, 0, 77, b"\0\0\0\0"),
            frame(HEADERS, END_HEADERS, 1, block((":status", "103"), ("early", "x"))),
            frame(HEADERS, PADDED | PRIORITIZED, 1, b"\x02" + b"\0\0\0\0\x10" + whole[:3] + b"\0\0"),
            frame(CONTINUATION, 0, 1, whole[3:4]),
            frame(CONTINUATION, END_HEADERS, 1, whole[4:]),
            frame(DATA, PADDED, 1, b"\x03hi\0\0\0"),
            frame(DATA, 0, 99, b"somebody else's"),
            frame(WINDOW_UPDATE, 0, 99, b"\0\0\0\1"),
            headers((":status", "404"), stream=99),
            frame(DATA, END_STREAM, 1, b"!"),
        )
    )

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        for byte in odd:
            peer.say(bytes([byte]))
        assert peer.read_until(PING, ACK) == b"12345678"

    connection, _ = serve(talk)
    assert call(connection) == Response(200, {"a": "1"}, {"a": "1"}, b"hi!")


def test_the_windows_are_kept(serve) -> None:
    """Of the stream and of the connection; smaller ones, and a change of them under way, are too."""
    got: list[int] = []

    def talk(peer: Peer) -> None:
        # A window of 10 bytes for each stream; the connection's is 65,535 all the same.
        peer.say(frame(SETTINGS, 0, 0, struct.pack(">HIHIHI", 4, 10, 1, 0, 5, 20_000)))
        size = 0
        while size < 65_535:
            kind, _, _, payload = peer.read()
            if kind == DATA:
                size += len(payload)
                got.append(len(payload))
                peer.say(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", max(1, size))))
        peer.say(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 50_000)))
        peer.say(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 20)))
        peer.read_request()
        peer.say(answer())
        peer.read_request()
        peer.say(answer(stream=3))

    connection, server = serve(talk)
    body = bytes(range(256)) * 390
    assert call(connection, body, piece=30_000).body == b"hi"
    assert call(connection, b"small").body == b"hi"
    sent = b"".join(payload for kind, _, stream, payload in server.peers[0].frames if kind == DATA and stream == 1)
    assert sent == body
    assert sum(got) <= 65_535
    assert max(len(payload) for kind, _, _, payload in server.peers[0].frames if kind == DATA) <= 20_000


def test_who_opens_no_window_is_not_waited_for(serve) -> None:
    """However much else is said."""
    ended = threading.Event()

    def talk(peer: Peer) -> None:
        peer.say(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        while not ended.wait(0.05):
            peer.say(frame(PING, 0, 0, bytes(8)))

    connection, _ = serve(talk)
    connection.timeout_s, connection.connect_timeout_s = 0.4, 20.0
    with pytest.raises(StalledError):
        call(connection, bytes(200_000))
    ended.set()


def test_an_answer_before_the_whole_request_ends_it(serve) -> None:
    """What is left does not go, and the connection stays."""

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_until(DATA)
        peer.say(headers((":status", "413"), flags=END_HEADERS | END_STREAM))
        assert peer.read_until(RST_STREAM) == struct.pack(">I", http2.CANCEL)
        peer.say(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 100_000)))
        peer.read_request()
        peer.say(answer(stream=3))

    connection, server = serve(talk)
    found = call(connection, bytes(200_000))
    assert (found.status, found.trailers) == (413, {})
    assert call(connection).status == 200
    assert len(server.peers) == 1
    assert sum(len(data) for kind, _, stream, data in server.peers[0].frames if (kind, stream) == (DATA, 1)) < 200_000


@pytest.mark.parametrize(
    "chatter",
    [
        frame(WINDOW_UPDATE, 0, 0, bytes(4)),
        frame(HEADERS, END_HEADERS, 1, block((":status", "100"))),
        frame(SETTINGS, 0, 0, b""),
    ],
    ids=["windows", "100", "settings"],
)
def test_who_talks_without_end_while_a_request_goes_is_left(serve, chatter: bytes) -> None:
    """The pieces go on all the same, and then the time for an answer is over."""

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        while True:
            peer.say(chatter * 1000)

    connection, _ = serve(talk)
    connection.timeout_s, connection.connect_timeout_s = 0.5, 20.0
    with pytest.raises(HttpError):
        call(connection, piece=2)


def test_an_early_answer_is_heard_between_pieces(serve) -> None:
    """Also where the window would take more."""
    said = threading.Event()

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_until(DATA)
        peer.say(headers((":status", "401"), flags=END_HEADERS | END_STREAM))
        said.set()
        peer.read_until(RST_STREAM)

    connection, _ = serve(talk)

    def pieces() -> Iterator[bytes]:
        yield b"a"
        said.wait(20)
        yield b"b"
        pytest.fail("nobody wants the rest")

    found = connection.call("/", headers=[], size_bytes=3, pieces=pieces(), answer_bytes_max=MAX)
    assert found.status == 401


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (frame(RST_STREAM, 0, 1, struct.pack(">I", 2)), StreamResetError, "INTERNAL_ERROR"),
        (frame(RST_STREAM, 0, 1, struct.pack(">I", 7)), UnprocessedError, "has not looked at the request"),
        (goaway(0, 11, b"too_many_pings"), UnprocessedError, "ENHANCE_YOUR_CALM: too_many_pings"),
        (goaway(0), UnprocessedError, "NO_ERROR"),
        (frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2"), BrokenError, "nobody asked for"),
        (frame(CONTINUATION, END_HEADERS, 1, b""), BrokenError, "nobody asked for"),
        (headers((":status", "abc")), BrokenError, "has no status"),
        (headers(("a", "b")), BrokenError, "has no status"),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), BrokenError, "headers are broken"),
        (frame(HEADERS, 0, 1, b"\x88") + frame(DATA, 0, 1, b""), BrokenError, "headers do not end"),
        (frame(HEADERS, 0, 1, b"\x88") + frame(CONTINUATION, 0, 1, bytes(16_000)) * 3, BrokenError, "headers do not end"),
        (frame(HEADERS, END_HEADERS, 1, b"\x88" + block(("x", "y" * 15_000)) * 3), BrokenError, "too large"),
        (b"\x00\x40\x01" + bytes(6), BrokenError, "too large"),
        (frame(DATA, PADDED, 1, b"\x05ab"), BrokenError, "all padding"),
        (frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)), BrokenError, "window is too large"),
        (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1)), BrokenError, "window is too large"),
        (headers((":status", "200"))[:7], BrokenError, "broke off|reset"),
    ],
)  # fmt: skip
def test_what_goes_wrong_has_a_name(serve, data: bytes, error: type[Exception], words: str) -> None:
    """Each is what to do next, and the next call finds a connection that works."""

    def first(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        peer.say(data)
        if words.startswith("broke off"):
            return
        while True:
            peer.read()

    connection, _ = serve(first, say(answer()))
    with pytest.raises(error, match=words):
        call(connection)
    if error is StreamResetError or "looked" in words:
        assert connection.is_open
        connection.close()
    assert not connection.is_open
    assert call(connection).body == b"hi"


def test_a_stream_that_is_refused_leaves_the_others(serve) -> None:
    """The connection is as good as before."""

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        peer.say(frame(RST_STREAM, 0, 1, struct.pack(">I", 7)))
        peer.read_request()
        peer.say(answer(stream=3))

    connection, server = serve(talk)
    with pytest.raises(UnprocessedError):
        call(connection)
    assert call(connection).body == b"hi"
    assert len(server.peers) == 1


def test_a_server_that_ends_gracefully_finishes_what_it_has_begun(serve) -> None:
    """GOAWAY with all streams first, then with the last one, then the answer; the next call goes elsewhere."""
    connection, server = serve(say(goaway(2**31 - 1), goaway(1), answer()), say(answer()))
    assert call(connection).body == b"hi"
    assert not connection.is_open
    assert call(connection).body == b"hi"
    assert len(server.peers) == 2


@pytest.mark.parametrize("end", ["goaway", "eof", "garbage", "reset"])
def test_a_connection_that_ended_meanwhile_is_replaced(serve, end: str) -> None:
    """Nothing of the next call goes over it."""
    ended = threading.Event()

    def first(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        peer.say(answer())
        asked.wait(20)
        if end == "goaway":
            peer.say(goaway(1))
        elif end == "garbage":
            peer.say(b"x" * 100)
        elif end == "reset":
            peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end not in {"goaway", "garbage"}:
            peer._stream.close()
            peer.connection.close()
        ended.set()
        if end in {"goaway", "garbage"}:
            while True:
                peer.read()

    asked = threading.Event()
    connection, server = serve(first, say(answer()))
    assert call(connection).body == b"hi"
    asked.set()
    assert ended.wait(20)
    assert call(connection).body == b"hi"
    assert len(server.peers) == 2
    assert [kind for kind, *_ in server.peers[0].frames].count(DATA) == 1


def test_what_is_said_in_between_is_answered(serve) -> None:
    """A ping and new settings; half a frame waits for its other half."""
    said, rest = threading.Event(), frame(PING, 0, 0, b"abcdefgh")

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        peer.say(answer(), frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0, b""), rest[:12])
        said.set()
        assert peer.read_until(PING, ACK) == b"12345678"
        peer.read_until(SETTINGS, ACK)
        peer.read_request()
        peer.say(rest[12:], answer(stream=3))
        assert peer.read_until(PING, ACK) == b"abcdefgh"

    connection, server = serve(talk)
    call(connection)
    assert said.wait(20)
    assert call(connection).body == b"hi"
    assert len(server.peers) == 1


def test_who_talks_without_end_in_between_is_left(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a request to be sent."""
    monkeypatch.setattr(http2, "FRAMES_BETWEEN_MAX", 5)
    said = threading.Event()

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        peer.say(answer(), frame(PING, 0, 0, bytes(8)) * 10)
        said.set()
        while True:
            peer.read()

    connection, server = serve(talk, say(answer()))
    call(connection)
    assert said.wait(20)
    call(connection)
    assert len(server.peers) == 2


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it answers with HTTP/1.1"),
        (b"\x15\x03\x01\x00\x02\x02\x46" + bytes(9), "it speaks TLS"),
        (b"<!DOCTYPE html><html>what?</html>", "it answers with something else"),
    ],
)
def test_who_speaks_something_else_is_named(serve, greeting: bytes, words: str) -> None:
    """So that a person can mend the address."""

    def talk(peer: Peer) -> None:
        peer.say(greeting)
        while True:
            peer.read()

    connection, _ = serve(talk)
    with pytest.raises(NotHttp2Error, match=words):
        call(connection)


def test_who_does_not_begin_as_http2_does_is_left(serve) -> None:
    """With settings."""
    connection, _ = serve(lambda peer: (peer.say(frame(PING, 0, 0, bytes(8))), peer.read_request()))
    with pytest.raises(BrokenError, match="does not begin"):
        call(connection)


def test_silence_is_an_error_after_a_while(serve) -> None:
    """And an answer that drips is one by the time that is given."""
    ended = threading.Event()

    def drip(peer: Peer) -> None:
        peer.say(HELLO)
        while not ended.wait(0.05):
            peer.say(frame(PING, 0, 0, bytes(8)))

    connection, _ = serve(say(b""), drip)
    connection.timeout_s, connection.connect_timeout_s = 0.2, 20.0
    with pytest.raises(StalledError):
        call(connection)
    connection.timeout_s = 20.0
    with pytest.raises(OverdueError):
        call(connection, until=Deadline.after(0.3))
    ended.set()


def test_who_takes_no_more_and_says_nothing(serve) -> None:
    """A reset under a request that is still being sent."""

    def talk(peer: Peer) -> None:
        peer.say(HELLO, frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)))
        peer.say(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 24)))
        peer.read()
        peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer._stream.close()

    connection, _ = serve(talk)
    with pytest.raises(BrokenError):
        call(connection, bytes(8 << 20), piece=1 << 16)
    assert not connection.is_open


def test_a_long_answer_is_read_to_its_end_and_not_kept(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its status is known; the windows open again for it, and one without end is an error."""
    monkeypatch.setattr(http2, "READ_PAST_BYTES_MAX", 150_000)

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        for stream in (1, 3):
            peer.read_request()
            peer.say(headers((":status", "200"), stream=stream))
            window = 65_535
            for _ in range(10 if stream == 1 else 20):
                while window < 10_000:
                    kind, _, number, payload = peer.read()
                    window += int.from_bytes(payload, "big") if (kind, number) == (WINDOW_UPDATE, stream) else 0
                peer.say(frame(DATA, 0, stream, bytes(10_000)))
                window -= 10_000
            peer.say(headers(("end", "2"), stream=stream, flags=END_HEADERS | END_STREAM))

    connection, _ = serve(talk)
    found = call(connection)
    assert (len(found.body), found.is_cut, found.trailers) == (MAX, True, {"end": "2"})
    with pytest.raises(BrokenError, match="does not end"):
        call(connection)


def test_an_error_of_the_pieces_is_the_callers(serve) -> None:
    """It ends the request, and the connection with it."""
    connection, _ = serve(say(answer()))

    def pieces() -> Iterator[bytes]:
        yield b"a"
        raise OSError("no budget")

    with pytest.raises(OSError, match="no budget"):
        connection.call("/", headers=[], size_bytes=2, pieces=pieces(), answer_bytes_max=MAX)
    assert not connection.is_open


def test_the_last_stream_of_a_connection_is_the_last(serve) -> None:
    """There are two thousand million of them."""
    connection, server = serve(say(answer(stream=2**31 - 1)), say(answer()))
    begin = Http2Connection._greet

    def late(self: Http2Connection) -> None:
        begin(self)
        self._next_stream = 2**31 - 1 if not server.peers else 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Http2Connection, "_greet", late)
        connection.connected = lambda _: None
        assert call(connection).body == b"hi"
    assert not connection.is_open
    assert call(connection).body == b"hi"


def test_many_headers_go_in_continuations(serve) -> None:
    """A frame has its size, however much a token takes."""

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        peer.say(answer())

    connection, server = serve(talk)
    token = "".join(f"{k:x}~" for k in range(9000))
    connection.call("/", headers=[("t", token)], size_bytes=1, pieces=[b"x"], answer_bytes_max=MAX)
    parts = [(kind, payload) for kind, _, _, payload in server.peers[0].frames if kind in {HEADERS, CONTINUATION}]
    assert [kind for kind, _ in parts][:2] == [HEADERS, CONTINUATION]
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    assert dict(decoder.decode(b"".join(payload for _, payload in parts)))["t"] == token


def test_a_plain_connection_goes_through_a_proxy_by_a_tunnel(serve) -> None:
    """A proxy of HTTP/1.1 could not pass on what is none."""
    far = Server(say(answer()))
    asked: list[bytes] = []

    def proxy(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, socket.create_connection(far.address) as other:
            asked.append(connection.recv(1000))
            connection.sendall(b"HTTP/1.1 200 fine\r\n\r\n")
            back = threading.Thread(target=copy, args=(other, connection), daemon=True)
            back.start()
            copy(connection, other)
            other.shutdown(socket.SHUT_WR)
            back.join(5)

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1000):
                sink.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=proxy, args=(listener,), daemon=True).start()
        connection = Http2Connection(to=Address(*far.address), timeout_s=20.0, proxy=Address(*listener.getsockname()))
        assert call(connection).body == b"hi"
        connection.close()
    host = f"127.0.0.1:{far.address[1]}"
    assert asked == [f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()]
    far.close()


def test_nobody_there(serve) -> None:
    """Nothing was sent, and whoever asks knows."""
    connection, server = serve()
    server.close()
    with pytest.raises(ConnectError):
        call(connection)


def test_another_implementation_understands_all_of_it(serve) -> None:
    """h2's, which is strict."""
    seen: list[object] = []

    def talk(peer: Peer) -> None:
        h2 = H2Connection(H2Configuration(client_side=False))
        h2.initiate_connection()
        peer.say(h2.data_to_send())
        data = peer.began
        size = 0
        while data:
            for event in h2.receive_data(data):
                seen.append(event)
                if isinstance(event, DataReceived):
                    size += len(event.data)
                    h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded):
                    h2.send_headers(event.stream_id, [(":status", "200")])
                    h2.send_data(event.stream_id, str(size).encode())
                    h2.send_headers(event.stream_id, [("end", "1")], end_stream=True)
                    size = 0
            peer.say(h2.data_to_send())
            data = peer.connection.recv(65_536) if not peer._stream.peek(0) else peer._stream.read1(65_536)

    connection, _ = serve(talk)
    for size in (1, 100_000, 5):
        found = call(connection, bytes(size), piece=8000)
        assert (found.body, found.trailers) == (str(size).encode(), {"end": "1"})
    assert sum(isinstance(event, RequestReceived) for event in seen) == 3
    assert not any(isinstance(event, StreamReset) for event in seen)


def some_frames(dice: random.Random) -> bytes:
    """Frames as nobody should send them, most of them whole."""
    encoder, data = hpack.Encoder(), b""
    for _ in range(dice.choice([1, 1, 2, 6])):
        payload = dice.choice(
            [
                dice.randbytes(dice.randrange(40)),
                encoder.encode([(":status", "200"), ("a", "1")]),
                struct.pack(">I", dice.randrange(1 << 32)),
                struct.pack(">HI", dice.randrange(8), dice.randrange(1 << 32)),
            ]
        )
        kind = dice.choice([0, 1, 1, 3, 4, 6, 7, 8, 9, dice.randrange(256)])
        flags = dice.choice([0, 1, 4, 5, 8, 0x20, dice.randrange(256)])
        one = bytearray(frame(kind, flags, dice.choice([0, 1, 1, 3, dice.randrange(1 << 31)]), payload))
        if dice.random() < 0.1:
            one[dice.randrange(len(one))] = dice.randrange(256)
        data += one
    return data


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_server_says_is_an_answer_or_an_error(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ours: nobody else has to know what may go wrong with HTTP/2."""
    dice, outcomes = random.Random(seed), set[str]()
    for _ in range(150):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            monkeypatch.setattr(Http2Connection, "_connect", lambda self, _, ours=ours: setattr(self, "_socket", ours))
            connection = Http2Connection(to=Address("x", 1), timeout_s=0.05)
            theirs.sendall(HELLO + some_frames(dice) + answer())
            theirs.shutdown(socket.SHUT_WR)
            try:
                outcomes.add(str(call(connection).status))
            except HttpError as error:
                outcomes.add(type(error).__name__)
            connection.close()
    assert {"200", "BrokenError"} <= outcomes


@pytest.mark.parametrize(
    "flood",
    [
        frame(DATA, 0, 7, bytes(16_000)),
        frame(DATA, PADDED, 1, b"\xfe" + bytes(254)) * 50,
        frame(0x2, 0, 1, bytes(16_000)),
        frame(PING, 0, 0, bytes(8)) * 500,
        frame(SETTINGS, 0, 0, b"") * 500,
        frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1") * 500,
    ],
    ids=["strangers", "padding", "priorities", "pings", "settings", "windows"],
)
def test_frames_that_are_no_answer_are_not_heard_for_ever(serve, flood: bytes) -> None:
    """They would be paid for until the time is over, as fast as they come, and some of them are to be answered."""

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        flooding = threading.Thread(target=say_again, args=(peer,), daemon=True)
        flooding.start()
        with contextlib.suppress(OSError, EOFError):
            while True:
                peer.read()
        flooding.join(20)

    def say_again(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            for _ in range(2000):
                peer.say(flood)

    connection, _ = serve(talk)
    with pytest.raises(BrokenError, match="does not end|all but an answer"):
        call(connection)
    assert not connection.is_open
    assert connection.bytes_sent < 100_000
    assert connection.wire_bytes < 20 * (1 << 20)


def test_what_comes_between_two_requests_is_not_heard_for_ever(serve) -> None:
    """Nobody has asked for it; the request goes over another connection."""

    def talk(peer: Peer) -> None:
        peer.say(HELLO)
        peer.read_request()
        peer.say(answer())
        with contextlib.suppress(OSError):
            peer.say(frame(DATA, 0, 7, bytes(16_000)) * 50)

    connection, server = serve(talk, say(answer()))
    assert call(connection).body == b"hi"
    before = connection.wire_bytes
    assert call(connection).body == b"hi"
    assert len(server.peers) == 2
    assert connection.wire_bytes - before < 20 * (1 << 20)


def test_a_body_in_single_bytes_is_not_sent_to_its_end(serve) -> None:
    """Who opens windows by a byte has each of them cost a packet, and another one to say so."""

    def talk(peer: Peer) -> None:
        peer.say(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        while True:
            peer.say(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1") * 100)

    connection, _ = serve(talk)
    with pytest.raises(BrokenError, match="all but an answer"):
        call(connection, bytes(100_000))
    # What went before anything was heard, and some hundred bytes more.
    assert connection.bytes_sent < 65_535 + 20_000
