"""One POST at a time: answers whole, in pieces and broken, connections kept and dropped, proxies; all of it bounded."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from gateway.net.deadline import Deadline
from gateway.net.http import HttpConnection
from gateway.net.line import (
    Address,
    BrokenError,
    ConnectError,
    ConnectTimeoutError,
    OverdueError,
    ProxyRefusedError,
    StalledError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.net import http

MAX = 1000


@dataclass
class Server:
    """Answers the connections it gets, one after the other; `heard` has the heads of all requests."""

    listener: socket.socket
    heard: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.listener.getsockname()[1])

    def read(self, connection: socket.socket) -> bool:
        """Read one request; False at the end."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(4096)
            if not more:
                return False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        self.heard.append(head)
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"ontent-" in line), 0)
        while len(body) < length:
            more = connection.recv(4096)
            if not more:
                return False
            body += more
        self.bodies.append(body)
        return True


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Serve each connection by `answer(server, connection)` in a thread."""
    stack = contextlib.ExitStack()

    def start(answer: Callable[[Server, socket.socket], None]) -> Server:
        server = Server(stack.enter_context(socket.create_server(("127.0.0.1", 0))))

        def run() -> None:
            while True:
                try:
                    connection, _ = server.listener.accept()
                except OSError:
                    return
                server.connections += 1
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    answer(server, connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def end() -> None:
            with contextlib.suppress(OSError):
                server.listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)

        stack.callback(end)
        return server

    with stack:
        yield start


def always(data: bytes, *, piece: int = 0) -> Callable[[Server, socket.socket], None]:
    """Return an answerer that says `data` to each request, in pieces where a size is given, and then hangs up."""

    def answer(server: Server, connection: socket.socket) -> None:
        while server.read(connection):
            for start in range(0, len(data), piece or len(data)):
                connection.sendall(data[start : start + (piece or len(data))])
            if b"\r\nX-End" in data:
                return

    return answer


@contextlib.contextmanager
def connect(server: Server, **options: object) -> Iterator[HttpConnection]:
    connection = HttpConnection(to=server.address, **{"timeout_s": 20.0, **options})
    try:
        yield connection
    finally:
        connection.close()


def post(connection: HttpConnection, body: bytes = b"hello", *, maximum: int = MAX) -> http.Response:
    return connection.post(
        "/v1/x", headers={"X-Site": "7"}, size_bytes=len(body), pieces=[body[:2], body[2:]], answer_bytes_max=maximum
    )


FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Two: a\r\nx-two: b\r\n\r\nok"
ANSWERS = {
    "length": (FINE, b"ok", True),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\no\r\n1\r\nk\r\n0\r\nT: 1\r\n\r\n",
        b"ok",
        True,
    ),
    "nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + FINE, b"ok", True),
    "bare line ends": (FINE.replace(b"\r\n", b"\n"), b"ok", True),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\nX-End:\r\n\r\nok", b"ok", False),
    "until the end": (b"HTTP/1.1 200 OK\r\nX-End:\r\n\r\nok", b"ok", False),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "old and kept": (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
}


@pytest.mark.parametrize("piece", [0, 1])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_whole_and_byte_by_byte(serve, name: str, piece: int) -> None:
    """Every framing; twice, so that what was left of the first would be seen in the second."""
    data, body, is_kept = ANSWERS[name]
    server = serve(always(data, piece=piece))
    with connect(server) as connection:
        for _ in range(2):
            response = post(connection)
            assert (response.status // 100, response.body) == (2, body)
    assert server.connections == (1 if is_kept else 2)
    assert server.bodies == [b"hello"] * 2


def test_what_is_sent(serve) -> None:
    """The request line, a Host without the scheme's own port, our headers and the length; all bytes counted."""
    server = serve(always(FINE))
    with connect(server) as connection:
        assert post(connection).headers["x-two"] == "a"
        sent = connection.bytes_sent
    (head,) = server.heard
    assert head.split(b"\r\n") == [
        b"POST /v1/x HTTP/1.1",
        b"Host: 127.0.0.1:%d" % server.address.port,
        b"X-Site: 7",
        b"Content-Length: 5",
    ]
    assert sent == len(head) + 4 + 5


