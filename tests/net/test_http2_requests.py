"""Requests of HTTP/2 by themselves; how they come stands in test_http2_server."""

from __future__ import annotations

import asyncio

import pytest

from gateway.net.http2_requests import StreamBody, request_of
from gateway.net.http_requests import RequestError


async def test_a_body_that_makes_room_while_it_is_waited_for() -> None:
    """Its wait ends at once."""
    body = StreamBody(bytes_max=10, within_s=60.0, taken=lambda _: None)
    body.begin_time()
    task = asyncio.create_task(body.read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    body.give_up()
    with pytest.raises(RequestError, match="made room"):
        await task


async def test_a_body_gives_the_window_back_as_it_is_read() -> None:
    """And all of it where nobody wants it any more; what is empty is nothing."""
    freed: list[int] = []
    body = StreamBody(bytes_max=10, within_s=60.0, taken=freed.append)
    body.put(b"", 5)
    body.put(b"ab", 4)
    body.put(b"c", 1)
    assert (await body.read(), freed) == (b"abc", [5, 5])
    body.put(b"d", 1)
    body.leave()
    body.put(b"e", 2)
    assert freed == [5, 5, 1, 2]
    body.end()
    assert (body.is_whole, await body.read()) == (True, b"")


async def test_a_body_that_comes_no_more_is_not_whole() -> None:
    """What came of it is read first."""
    body = StreamBody(bytes_max=2, within_s=60.0, taken=lambda _: None)
    body.put(b"ab", 2)
    body.lose()
    assert await body.read() == b"ab"
    with pytest.raises(asyncio.IncompleteReadError):
        await body.read()


def test_a_head_is_one_request() -> None:
    """Names of gRPC's metadata and values are text; what is said twice is a list; what cannot be printed is none."""
    head = [(b":method", b"POST"), (":path", "/a?b"), (":scheme", "http"), ("host", "h"), ("x", "1"), ("x", "2")]
    request = request_of(head, peer="p", has_certificate=True)
    assert (request.method, request.path, request.headers) == ("POST", "/a", {"host": "h", "x": "1, 2"})
    assert (request.peer, request.has_certificate) == ("p", True)
    for wrong, reason in (([("x", "a\nb")], "bad_request"), ([(f"h{k}", "") for k in range(70)], "head_too_large")):
        with pytest.raises(RequestError) as caught:
            request_of(wrong, peer="p", has_certificate=False)
        assert caught.value.reason == reason
