"""A request's head and body as they come: what is one, what is refused, and where it ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.http_requests import HEADERS_MAX, TRAILERS_MAX, Body, Request, RequestError, read_head

HOST = "Host: x\r\n"


def head(text: str) -> Request:
    return read_head(text.encode("latin-1"), peer="p")


def test_a_head_is_read() -> None:
    """Names in lower case, values without the space around them, a path without its query."""
    found = head(
        f"POST /v1/logs?x=1 HTTP/1.1\r\n{HOST}Content-Type:  a/b \r\nX: 1\r\nx: 2\r\nContent-Length: 5\r\n\r\n"
    )
    assert (found.method, found.path, found.length) == ("POST", "/v1/logs", 5)
    assert found.headers == {"host": "x", "content-type": "a/b", "x": "1, 2", "content-length": "5"}
    assert (found.is_kept, found.expects_continue) == (True, False)


def test_who_goes_on_and_who_waits() -> None:
    """HTTP/1.0 does neither."""
    new = head(f"POST / HTTP/1.1\r\n{HOST}Connection: x, Close\r\nExpect: 100-Continue\r\n\r\n")
    old = head("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n")
    chunked = head(f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n")
    assert [(one.is_kept, one.expects_continue, one.length) for one in (new, old, chunked)] == [
        (False, True, 0),
        (False, False, 0),
        (True, False, None),
    ]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("\xff / HTTP/1.1\r\n\r\n", 400),
        ("POST /\r\n\r\n", 400),
        ("POST  / HTTP/1.1\r\n\r\n", 400),
        ("PO(ST / HTTP/1.1\r\n\r\n", 400),
        ("POST http://x/ HTTP/1.1\r\n\r\n", 400),
        ("POST / HTTP/2.0\r\n\r\n", 400),
        ("POST /\x01 HTTP/1.1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}{HOST}\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST} folded: 1\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}name : 1\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}no colon\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}x: a\nb: c\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}x: \0\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: -5\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: +5\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: {'9' * 20}\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (f"POST / HTTP/1.1\r\n{HOST}" + "x: y\r\n" * HEADERS_MAX + "\r\n", 431),
    ],
)
def test_a_head_that_is_none_is_refused(text: str, status: int) -> None:
    """Whatever two readers might take for two different requests; nobody knows where the next one begins."""
    with pytest.raises(RequestError) as caught:
        head(text)
    assert (caught.value.status, caught.value.is_end) == (status, True)


@given(st.binary(max_size=80))
def test_any_head_is_read_or_refused(data: bytes) -> None:
    """Nothing but RequestError."""
    for start in (b"", b"POST / HTTP/1.1\r\nHost: x\r\n"):
        try:
            read_head(start + data + b"\r\n\r\n", peer="p")
        except RequestError:
            continue


def body_of(data: bytes, *, length: int | None, bytes_max: int = 10_000, ends: bool = True) -> Body:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    if ends:
        reader.feed_eof()
    body = Body(reader, bytes_max=bytes_max, within_s=0.01)
    framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
    body.begin(Request("POST", "/", framing, "p"))
    body.begin_time()
    return body


async def read_all(body: Body) -> bytes:
    found = b""
    while piece := await body.read():
        found += piece
    assert await body.read() == b""
    return found


async def test_a_body_of_known_length_ends_there() -> None:
    """What follows is the next request's."""
    body = body_of(b"hello next", length=5)
    assert await read_all(body) == b"hello"
    assert (await body._reader.read(), body.is_lost) == (b" next", False)
    assert await read_all(body_of(b"next", length=0)) == b""


async def test_chunks_are_put_together() -> None:
    """Extensions and what follows the last one are read past."""
    body = body_of(b"5\r\nhello\r\n1;x=y\r\n \r\n0A \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nnext", length=None)
    assert await read_all(body) == b"hello 0123456789"
    assert (await body._reader.read(), body.is_lost) == (b"next", False)


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\nhello\r\n",
        b"\r\n",
        b"-5\r\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"f" * 13 + b"\r\n",
        b"5;" + b"x" * 2000 + b"\r\nhello\r\n",
        b"0\r\n" + b"T: x\r\n" * (TRAILERS_MAX + 1) + b"\r\n",
        b"0\r\n" + b"x" * 2000 + b"\r\n\r\n",
        b"5" * 70_000,
    ],
)
async def test_chunks_that_are_none_are_refused(data: bytes) -> None:
    """And with them all that follows."""
    body = body_of(data, length=None)
    with pytest.raises(RequestError, match="a chunk that is none"):
        await read_all(body)
    assert body.is_lost


@pytest.mark.parametrize("data", [b"", b"5\r\nhel", b"5\r\nhello\r\n", b"5\r\nhello", b"5", b"0\r\n"])
async def test_a_body_that_is_cut_is_none(data: bytes) -> None:
    """In chunks or not."""
    body = body_of(data, length=None)
    with pytest.raises(asyncio.IncompleteReadError):
        await read_all(body)
    assert body.is_lost
    with pytest.raises(asyncio.IncompleteReadError):
        await read_all(body_of(data, length=100))


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    """Where it says so; else as soon as it is."""
    with pytest.raises(RequestError, match="more than 10 bytes"):
        body_of(b"", length=11, bytes_max=10)
    body = body_of(b"a\r\n0123456789\r\n1\r\n0\r\n0\r\n\r\n", length=None, bytes_max=10)
    assert await body.read() == b"0123456789"
    with pytest.raises(RequestError) as caught:
        await body.read()
    assert (caught.value.status, body.is_lost) == (413, True)


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """However slowly it drips."""
    for length in (5, None):
        body = body_of(b"1", length=length, ends=False)
        with pytest.raises(RequestError) as caught:
            await read_all(body)
        assert (caught.value.status, body.is_lost) == (408, True)


async def test_a_body_may_be_given_up_while_it_is_waited_for() -> None:
    """Or before that."""
    for waits in (True, False):
        body = body_of(b"", length=5, ends=False)
        body._until_s = asyncio.get_running_loop().time() + 60
        task = asyncio.create_task(body.read())
        if waits:
            await asyncio.sleep(0)
        body.give_up()
        with pytest.raises(RequestError, match="made room for others") as caught:
            await task
        assert (caught.value.status, caught.value.after_s, body.is_lost) == (503, 1.0, True)


@given(st.binary(max_size=60))
def test_any_chunks_end_or_are_refused(data: bytes) -> None:
    """Nothing but these."""

    async def read() -> None:
        try:
            await read_all(body_of(data, length=None, bytes_max=100))
        except (RequestError, asyncio.IncompleteReadError):
            return

    asyncio.run(read())
