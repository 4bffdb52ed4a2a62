"""HTTP/2 as a receiver speaks it, on real sockets, with clients that keep its rules and others."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes

from gateway.net import connections, http2_frames, http2_server
from gateway.net.connections import HttpLimits
from gateway.net.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    head,
)
from gateway.net.http2_server import Http2Server, Reply
from gateway.net.listeners import make_ready

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.net.http2_requests import StreamBody
    from gateway.net.http_requests import Request, RequestError

LIMITS = HttpLimits(connections_max=2, body_bytes_max=1 << 20, request_s=30.0, idle_s=30.0)


class Echo:
    """Says back how much it was sent; what it does else stands in the path."""

    def __init__(self) -> None:
        self.away: list[tuple[str, str]] = []
        self.requests: list[Request] = []
        self.may_go = asyncio.Event()
        self.began = asyncio.Event()
        self.kept: list[bytes] = []
        self.count = 0

    async def admit(self, request: Request, /) -> Reply | None:
        self.requests.append(request)
        if request.path == "/slow":
            self.began.set()
            await self.may_go.wait()
        if request.path == "/no":
            return Reply(200, (("said", "no"),))
        return None

    async def answer(self, request: Request, body: StreamBody, /) -> Reply:
        if request.path == "/hold":
            self.began.set()
            await self.may_go.wait()
        if request.path == "/unread":
            return Reply(200, (), b"enough", (("end", "1"),))
        if request.path == "/boom":
            raise ZeroDivisionError
        if request.path == "/room":
            body.give_up()
        data = b""
        while piece := await body.read():
            data += piece
        if request.path == "/commit":
            self.began.set()
            await self.may_go.wait()
        self.kept.append(data)
        text = str(len(data)).encode()
        return Reply(200, (("a", "1"),), text if request.path != "/long" else bytes(300_000), (("end", "1"),))

    def refuse(self, request: Request | None, problem: RequestError, /) -> Reply:
        return Reply(200, (("problem", f"{problem.status} {problem.reason}"), ("said", str(problem))))

    def turned_away(self, reason: str, why: str) -> None:
        self.away.append((reason, why))

    def connections_changed(self, count: int) -> None:
        self.count = count


class Client:
    """One connection, with h2 as its side of the protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.answers: dict[int, dict[str, Any]] = {}
        self.is_ended = False

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def begin(self, path: str, *headers: tuple[str, str], end: bool = False) -> int:
        number = self.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost:1"), (":path", path), *headers]
        self.h2.send_headers(number, head, end_stream=end)
        self.flush()
        return number

    async def send(self, number: int, body: bytes, *, end: bool = True) -> None:
        at = 0
        while at < len(body) or not body:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(body) - at)
            if body and not room:
                await self.hear()
                continue
            self.h2.send_data(number, body[at : at + room], end_stream=end and at + room == len(body))
            at += room
            self.flush()
            if not body:
                break

    async def hear(self) -> None:
        data = await self.reader.read(65_536)
        if not data:
            self.is_ended = True
            return
        for event in self.h2.receive_data(data):
            number = getattr(event, "stream_id", None)
            found = self.answers.setdefault(number or 0, {"body": b"", "headers": {}, "trailers": {}, "is_over": False})
            if isinstance(event, ResponseReceived):
                found["headers"] = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, TrailersReceived):
                found["trailers"] = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, DataReceived):
                found["body"] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, number)
            elif isinstance(event, StreamEnded):
                found["is_over"] = True
            elif isinstance(event, StreamReset):
                found["reset"], found["is_over"] = int(event.error_code), True
            elif isinstance(event, ConnectionTerminated):
                found["goaway"] = int(event.error_code)
        self.flush()

    async def answer(self, number: int) -> dict[str, Any]:
        while not (number in self.answers and self.answers[number]["is_over"]):
            assert not self.is_ended
            await self.hear()
        return self.answers[number]

    async def ask(self, path: str, body: bytes = b"hello", *headers: tuple[str, str]) -> dict[str, Any]:
        number = self.begin(path, *headers)
        await self.send(number, body)
        return await self.answer(number)

    async def end(self) -> int | None:
        while not self.is_ended:
            await self.hear()
        return self.answers.get(0, {}).get("goaway")