def test_addresses() -> None:
    """IPv6 stands in brackets, ports are the schemes' own where none is named."""
    assert str(Address.of("http://[::1]:4318/x")) == "[::1]:4318"
    assert Address.of("http://otel") == ("otel", 80)


BROKEN = {
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "digits of other scripts": "HTTP/1.1 ²⁰⁰ OK\r\n\r\n".encode(),
    "a line without an end": b"HTTP/1.1 200 " + b"x" * 20_000,
    "a long line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500,
    "interim for ever": b"HTTP/1.1 103 Hints\r\n\r\n" * 50,
    "cut in the head": b"HTTP/1.1 200 OK\r\nConte",
    "nothing at all": b"",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_is_an_error(serve, data: bytes) -> None:
    """Bounded, in a few words, and the connection is not used again."""

    def answer(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(data)

    server = serve(answer)
    with connect(server) as connection:
        for _ in range(2):
            with pytest.raises(BrokenError) as caught:
                post(connection)
            assert 0 < len(str(caught.value)) < 150
    assert server.connections == 2


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Length: 9\r\n\r\nok",
        b"Content-Length: +2\r\n\r\nok",
        b"Content-Length: 99999999999999999999\r\n\r\nok",
        b"Transfer-Encoding: gzip, chunked\r\n\r\nok",
        b"Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n9\r\nok",
    ],
)
def test_a_body_that_breaks_leaves_the_status(serve, data: bytes) -> None:
    """What was said first counts; the connection does not stay."""

    def answer(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(b"HTTP/1.1 503 Later\r\n" + data)

    server = serve(answer)
    with connect(server) as connection:
        response = post(connection)
        assert (response.status, response.body) == (503, b"")
        post(connection)
    assert server.connections == 2


@pytest.mark.parametrize(
    "head", [b"Content-Length: 5000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1388\r\n", b"X-End:\r\n\r\n"]
)
def test_no_more_is_read_than_was_asked_for(serve, head: bytes) -> None:
    """The rest goes with the connection."""
    server = serve(always(b"HTTP/1.1 200 OK\r\n" + head + b"x" * 5000))
    with connect(server) as connection:
        assert len(post(connection).body) == MAX
        assert len(post(connection).body) == MAX
    assert server.connections == 2


def test_a_connection_that_was_closed_meanwhile_is_replaced(serve) -> None:
    """Before anything is sent on it, so that nothing can be lost."""
    gone = threading.Event()

    def answer(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(FINE)
        connection.shutdown(socket.SHUT_RDWR)
        gone.set()

    server = serve(answer)
    with connect(server) as connection:
        post(connection)
        assert gone.wait(5)
        post(connection)
    assert server.connections == 2


def test_an_answer_nobody_asked_for_is_no_answer(serve) -> None:
    """What lies in the line before a request belongs to nothing."""
    said = threading.Event()

    def answer(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(FINE + FINE.replace(b"200", b"500"))
        said.set()
        server.read(connection)

    server = serve(answer)
    with connect(server) as connection:
        assert post(connection).status == 200
        assert said.wait(5)
        assert post(connection).status == 200
    assert server.connections == 2


def test_an_early_answer_is_heard(serve) -> None:
    """A server that says 413 and takes no more has answered all the same."""

    def answer(server: Server, connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    server = serve(answer)
    with connect(server) as connection:
        body = b"x" * 3_000_000
        pieces = [body[start : start + 8192] for start in range(0, len(body), 8192)]
        response = connection.post("/", headers={}, size_bytes=len(body), pieces=pieces, answer_bytes_max=MAX)
    assert response.status == 413


def test_a_success_before_the_whole_request_was_sent_is_none(serve) -> None:
    """Who says yes and takes no more has not got what the request holds."""

    def answer(server: Server, connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(FINE)
        connection.shutdown(socket.SHUT_RD)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    server = serve(answer)
    with connect(server) as connection, pytest.raises(BrokenError, match="status 200 before the whole request"):
        body = b"x" * 30_000_000
        pieces = [body[start : start + 8192] for start in range(0, len(body), 8192)]
        connection.post("/", headers={}, size_bytes=len(body), pieces=pieces, answer_bytes_max=MAX)


def test_who_takes_no_more_and_says_nothing(serve) -> None:
    """A reset in the middle of the body, in words."""

    def answer(server: Server, connection: socket.socket) -> None:
        connection.recv(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    server = serve(answer)
    with connect(server) as connection, pytest.raises(BrokenError):
        connection.post("/", headers={}, size_bytes=3_000_000, pieces=[b"x" * 8192] * 400, answer_bytes_max=MAX)


def test_silence_is_an_error_after_a_while(serve) -> None:
    """No answer within the time."""
    done = threading.Event()

    def answer(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        done.wait(10)

    server = serve(answer)
    with connect(server, timeout_s=0.05, connect_timeout_s=20) as connection:
        with pytest.raises(StalledError, match="not over in time"):
            post(connection)
    done.set()


def test_what_is_given_up_does_not_leave_afterwards(serve) -> None:
    """What the kernel still holds of it is on nobody's account: it goes with its connection."""
    given_up, done = threading.Event(), threading.Event()
    found = []

    def answer(_: Server, connection: socket.socket) -> None:
        given_up.wait(60)
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                found.append(len(data))
        done.set()

    server = serve(answer)
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    with connect(server, timeout_s=0.3, connect_timeout_s=20) as connection:
        with pytest.raises(StalledError, match="the line takes nothing"):
            connection.post("/", headers={}, size_bytes=30_000_000, pieces=[b"x" * 8192] * 4000, answer_bytes_max=MAX)
        given_up.set()
        assert done.wait(20)
        assert sum(found) < connection.wire_bytes < connection.bytes_sent


def test_an_error_of_the_pieces_is_the_callers(serve) -> None:
    """It ends the connection, on which half a request stands."""
    server = serve(always(FINE))

    def pieces() -> Iterator[bytes]:
        yield b"x"
        raise OSError("stopping")

    with connect(server) as connection:
        with pytest.raises(OSError, match="stopping"):
            connection.post("/", headers={}, size_bytes=2, pieces=pieces(), answer_bytes_max=MAX)
        assert post(connection).status == 200
    assert server.connections == 2


def test_nobody_there() -> None:
    """A refused connection names the party."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1])
    with pytest.raises(ConnectError, match="refused") as caught:
        post(HttpConnection(to=address, timeout_s=5))
    assert caught.value.party == str(address)


def test_no_such_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that nobody knows, and one that no name can be."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(UnknownNameError):
        post(HttpConnection(to=Address("ü" * 70, 80), timeout_s=5))
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UnknownNameError, match="not known"):
        post(HttpConnection(to=Address("nowhere.invalid", 80), timeout_s=5))


def test_every_address_of_a_name_is_tried(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first does not answer, the second does; where there is none, that is said."""
    server = serve(always(FINE))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*kind, closed), (*kind, tuple(server.address))])
    with connect(server) as connection:
        assert post(connection).status == 200
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with connect(server) as connection, pytest.raises(ConnectError, match="no address"):
        post(connection)


@contextlib.contextmanager
def silent_address() -> Iterator[Address]:
    """An address that no connection comes through to: its queue is filled until one more is not heard."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        is_heard = True
        while is_heard:
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            is_heard = bool(select.select([], [one], [], 0.2)[1])
        yield Address(*listener.getsockname())


def test_a_connection_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue of connections never answers."""
    with silent_address() as silent, pytest.raises(ConnectTimeoutError, match=r"within 0\.0\d+ s"):
        post(HttpConnection(to=silent, timeout_s=0.05))


def test_the_addresses_of_a_name_share_the_time(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never answers leaves those behind it their part, and all of them together take no longer than one may."""
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    with silent_address() as address:
        silent = (*kind, tuple(address))
        server = serve(always(FINE))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [silent, silent, (*kind, tuple(server.address))])
        began_s = time.monotonic()
        with connect(server, connect_timeout_s=3) as connection:
            assert post(connection).status == 200
        assert 1.5 < time.monotonic() - began_s < 5.9
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [silent] * 20)
        began_s = time.monotonic()
        with connect(server, connect_timeout_s=0.6) as connection, pytest.raises(ConnectTimeoutError):
            post(connection)
        assert 0.5 < time.monotonic() - began_s < 11


def test_an_answer_that_drips_ends_in_time(serve) -> None:
    """Each byte keeps a wait alive, and all of them together have no more time than one; the next request has its own."""
    server = serve(always(FINE, piece=1))
    slow = threading.Event()

    def drip(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        for k in range(len(FINE)):
            connection.sendall(FINE[k : k + 1])
            if slow.wait(0.1):
                return

    with connect(serve(drip), timeout_s=0.2, connect_timeout_s=20) as connection:
        began_s = time.monotonic()
        with pytest.raises(StalledError):
            post(connection)
        assert 0.15 < time.monotonic() - began_s < len(FINE) * 0.1
    slow.set()
    with connect(server, timeout_s=1.5) as connection:
        for _ in range(3):
            assert post(connection).status == 200
            time.sleep(0.8)


def test_a_request_is_over_by_the_time_that_is_given(serve) -> None:
    """However much moves; and one that is over before it began is not sent."""

    def sip(_: Server, connection: socket.socket) -> None:
        while connection.recv(2048):
            time.sleep(0.01)

    server = serve(sip)
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    with connect(server) as connection:
        began_s = time.monotonic()
        with pytest.raises(OverdueError):
            connection.post(
                "/", headers={}, size_bytes=9_000_000, pieces=[b"x" * 8192] * 1100, answer_bytes_max=MAX,
                until=Deadline.after(0.3),
            )  # fmt: skip
        assert 0.2 < time.monotonic() - began_s < 10
        with pytest.raises(OverdueError):
            connection.post("/", headers={}, size_bytes=1, pieces=[b"x"], answer_bytes_max=MAX, until=Deadline.after(0))
        assert connection.bytes_sent < 9_000_000


def test_a_plain_request_through_a_proxy(serve) -> None:
    """With the whole address, for the proxy to know where to."""
    proxy = serve(always(FINE))
    connection = HttpConnection(to=Address("otel", 4318), proxy=proxy.address, timeout_s=5)
    assert post(connection).status == 200
    connection.close()
    assert proxy.heard[0].startswith(b"POST http://otel:4318/v1/x HTTP/1.1\r\nHost: otel:4318\r\n")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 407 Who\r\nX-End:\r\n\r\n", ProxyRefusedError),
        (b"junk\r\nX-End", ConnectError),
        (b"HTTP/1.1 200 OK\r\nX-End:\r\n\r\nmore", ConnectError),
    ],
)
def test_a_proxy_that_does_not_open_a_tunnel(serve, answer: bytes, error: type[Exception]) -> None:
    """Nothing of the request is said to it."""
    proxy = serve(always(answer))
    connection = HttpConnection(to=Address("otel", 443), proxy=proxy.address, timeout_s=5, context=object())  # type: ignore[arg-type]
    with pytest.raises(error):
        post(connection)
    assert proxy.heard == [b"CONNECT otel:443 HTTP/1.1\r\nHost: otel:443"]


FLOODS = {
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"x" * 8000 + b"\r\na\r\n") * 2000,
    "headers": b"HTTP/1.1 200 OK\r\n" + (b"A: " + b"x" * 8000 + b"\r\n") * 120 + b"Content-Length: 0\r\n\r\n",
    "interim": (b"HTTP/1.1 100 Go\r\n" + (b"A: " + b"x" * 8000 + b"\r\n") * 120 + b"\r\n") * 7 + FINE,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_an_answer_of_words_about_itself_is_not_heard_to_its_end(serve, flood: bytes) -> None:
    """A megabyte about a body of a few bytes is paid for like any other: on a metered link that is a month's data."""
    with connect(serve(always(flood))) as connection:
        with pytest.raises(BrokenError, match="does not end"):
            post(connection)
        # What was on the way when nobody listened any more is the kernel's.
        assert connection.wire_bytes < 20 * (1 << 20)
        assert not connection.is_open


def test_all_that_comes_is_told_of(serve) -> None:
    """Whoever pays hears of it, and may have no more of it."""
    heard: list[int] = []

    def stop() -> None:
        heard.append(connection.wire_bytes)
        if len(heard) > 1:
            raise OSError("enough")

    server = serve(always(FINE))
    with connect(server, heard=stop) as connection:
        assert post(connection).status == 200
        assert heard[0] > len(FINE)
        with pytest.raises(OSError, match="enough"):
            post(connection)
        assert not connection.is_open
