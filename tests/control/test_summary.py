"""`tidegate status` for people."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from gateway.control.summary import BOLD, fetch_status, render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATUS: dict[str, Any] = {
    "gateway": "site-7",
    "version": "0.1.0",
    "healthy": True,
    "uptime_s": 120.0,
    "hw_profile": "pi-4",
    "accepted": 12345,
    "store": {"used_bytes": 2048, "max_bytes": 4096},
    "events": ["salvaged tidegate.db"],
    "sources": {"direct": {"state": "listening", "clients": 3, "last_error": ""}},
    "uplinks": {
        "cloud": {
            "state": "waiting",
            "delivered": 12000,
            "held": 340,
            "ledger": {"malformed": 5},
            "maybe_twice": 7,
            "last_error": "connection refused",
            "backlog_eta_s": 60,
        }
    },
}


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], str]]:
    """Answer every request with one status and body; return the URL."""
    servers: list[HTTPServer] = []

    def start(code: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body + self.headers.get("authorization", "").encode())

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_person_sees_what_is_held_lost_and_wrong() -> None:
    """Every number that decides anything is in the text, without colour codes when not on a terminal."""
    text = render(STATUS, colour=False)
    for part in (
        "site-7",
        "12,345",
        "held 340",
        "malformed 5",
        "connection refused",
        "salvaged",
        "2 KiB of 4 KiB",
        "1 min",
    ):
        assert part in text
    assert "\x1b" not in text
    assert BOLD in render(STATUS, colour=True)


def test_an_unhealthy_gateway_is_loud() -> None:
    """In capitals, since it may be read in a hurry."""
    assert "NOT healthy" in render({**STATUS, "healthy": False}, colour=False)


def test_the_status_is_fetched(serve: Callable[[int, bytes], str]) -> None:
    """JSON from /status."""
    assert fetch_status(serve(200, json.dumps(STATUS).encode()), token="", timeout_s=5) == STATUS


@pytest.mark.parametrize(("code", "body"), [(500, b"{}"), (200, b"[]"), (200, b"<html>")])
def test_what_is_no_gateway_is_a_value_error(serve: Callable[[int, bytes], str], code: int, body: bytes) -> None:
    """Another program on that port."""
    with pytest.raises(ValueError):
        fetch_status(serve(code, body), token="", timeout_s=5)


def test_a_token_is_sent(serve: Callable[[int, bytes], str]) -> None:
    """As a bearer token; this server adds it to its answer, which then is no JSON."""
    with pytest.raises(ValueError):
        fetch_status(serve(200, b"{}"), token="secret", timeout_s=5)


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "127.0.0.1:8181", "http://"])
def test_a_url_that_is_none(url: str) -> None:
    """Says what it should be."""
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        fetch_status(url, token="", timeout_s=1)