@pytest.fixture
async def serve() -> AsyncIterator[Callable]:
    """Start servers; `connect` opens a client of the last, `dial` its bare socket."""
    async with contextlib.AsyncExitStack() as stack:
        servers: list[Http2Server] = []

        async def start(handler: Echo, *, stop_s: float = 20.0, **changes: object) -> Http2Server:
            limits = {key: changes.pop(key) for key in list(changes) if key in LIMITS._fields}
            server = Http2Server(handler, address="127.0.0.1:0", limits=LIMITS._replace(**limits), name="t", **changes)
            task = asyncio.create_task(server.serve(stop_s=stop_s))
            servers.append(server)
            server.task = task
            await server.listening.wait()

            async def stop() -> None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

            server.stop = stop
            stack.push_async_callback(stop)
            return server

        async def dial(**options: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*servers[-1].address, **options)
            stack.callback(lambda: writer.transport.abort())
            return reader, writer

        async def connect(**options: object) -> Client:
            return Client(*await dial(**options))

        start.connect, start.dial = connect, dial
        yield start


async def test_many_requests_come_over_one_connection(serve) -> None:
    """One after the other and at once, small and of many windows; trailers behind each."""
    echo = Echo()
    await serve(echo)
    client = await serve.connect()
    for size in (5, 500_000, 1, 70_000):
        found = await client.ask("/x?y=1", bytes(size), ("x", "one"), ("x", "two"))
        assert (found["body"], found["trailers"], found["headers"]["a"]) == (str(size).encode(), {"end": "1"}, "1")
    request = echo.requests[0]
    assert (request.method, request.path, request.headers) == ("POST", "/x", {"x": "one, two", "host": "localhost:1"})
    assert (request.peer, request.has_certificate) == ("127.0.0.1", False)
    numbers = [client.begin("/y") for _ in range(10)]
    for number in numbers:
        await client.send(number, b"abc")
    assert [(await client.answer(number))["body"] for number in reversed(numbers)] == [b"3"] * 10
    assert (await client.ask("/x", b""))["body"] == b"0"
    assert echo.away == []


async def test_a_request_may_be_answered_before_its_body_is_read(serve) -> None:
    """By its head, or by what is enough; the rest is not wanted, and the connection goes on."""
    await serve(Echo())
    client = await serve.connect()
    for path, body in (("/no", b""), ("/unread", b"enough")):
        number = client.begin(path)
        found = await client.answer(number)
        assert (found["body"], found["headers"][":status"]) == (body, "200")
        assert (await client.ask("/x"))["body"] == b"5"
        assert client.answers[number].get("reset") == 0


async def test_what_goes_wrong_is_put_in_words(serve, caplog) -> None:
    """Too large, too slow, too many headers, what cannot be printed, and mistakes of ours."""
    echo = Echo()
    await serve(echo, body_bytes_max=1000, request_s=0.3)
    client = await serve.connect()
    assert (await client.ask("/x", bytes(2000)))["headers"]["problem"] == "413 too_large"
    assert (await client.answer(client.begin("/x")))["headers"]["problem"] == "408 too_slow"
    assert (await client.answer(client.begin("/room")))["headers"]["problem"] == "503 made_room"
    many = [(f"h{k}", "v") for k in range(70)]
    assert (await client.ask("/x", b"a", *many))["headers"]["problem"] == "431 head_too_large"
    assert (await client.ask("/x", b"a", ("x", "a\x7fb")))["headers"]["problem"] == "400 bad_request"
    assert (await client.ask("/boom"))["headers"]["problem"] == "500 failed"
    assert "t: /boom failed" in caplog.text
    assert (await client.ask("/x"))["body"] == b"5"


