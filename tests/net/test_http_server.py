"""A receiver of requests on real sockets: kept connections, bounds, odd clients, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest

from gateway.net import http_server
from gateway.net.connections import HttpLimits
from gateway.net.http_requests import Body, Request, RequestError
from gateway.net.http_server import Answer, HttpServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LIMITS = HttpLimits(connections_max=4, body_bytes_max=1000, request_s=30.0, idle_s=30.0)


class Echo:
    """Sends back what it got; refuses, fails or waits by path."""

    def __init__(self) -> None:
        self.away: list[str] = []
        self.seen: list[Request] = []
        self.go_on = asyncio.Event()
        self.waits = asyncio.Event()

    async def admit(self, request: Request) -> Answer | None:
        self.seen.append(request)
        if request.path == "/guess":
            self.waits.set()
            await asyncio.sleep(60)
        if request.path == "/no":
            raise RequestError(404, "not_found", "nothing here")
        return Answer(204) if request.path == "/early" else None

    async def answer(self, request: Request, body: Body) -> Answer:
        if request.path == "/fails":
            raise KeyError("our mistake")
        if request.path == "/unread":
            return Answer(200, "text/plain", b"not read")
        data = b""
        while piece := await body.read():
            data += piece
        if request.path == "/waits":
            self.waits.set()
            await self.go_on.wait()
        return Answer(200, "text/plain", data, (("X-More", "1"),))

    def refuse(self, request: Request | None, error: RequestError) -> Answer:
        return Answer(error.status, "text/plain", str(error).encode())

    def turned_away(self, reason: str, why: str) -> None:
        self.away.append(reason)

    def connections_changed(self, count: int) -> None:
        self.count = count


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, path: str, body: bytes = b"", *headers: str) -> None:
        lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
        self.send("\r\n".join(lines).encode() + body)

    async def answer(self) -> tuple[int, bytes, dict[str, str]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
        return int(head[0].split()[1]), await self.reader.readexactly(int(headers["content-length"])), headers

    async def end(self) -> bytes:
        return await self.reader.read()


@pytest.fixture
async def serve() -> AsyncIterator[Callable]:
    """Start servers; `connect` opens a client of the last."""
    async with contextlib.AsyncExitStack() as stack:
        servers: list[HttpServer] = []

        async def start(handler: Echo, **changes: object) -> HttpServer:
            limits = {key: changes.pop(key) for key in list(changes) if key in LIMITS._fields}
            server = HttpServer(handler, address="127.0.0.1:0", limits=LIMITS._replace(**limits), name="t", **changes)
            task = asyncio.create_task(server.serve(stop_s=20.0))
            servers.append(server)
            server.task = task
            await server.listening.wait()

            async def stop() -> None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

            stack.push_async_callback(stop)
            return server

        async def connect(**options: object) -> Client:
            reader, writer = await asyncio.open_connection(*servers[-1].address, **options)
            stack.callback(lambda: writer.transport.abort())
            return Client(reader, writer)

        start.connect = connect
        yield start


async def test_many_requests_come_over_one_connection(serve) -> None:
    """By length and in chunks, in one piece or byte by byte."""
    await serve(Echo())
    client = await serve.connect()
    for number in range(3):
        client.post("/a", b"x" * number)
        status, body, headers = await client.answer()
        assert (status, body, headers["x-more"], "connection" in headers) == (200, b"x" * number, "1", False)
    for byte in b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n":
        client.send(bytes([byte]))
        await client.writer.drain()
    assert (await client.answer())[:2] == (200, b"abc")
    client.post("/a", b"one")
    client.post("/a", b"two", "Connection: close")
    assert [(await client.answer())[1] for _ in range(2)] == [b"one", b"two"]
    assert await client.end() == b""


@pytest.mark.parametrize(
    ("said", "answers"),
    [
        (b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 900 + b"0\r\n\r\n", 1),
        (b"POST /no HTTP/1.1\r\nHost: x\r\n\r\n" * 900, 900),
    ],
)
async def test_others_have_their_turn_between_small_pieces(serve, said: bytes, answers: int) -> None:
    """However many have come at once: a buffer of chunks of a byte, or of requests, would be seconds for all others."""
    await serve(Echo())
    client = await serve.connect()
    turns, is_over = 0, False

    async def others() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    client.send(said)
    for _ in range(answers):
        assert (await client.answer())[0] in {200, 404}
    is_over = True
    await task
    assert turns > 800


async def test_a_client_may_wait_for_a_word(serve) -> None:
    """Before it sends its body: the word comes where it is wanted, and a no comes at once."""
    await serve(Echo())
    client = await serve.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"ok")
    assert (await client.answer())[1] == b"ok"
    client.send(b"POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    status, _, headers = await client.answer()
    assert (status, headers["connection"]) == (404, "close")


@pytest.mark.parametrize("path", ["/no", "/early", "/unread"])
async def test_a_body_that_nobody_wants_is_read_past(serve, path: str) -> None:
    """The next request follows on the same connection."""
    await serve(Echo())
    client = await serve.connect()
    client.post(path, b"x" * 900)
    assert (await client.answer())[0] in {404, 204, 200}
    client.post("/a", b"next")
    assert (await client.answer())[1] == b"next"


async def test_what_is_no_request_is_said_and_ends_the_connection(serve) -> None:
    """A head that is none, one that is too large, a body that is, one that is no chunk."""
    handler = Echo()
    await serve(handler)
    for data, status in (
        (b"what\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001, 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n", 400),
    ):
        client = await serve.connect()
        client.send(data)
        found, _, headers = await client.answer()
        assert (found, headers["connection"]) == (status, "close")
        client.writer.write_eof()
        assert await client.end() == b""
    assert handler.away == []


async def test_who_is_refused_hears_it_while_it_is_still_sending(serve) -> None:
    """Megabytes behind the refusal are read past for a while; a reset would cost the client the answer."""
    await serve(Echo())
    client = await serve.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n")
    for _ in range(40):
        client.send(bytes(100_000))
        await client.writer.drain()
    assert (await client.answer())[0] == 413


async def test_a_mistake_of_ours_is_an_answer(serve, caplog) -> None:
    """And goes to the log; the connection goes on."""
    await serve(Echo())
    client = await serve.connect()
    client.post("/fails", b"x")
    assert (await client.answer())[:2] == (500, b"the gateway could not take it; its log tells why")
    assert "KeyError" in caplog.text
    client.post("/a", b"y")
    assert (await client.answer())[1] == b"y"


async def test_who_goes_away_in_the_middle_is_counted(serve) -> None:
    """Of a head or of a body; who goes between two requests is not."""
    handler = Echo()
    server = await serve(handler)
    for data in (b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123", b""):
        client = await serve.connect()
        client.send(data)
        client.writer.close()
        await client.writer.wait_closed()
        while server.connections:
            await asyncio.sleep(0)
    assert handler.away == ["cut", "cut"]


async def test_who_says_nothing_is_not_waited_for(serve) -> None:
    """A head that does not come, a connection that is not used, a body that drips."""
    await serve(Echo(), request_s=0.5, idle_s=0.5)
    silent, idle, slow = [await serve.connect() for _ in range(3)]
    idle.post("/a")
    assert (await idle.answer())[0] == 200
    slow.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123")
    assert (await slow.answer())[0] == 408
    assert await silent.end() == await idle.end() == b""


async def test_idle_connections_make_room(serve) -> None:
    """The longest idle first; where all are busy the new one is sent away."""
    handler = Echo()
    server = await serve(handler, connections_max=2)
    first, second = await serve.connect(), await serve.connect()
    for client in (first, second):
        client.post("/a")
        await client.answer()
    third = await serve.connect()
    third.post("/waits")
    await handler.waits.wait()
    assert await first.end() == b""
    handler.waits.clear()
    second.post("/waits")
    await handler.waits.wait()
    fourth = await serve.connect()
    with contextlib.suppress(ConnectionResetError):
        assert await fourth.end() == b""
    assert (handler.away, server.connections, handler.count) == (["connections_max"] * 2, 2, 2)
    handler.go_on.set()
    assert (await third.answer())[0] == (await second.answer())[0] == 200


async def test_who_is_not_let_in_yet_makes_room(serve) -> None:
    """Whoever shows a wrong token waits for its answer, and must not keep out those who have the right one."""
    handler = Echo()
    server = await serve(handler, connections_max=2)
    guessers = [await serve.connect() for _ in range(2)]
    for guesser in guessers:
        handler.waits.clear()
        guesser.post("/guess")
        await handler.waits.wait()
    honest = [await serve.connect() for _ in range(2)]
    for client in honest:
        client.post("/a", b"data")
        assert (await client.answer())[0] == 200
    assert [await guesser.end() for guesser in guessers] == [b""] * 2
    assert (handler.away, server.connections) == (["connections_max"] * 2, 2)


@pytest.mark.parametrize(
    "said", [b"garbage\r\n\r\n", b"POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"x" * 20_000]
)
async def test_who_was_refused_makes_room(serve, said: bytes) -> None:
    """Whoever has had its answer, and stays or owes the rest of what it was refused for, must not keep out others."""
    handler = Echo()
    await serve(handler, connections_max=2)
    refused = [await serve.connect() for _ in range(2)]
    for client in refused:
        client.send(said)
        assert (await client.answer())[0] >= 400
    for _ in range(3):
        honest = await serve.connect()
        honest.post("/a", b"data")
        assert (await honest.answer())[0] == 200


async def test_the_end_answers_what_is_under_way(serve) -> None:
    """And tells the client that nothing follows; idle connections are closed at once."""
    handler = Echo()
    server = await serve(handler)
    idle, busy = await serve.connect(), await serve.connect()
    busy.post("/waits", b"x")
    await handler.waits.wait()
    server.task.cancel()
    assert await idle.end() == b""
    handler.go_on.set()
    status, body, headers = await busy.answer()
    assert (status, body, headers["connection"]) == (200, b"x", "close")
    with pytest.raises(asyncio.CancelledError):
        await server.task
    with pytest.raises(OSError):
        await serve.connect()


async def test_the_end_does_not_wait_for_ever(serve) -> None:
    """For a request that is not answered."""
    handler = Echo()
    server = HttpServer(handler, address="127.0.0.1:0", limits=LIMITS)
    task = asyncio.create_task(server.serve(stop_s=0.01))
    await server.listening.wait()
    reader, writer = await asyncio.open_connection(*server.address)
    client = Client(reader, writer)
    client.post("/waits")
    await handler.waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await client.end() == b""
    writer.close()


async def test_an_answer_that_nobody_reads_is_not_waited_for(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that only sends."""

    class Large(Echo):
        async def answer(self, request: Request, body: Body) -> Answer:
            return Answer(200, "text/plain", bytes(30 << 20))

    monkeypatch.setattr(http_server, "LINGER_S", 0.01)
    server = await serve(Large(), request_s=0.05)
    client = await serve.connect(limit=1)
    client.post("/a")
    while not server.connections:
        await asyncio.sleep(0)
    while server.connections:
        await asyncio.sleep(0.01)


async def test_over_tls(serve, tmp_path) -> None:
    """The handler knows whether the client has shown a certificate; a handshake that fails is counted."""
    from hil.certificates import Authority

    authority = Authority(tmp_path)
    server_side, client_side = authority.issue("127.0.0.1"), authority.issue("device")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_side.certificate, server_side.key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    handler = Echo()
    server = await serve(handler, tls=context)
    for shows in (False, True):
        trust = ssl.create_default_context(cafile=str(authority.certificate))
        trust.check_hostname = False
        if shows:
            trust.load_cert_chain(client_side.certificate, client_side.key)
        client = await serve.connect(ssl=trust)
        client.post("/a", b"secret", "Connection: close")
        assert (await client.answer())[1] == b"secret"
        assert handler.seen[-1].has_certificate is shows
    plain = await serve.connect()
    plain.post("/a")
    with contextlib.suppress(ConnectionResetError):
        await plain.end()
    while server.connections:
        await asyncio.sleep(0)
    assert handler.away == ["tls_failed"]
