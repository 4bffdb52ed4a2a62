"""A running gateway is asked for its pages, and what answers something else is told from one."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from gateway.control.asking import fetch_status
from hil.web_page import answering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATUS = {"gateway": "site-7", "version": "0.1.0", "healthy": True, "accepted": 12345}


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], str]]:
    """Answer every request with one status and body; return the URL."""
    with contextlib.ExitStack() as servers:
        yield lambda code, body: servers.enter_context(answering(lambda token: (code, body + token.encode())))


def test_the_status_is_fetched(serve: Callable[[int, bytes], str]) -> None:
    """JSON from /status."""
    assert fetch_status(serve(200, json.dumps(STATUS).encode()), token="", timeout_s=60) == STATUS


@pytest.mark.parametrize(("code", "body"), [(500, b"{}"), (200, b"[]"), (200, b"{}"), (200, b"<html>"), (400, b"")])
def test_what_is_no_gateway_is_a_value_error(serve: Callable[[int, bytes], str], code: int, body: bytes) -> None:
    """Another program on that port."""
    with pytest.raises(ValueError):
        fetch_status(serve(code, body), token="", timeout_s=60)


def test_a_token_is_sent(serve: Callable[[int, bytes], str]) -> None:
    """As a bearer token; this server adds it to its answer, which then is no JSON."""
    with pytest.raises(ValueError):
        fetch_status(serve(200, b"{}"), token="secret", timeout_s=60)


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "127.0.0.1:8181", "http://", "http://here:port"])
def test_a_url_that_is_none(url: str) -> None:
    """Says what it should be."""
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        fetch_status(url, token="", timeout_s=1)


def test_a_missing_token_is_told_apart(serve: Callable[[int, bytes], str]) -> None:
    """It is not that nobody is there."""
    with pytest.raises(ValueError, match="-c FILE"):
        fetch_status(serve(401, b""), token="", timeout_s=60)
    with pytest.raises(ValueError, match="it wants another token than this configuration's"):
        fetch_status(serve(401, b""), token="old", timeout_s=60)


def test_what_does_not_speak_http_is_a_value_error() -> None:
    """An MQTT port, say."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer, contextlib.suppress(OSError):
                peer.sendall(b"\x20\x02\x00\x00\r\n\r\n")
                peer.recv(1000)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ValueError, match="not a gateway"):
            fetch_status(f"http://127.0.0.1:{server.getsockname()[1]}", token="", timeout_s=60)