async def test_what_nobody_has_asked_for_is_bounded(serve) -> None:
    """By a window, however many requests there are, and into how many pieces they are cut."""
    echo = Echo()
    await serve(echo)
    client = await serve.connect()
    numbers = [client.begin("/hold") for _ in range(4)]
    sent = 0
    while room := min(client.h2.outbound_flow_control_window, 1000):
        client.h2.send_data(numbers[sent // 1000 % 4], bytes(room))
        sent += room
    client.flush()
    assert sent == http2_server.WINDOW_BYTES
    await echo.began.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.send(numbers[0], b"more"), 0.1)
    echo.may_go.set()
    for number in numbers:
        await client.send(number, b"x")
        await client.answer(number)
    assert sum(map(len, echo.kept)) == sent + 4


async def test_empty_and_padded_frames_are_no_more_than_they_are(serve) -> None:
    """A flood of nothing is kept by nobody; padding counts for the window."""
    echo = Echo()
    await serve(echo)
    client = await serve.connect()
    number = client.begin("/x")
    for _ in range(1500):
        client.h2.send_data(number, b"")
    for _ in range(600):
        if client.h2.local_flow_control_window(number) < 300:
            client.flush()
            await client.hear()
        client.h2.send_data(number, b"a", pad_length=200)
    client.h2.end_stream(number)
    client.flush()
    assert (await client.answer(number))["body"] == b"600"


async def test_who_takes_back_what_it_asked_is_not_waited_for(serve) -> None:
    """Before it was let in, while its body came, while it is kept: that one is kept all the same."""
    echo = Echo()
    await serve(echo)
    client = await serve.connect()
    for path in ("/slow", "/x", "/commit"):
        number = client.begin(path)
        await client.send(number, b"data", end=path == "/commit")
        if path != "/x":
            await echo.began.wait()
            echo.began.clear()
        client.h2.reset_stream(number, 8)
        client.flush()
        echo.may_go.set()
        assert (await client.ask("/y"))["body"] == b"5"
        if path == "/slow":
            echo.may_go.clear()
    assert echo.kept.count(b"data") == 1
    assert echo.away == [("cut", "127.0.0.1: the request ends in the middle")]


async def test_a_client_that_goes_leaves_what_is_being_kept(serve) -> None:
    """Nobody hears of it, and it is kept; one in the middle is not."""
    echo = Echo()
    server = await serve(echo)
    for path in ("/commit", "/x", "/slow"):
        client = await serve.connect()
        number = client.begin(path)
        await client.send(number, b"data", end=path == "/commit")
        if path == "/x":
            while len(echo.requests) < 2:
                await asyncio.sleep(0.001)
        else:
            await echo.began.wait()
            echo.began.clear()
        client.writer.close()
        if path == "/commit":
            await asyncio.sleep(0.01)
            echo.may_go.set()
        while server.connections:
            await asyncio.sleep(0.001)
        echo.may_go.clear()
    assert echo.kept == [b"data"]
    assert [reason for reason, _ in echo.away] == ["cut"]


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(30),
        PREFACE + frame(PING, 0, 1, bytes(8)),
        PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 2, b"\x83"),
        PREFACE + frame(SETTINGS, 0, 0, b"") + frame(DATA, PADDED, 1, b"\x09a"),
        PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)),
        PREFACE + frame(SETTINGS, 0, 0, b"") + b"\xff\xff\xff\x00\x00" + bytes(4),
        PREFACE + frame(SETTINGS, 0, 0, b"") + head(1 << 15, DATA, 0, 1),
        PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 0, 1, bytes(100)) + frame(9, 0, 1, b"") * 70,
    ],
    ids=["http1", "no settings", "hpack", "even stream", "padding", "window", "size", "head of a size", "continuations"],
)  # fmt: skip
async def test_who_breaks_the_rules_is_told_and_left(serve, data: bytes) -> None:
    """Counted, with what was wrong; others are served."""
    echo = Echo()
    await serve(echo)
    reader, writer = await serve.dial()
    writer.write(data)
    with contextlib.suppress(ConnectionError):
        while await asyncio.wait_for(reader.read(1000), 5):
            pass
    assert [reason for reason, _ in echo.away] == ["bad_request"]
    assert (await (await serve.connect()).ask("/x"))["body"] == b"5"


async def test_headers_have_a_bound(serve) -> None:
    """Also where few bytes stand for many."""
    echo = Echo()
    await serve(echo)
    client = await serve.connect()
    number = client.begin("/x", *[("x", "y" * 4000)] * 30)
    with contextlib.suppress(AssertionError):
        await client.send(number, b"a")
        await client.answer(number)
    assert (echo.requests, [reason for reason, _ in echo.away]) == ([], ["bad_request"])


async def test_who_takes_back_again_and_again_is_left(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making and forgetting requests costs the other side more than it costs the client."""
    monkeypatch.setattr(http2_server, "RESETS_MAX", 20)
    echo = Echo()
    await serve(echo)
    client = await serve.connect()
    for _ in range(200):
        client.h2.reset_stream(client.begin("/slow"), 8)
    client.flush()
    with contextlib.suppress(ConnectionError):
        # What it sent meanwhile may have the end overtake the reason.
        assert await client.end() in {11, None}
    assert [reason for reason, _ in echo.away] == ["flood"]
    assert len(echo.requests) <= http2_server.STREAMS_MAX + 20


async def test_more_than_so_many_at_a_time_are_refused_unseen(serve) -> None:
    """They may be asked again; a client that knows the bound keeps it."""
    echo = Echo()
    await serve(echo)
    client = await serve.connect()
    numbers = [client.begin("/slow", end=True) for _ in range(http2_server.STREAMS_MAX)]
    await echo.began.wait()
    await client.hear()
    assert client.h2.remote_settings.max_concurrent_streams == http2_server.STREAMS_MAX
    client.h2.reset_stream(numbers[0], 8)
    # Its task has not ended yet when the next one comes.
    refused = client.begin("/x", end=True)
    assert (await client.answer(refused)).get("reset", 7) in {0, 7}
    echo.may_go.set()
    for number in numbers[1:]:
        assert (await client.answer(number))["body"] == b"0"


async def test_the_end_answers_what_is_under_way(serve) -> None:
    """And takes nothing new; who asks for nothing hears GOAWAY."""
    echo = Echo()
    server = await serve(echo)
    idle, busy = await serve.connect(), await serve.connect()
    await idle.ask("/x")
    number = busy.begin("/commit")
    await busy.send(number, b"data")
    await echo.began.wait()
    task = asyncio.create_task(server.stop())
    assert await idle.end() == 0
    refused = busy.begin("/x")
    assert (await busy.answer(refused))["reset"] == 7
    echo.may_go.set()
    assert (await busy.answer(number))["body"] == b"4"
    assert await busy.end() == 0
    await task
    assert (server.connections, echo.count) == (0, 0)


async def test_the_end_does_not_wait_for_ever(serve) -> None:
    """What is not over by then is not answered."""
    echo = Echo()
    server = await serve(echo, stop_s=0.5)
    client = await serve.connect()
    await client.send(client.begin("/commit"), b"data")
    await echo.began.wait()
    began_s = asyncio.get_running_loop().time()
    await server.stop()
    assert asyncio.get_running_loop().time() - began_s < 20
    assert echo.kept == []


async def test_who_says_nothing_is_not_waited_for(serve) -> None:
    """From the beginning, and after a request; pings are nothing."""
    await serve(Echo(), request_s=0.1)
    reader, _ = await serve.dial()
    assert await asyncio.wait_for(reader.read(), 20) != b""
    await serve(Echo(), idle_s=0.2)
    client = await serve.connect()
    await client.ask("/x")
    assert await asyncio.wait_for(client.end(), 20) == 0


async def test_who_asks_for_nothing_makes_way(serve) -> None:
    """Whoever waits for an answer does not."""
    echo = Echo()
    await serve(echo, connections_max=1)
    first = await serve.connect()
    await first.ask("/x")
    second = await serve.connect()
    number = second.begin("/hold")
    await second.send(number, b"data")
    await echo.began.wait()
    assert await first.end() == 0
    reader, _ = await serve.dial()
    assert await reader.read() == b""
    echo.may_go.set()
    assert (await second.answer(number))["body"] == b"4"
    assert [reason for reason, _ in echo.away] == ["connections_max"] * 2


async def test_who_is_not_let_in_yet_makes_way(serve) -> None:
    """Whoever shows a wrong token waits for its answer, and must not keep out those who have the right one."""
    echo = Echo()
    await serve(echo, connections_max=1)
    guesser = await serve.connect()
    guesser.begin("/slow")
    await echo.began.wait()
    honest = await serve.connect()
    number = honest.begin("/x")
    await honest.send(number, b"data")
    assert (await honest.answer(number))["body"] == b"4"
    assert await guesser.end() == 0
    assert [reason for reason, _ in echo.away] == ["connections_max"]


async def test_an_answer_waits_for_the_clients_window_but_not_for_ever(serve) -> None:
    """One that opens it hears all of it."""
    await serve(Echo())
    client = await serve.connect()
    assert len((await client.ask("/long"))["body"]) == 300_000
    await serve(Echo(), request_s=1.0)
    silent = await serve.connect()
    number = silent.begin("/long")
    await silent.send(number, b"x")
    acknowledge, silent.h2.acknowledge_received_data = silent.h2.acknowledge_received_data, lambda *_: None
    assert (await silent.answer(number))["reset"] == 8
    assert acknowledge


async def test_who_does_not_read_answers_is_left(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pings are answered, and what nobody reads piles up nowhere."""

    def make_small(connected: socket.socket) -> None:
        make_ready(connected)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    monkeypatch.setattr(connections, "make_ready", make_small)
    monkeypatch.setattr(http2_frames, "IDLE_FRAMES_MAX", 1 << 20)
    echo = Echo()
    server = await serve(echo, request_s=1.0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(server.address)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, PREFACE + frame(SETTINGS, 0, 0, b""))
        with contextlib.suppress(OSError):
            for _ in range(200):
                async with asyncio.timeout(5):
                    await loop.sock_sendall(client, frame(PING, 0, 0, bytes(8)) * 1000)
        while not echo.away:
            await asyncio.sleep(0.01)
    assert echo.away == [("too_slow", "127.0.0.1: it does not read its answers")]


async def test_over_tls(serve, authority) -> None:
    """With ALPN; who shows a certificate is known to have one."""
    import ssl

    identity, own = authority.issue(), authority.issue("own")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    echo = Echo()
    await serve(echo, tls=context)
    for shown in (False, True):
        theirs = ssl.create_default_context(cafile=authority.certificate)
        theirs.set_alpn_protocols(["h2"])
        if shown:
            theirs.load_cert_chain(own.certificate, own.key)
        client = await serve.connect(ssl=theirs, server_hostname="localhost")
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        assert (await client.ask("/x", bytes(100_000)))["body"] == b"100000"
    assert [request.has_certificate for request in echo.requests] == [False, True]
    assert END_STREAM == 1


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_a_client_says_leaves_the_server_well(serve, seed: int) -> None:
    """Each ends by itself, with a reason, and no task fails of it."""
    failed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    dice, echo = random.Random(seed), Echo()
    server = await serve(echo, request_s=0.5, idle_s=0.5, connections_max=100)
    head = hpack.Encoder().encode([(":method", "POST"), (":path", "/x"), (":scheme", "http"), (":authority", "x")])

    async def abuse() -> None:
        reader, writer = await serve.dial()
        writer.write(PREFACE + frame(SETTINGS, 0, 0, b""))
        for number in range(1, 2 * dice.randrange(1, 8), 2):
            payload = dice.choice([head, head, dice.randbytes(dice.randrange(60)), bytes(4), b""])
            kind = dice.choice([0, 1, 1, 1, 3, 4, 6, 7, 8, 9, dice.randrange(256)])
            flags = dice.choice([0, 1, 4, 4, 5, 8, 0x20, dice.randrange(256)])
            writer.write(frame(kind, flags, dice.choice([0, 1, number, number]), payload))
        with contextlib.suppress(OSError):
            await asyncio.wait_for(reader.read(), 5)

    for _ in range(5):
        await asyncio.gather(*(abuse() for _ in range(20)))
    assert (await (await serve.connect()).ask("/x"))["body"] == b"5"
    assert echo.away
    await server.stop()
    assert failed == []


async def test_who_takes_back_at_once_leaves_nothing_behind(serve) -> None:
    """A task that never began must not count as a request: the connection would be full of them, and never idle."""
    echo = Echo()
    server = await serve(echo, idle_s=1.0)
    client = await serve.connect()
    for _ in range(2 * http2_server.STREAMS_MAX):
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, [(":method", "POST"), (":scheme", "http"), (":authority", "l"), (":path", "/x")])
        client.h2.reset_stream(number, 8)
        client.flush()
        await asyncio.sleep(0)
    assert (await client.ask("/y"))["body"] == b"5"
    await client.end()
    while server.connections:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frame(HEADERS, 0, 1, bytes(9000)) + frame(CONTINUATION, 0, 1, bytes(9000)), "bytes of headers"),
        (frame(PING, 0, 0, bytes(8)) * 3000, "bring next to nothing"),
        (frame(SETTINGS, 0, 0, b"") * 3000, "bring next to nothing"),
    ],
)
async def test_who_floods_is_left_before_it_is_held(serve, data: bytes, why: str) -> None:
    """By the heads of frames: h2 would wait for all of a block of headers."""
    echo = Echo()
    await serve(echo)
    reader, writer = await serve.dial()
    writer.write(PREFACE + frame(SETTINGS, 0, 0, b"") + data)
    with contextlib.suppress(ConnectionError):
        said = await asyncio.wait_for(reader.read(-1), 20.0)
        assert said[-4:] == struct.pack(">I", 11)
    assert len(echo.away) == 1
    assert echo.away[0][0] == "flood"
    assert why in echo.away[0][1]


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, 0, 1, bytes(1000)) * 3000,
        frame(DATA, END_STREAM, 1, bytes(1000)) * 3000,
        frame(RST_STREAM, 0, 1, bytes(4)) * 3000,
        frame(RST_STREAM, 0, 2**31 - 1, bytes(4)) * 3000,
    ],
    ids=["data", "ends", "resets", "resets of nothing"],
)
async def test_who_goes_on_about_what_is_over_is_left(serve, data: bytes) -> None:
    """Nobody hears of such frames, and each takes as long as another: a few clients without a token stopped all others."""
    echo = Echo()
    await serve(echo)
    client = await serve.connect()
    await client.answer(client.begin("/no"))
    client.writer.write(data)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(client.reader.read(-1), 20.0)
    assert [reason for reason, _ in echo.away] == ["flood"]


async def test_what_is_remembered_of_answers_is_bounded(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client says how large a table it has, gigabytes too: each answer of ours with a new word would stand in ours."""
    made: list[http2_server._Protocol] = []
    begin = http2_server._Protocol.initiate_connection

    def note(self: http2_server._Protocol) -> None:
        made.append(self)
        begin(self)

    monkeypatch.setattr(http2_server._Protocol, "initiate_connection", note)
    await serve(Echo())
    client = await serve.connect()
    client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**31})
    client.flush()
    for _ in range(3):
        assert (await client.ask("/x"))["body"] == b"5"
    assert made[0].encoder.header_table_size == http2_server.HEADER_TABLE_BYTES_MAX


async def test_those_who_chatter_wait_for_each_other(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the others for them: a turn of the loop hears one of them, however many they are."""
    heard = 0
    receive = http2_server._Protocol.receive_data

    def count(self: http2_server._Protocol, data: bytes) -> list[Any]:
        nonlocal heard
        heard += len(data)
        return receive(self, data)

    monkeypatch.setattr(http2_server._Protocol, "receive_data", count)
    chatter = PREFACE + frame(SETTINGS, 0, 0, b"") + frame(PING, 0, 0, bytes(8)) * 1500
    server = await serve(Echo(), connections_max=30)
    for _ in range(20):
        _, writer = await serve.dial()
        writer.write(chatter)
    client = await serve.connect()
    for _ in range(10):
        assert (await client.ask("/x"))["body"] == b"5"
    assert heard < 20 * len(chatter) / 2
    assert server.connections == 21


async def test_who_chatters_in_line_makes_way(serve) -> None:
    """It does not stay in line for that: whoever comes again and again would make it ever longer."""
    server = await serve(Echo(), connections_max=1)
    _, writer = await serve.dial()
    async with server.line:
        writer.write(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(PING, 0, 0, bytes(8)) * 1500)
        await asyncio.sleep(0.1)
        assert (await (await serve.connect()).ask("/x"))["body"] == b"5"
        while sum(task.get_name() == "t: 127.0.0.1" for task in asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)


async def test_headers_that_come_again_and_again_are_not_copied(serve) -> None:
    """A block of few bytes names 16 KB of the table: a read of such blocks would be 40 MB as text, all at once."""
    await serve(Echo())
    reader, writer = await serve.dial()
    encoder = hpack.Encoder()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"l"), (b":path", b"/slow")]
    fields += [(b"x", b"y" * 3900)] * 4
    first, later = (encoder.encode(fields, huffman=False) for _ in range(2))
    assert len(later) < 20
    blocks = b"".join(
        frame(HEADERS, END_HEADERS, number, first if number == 1 else later) + frame(3, 0, number, bytes(4))
        for number in range(1, 4000, 2)
    )
    tracemalloc.start()
    try:
        writer.write(PREFACE + frame(SETTINGS, 0, 0, b"") + blocks)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(-1), 20.0)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
