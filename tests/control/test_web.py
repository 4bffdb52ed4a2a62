"""The window over HTTP, asked over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from gateway.control.settings import ControlSettings
from gateway.control.web import ControlServer, check_head
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Size
from gateway.net.addresses import names_this_machine
from gateway.net.secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Window:
    """A server on a free port and what it is told."""

    server: ControlServer
    telemetry: Telemetry
    task: asyncio.Task[None]
    says: dict[str, object] = field(default_factory=lambda: {"healthy": True, "ready": True, "status": {"accepted": 5}})

    async def trace(self, asked: Mapping[str, str]) -> dict[str, object]:
        self.says["asked"] = dict(asked)
        if asked.get("topic") == "bad":
            raise ValueError("that is no filter")
        return {"asked": dict(asked)}

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        return await asyncio.to_thread(self._ask, path, method, headers)

    def _ask(self, path: str, method: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode()

    async def send(self, data: bytes) -> bytes:
        """Send raw bytes; return all that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 60)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    def refused(self, reason: str) -> float:
        return self.telemetry.value("tidegate_control_refused", reason=reason)


async def stopped(window: Window, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stop the server as the gateway does; whoever is connected is hung up on."""
    window.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await window.task
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 60) == b""
    writer.close()


@pytest.fixture
async def open_window():
    windows: list[Window] = []

    async def open_one(why_not=str, **changes) -> Window:
        telemetry = Telemetry()
        window: list[Window] = []

        def says(what: str):
            value = window[0].says[what]
            if isinstance(value, Exception):
                raise value
            return value

        settings = ControlSettings(**{"listen": "127.0.0.1:0"} | changes)
        server = ControlServer(
            settings,
            status=lambda: says("status"),
            telemetry=telemetry,
            healthy=lambda: says("healthy"),
            ready=lambda: says("ready"),
            trace=lambda asked: window[0].trace(asked),
            why_not=why_not,
        )
        window.append(Window(server, telemetry, asyncio.create_task(server.run())))
        windows.extend(window)
        await asyncio.wait_for(server.started.wait(), 60)
        return window[0]

    yield open_one
    for window in windows:
        window.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await window.task


async def test_the_index_names_the_pages(open_window) -> None:
    """For who comes with a browser."""
    window = await open_window()
    status, headers, body = await window.ask("/")
    assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert body.startswith("tidegate ")
    for line in body.splitlines()[1:]:
        assert (await window.ask(line.split()[0]))[0] == 200


async def test_open_connections_are_no_trouble_at_the_end(open_window, caplog) -> None:
    """Whoever has not asked yet is hung up on, and the log has nothing to say of it."""
    window = await open_window()
    reader, writer = await asyncio.open_connection("127.0.0.1", window.server.port)
    writer.write(b"GET /status")
    while not window.server._connections:
        await asyncio.sleep(0)
    await stopped(window, reader, writer)
    assert not window.server._connections
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_health_follows_the_data_path(open_window) -> None:
    """503 when it does not move."""
    window = await open_window()
    assert await _status_and_body(window, "/healthz") == (200, "ok\n")
    window.says["healthy"] = False
    assert await _status_and_body(window, "/healthz") == (503, "the data path does not move\n")


async def test_what_keeps_the_data_path_from_moving_is_said(open_window, monkeypatch) -> None:
    """On both pages that monitoring reads; but not to everybody where a token is needed for more."""
    window = await open_window(why_not=lambda: "the disk is read-only")
    window.says |= {"healthy": False, "ready": False}
    for page in ("/healthz", "/readyz"):
        assert await _status_and_body(window, page) == (503, "the disk is read-only\n")
    monkeypatch.setenv("CONTROL_TOKEN", "secret")
    window = await open_window(why_not=lambda: "the disk is read-only", token=Secret(env="CONTROL_TOKEN"))
    window.says |= {"healthy": False, "ready": False}
    assert await _status_and_body(window, "/healthz") == (503, "the data path does not move\n")
    assert await _status_and_body(window, "/readyz") == (
        503,
        "not all sources are open; `tidegate status` says which\n",
    )


async def test_readiness_follows_the_doors(open_window) -> None:
    """503 while they are closed."""
    window = await open_window()
    assert await _status_and_body(window, "/readyz") == (200, "ready\n")
    window.says["ready"] = False
    assert await _status_and_body(window, "/readyz") == (
        503,
        "not all sources are open; `tidegate status` says which\n",
    )


async def test_status_is_json(open_window) -> None:
    """What the gateway says of itself, unchanged."""
    window = await open_window()
    status, headers, body = await window.ask("/status")
    assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", {"accepted": 5})


async def test_a_trace_is_asked_for_by_a_query(open_window) -> None:
    """The one page that takes one; a bad question is told what is wrong with it."""
    window = await open_window()
    status, headers, body = await window.ask("/trace?topic=plant%2F%2B%2Fx&count=3")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {"asked": {"topic": "plant/+/x", "count": "3"}}
    assert await _status_and_body(window, "/trace?topic=bad") == (400, "that is no filter\n")


@pytest.mark.parametrize("query", ["topic=%zz", "topic=%", "topic=a b", "topic=%ff", "topic='", "a=1?b"])
async def test_a_query_that_is_none_is_not_read(open_window, capfd, query: str) -> None:
    """Nor is it an error of ours that somebody should look at."""
    window = await open_window()
    answer = await window.send(f"GET /trace?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert capfd.readouterr().err == ""
    assert answer.split(b" ")[1] in {b"200", b"400"}
    assert window.says.get("asked", {}) == {}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"origin": "https://evil.example", "sec-fetch-site": "same-origin"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ],
)
async def test_other_sites_pages_begin_no_trace(open_window, headers, status) -> None:
    """A browser sends their requests, answered or not; the pages that only show are left to its own rules."""
    window = await open_window()
    code, _, body = await window.ask("/trace?topic=a", **headers)
    assert code == status
    assert ("asked" in window.says) == (status == 200)
    assert (body == "another site's page may not begin a trace\n") == (status == 403)
    assert window.refused("status 403") == (status == 403)
    assert (await window.ask("/status", **headers))[0] == 200
    own = f"http://127.0.0.1:{window.server.port}"
    assert (await window.ask("/trace?topic=a", Origin=own))[0] == 200


async def test_a_trace_needs_the_token(open_window, tmp_path) -> None:
    """It shows what devices send: nothing for who may not see the status."""
    (tmp_path / "token").write_text("secret")
    window = await open_window(token=Secret(file=str(tmp_path / "token")))
    assert (await window.ask("/trace?topic=a"))[0] == 401
    assert (await window.ask("/trace?topic=a", Authorization="Bearer secret"))[0] == 200


async def test_metrics_are_prometheus_text(open_window) -> None:
    """With the version that scrapers look for."""
    window = await open_window()
    window.telemetry.count("tidegate_x", 3)
    status, headers, body = await window.ask("/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "tidegate_x_total 3.0" in body


async def test_head_answers_without_a_body(open_window) -> None:
    """For load balancers."""
    window = await open_window()
    status, _, body = await window.ask("/healthz", "HEAD")
    assert (status, body) == (200, "")


async def test_there_is_nothing_to_change_here(open_window) -> None:
    """Other methods and other pages are answered, not served."""
    window = await open_window()
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await window.ask("/status", method))[0] == 405
    assert (await window.ask("/nothing"))[0] == 404
    assert (await window.ask("/../../etc/passwd"))[0] == 404


async def test_a_status_that_fails_is_a_500_and_a_line_in_the_log(open_window, caplog) -> None:
    """The page is down, the window is not."""
    window = await open_window()
    window.says["status"] = RuntimeError("no shelf")
    status, _, body = await window.ask("/status")
    assert (status, body) == (500, "the gateway could not say; its log tells why\n")
    assert "no shelf" in caplog.text
    assert (await window.ask("/healthz"))[0] == 200


async def test_a_token_opens_what_tells_about_the_plant(open_window, monkeypatch) -> None:
    """Health needs none; a wrong or missing one is 401, counted."""
    monkeypatch.setenv("TOKEN", "geheim")
    window = await open_window(token=Secret(env="TOKEN"))
    for path in ("/", "/status", "/metrics"):
        assert (await window.ask(path))[0] == 401
        assert (await window.ask(path, authorization="Bearer nein"))[0] == 401
        assert (await window.ask(path, authorization="Bearer geheim", host="gw.example"))[0] == 200
    assert (await window.ask("/healthz"))[0] == 200
    assert (await window.ask("/readyz"))[0] == 200
    assert window.refused("status 401") == 6


async def test_a_page_of_another_site_cannot_ask(open_window) -> None:
    """A name that was made to point at loopback is not an address of this machine."""
    window = await open_window()
    assert (await window.ask("/status", host="evil.example"))[0] == 421
    assert (await window.ask("/status", host=f"localhost:{window.server.port}"))[0] == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: empty\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nfolded: a\r\n b: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbare: a\nb: c\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /\tx HTTP/1.1\r\n\r\n", 400),
        (b" / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 3000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 2043 + b"\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\ncookie: =;;a\r\n\r\n", 200),
        (b"GET /?%zz HTTP/1.1\r\n\r\n", 200),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"POST /status HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello", 413),
        (b"POST /status HTTP/1.1\r\ncontent-length: many\r\n\r\n", 413),
        (b"POST /status HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"a" * 20_000, 431),
        (b"GET / HTTP/1.0\r\ncontent-length: 0\r\n\r\n", 200),
    ],
)
async def test_odd_requests_are_answered(open_window, capsys, data: bytes, status: int) -> None:
    """One status each, counted, nothing printed, and the next one is served."""
    window = await open_window()
    answer = await window.send(data)
    assert answer.startswith(f"HTTP/1.0 {status} ".encode())
    assert window.refused(f"status {status}") == (status != 200)
    assert capsys.readouterr() == ("", "")
    assert (await window.ask("/healthz"))[0] == 200


async def test_what_follows_a_question_mark_is_not_read(open_window, capsys) -> None:
    """Pages have no options; and odd ones were a traceback in the log for each request."""
    window = await open_window()
    assert (await window.ask("/healthz?%zz&a=%"))[0] == 200
    assert (await window.ask("/%zz?a?%zz"))[0] == 404
    assert capsys.readouterr() == ("", "")


async def test_half_a_request_is_answered(open_window) -> None:
    """A client that stops in the middle and closes its side."""
    window = await open_window()
    reader, writer = await asyncio.open_connection("127.0.0.1", window.server.port)
    writer.write(b"GET / HT")
    writer.write_eof()
    assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
    writer.close()


async def test_a_client_that_says_nothing_is_dropped(open_window) -> None:
    """After the timeout, counted."""
    window = await open_window(timeout=Duration(0.05))
    assert await window.send(b"") == b""
    assert window.refused("timeout") == 1


async def test_a_client_that_does_not_read_is_dropped(open_window) -> None:
    """A large answer into a full pipe ends after the timeout."""
    window = await open_window(timeout=Duration(1))
    window.says["status"] = {"long": "x" * 30_000_000}
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", window.server.port))
        client.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(60):
            while not window.refused("timeout"):
                await asyncio.sleep(0.01)
    assert (await window.ask("/healthz"))[0] == 200


async def test_connections_are_bounded(open_window) -> None:
    """One too many is turned away and counted while all are being answered; when one leaves there is room."""
    window = await open_window(connections_max=2)
    answer = asyncio.Event()

    async def wait(_: object) -> dict[str, object]:
        await answer.wait()
        return {}

    window.trace = wait
    busy = [asyncio.create_task(window.ask("/trace")) for _ in range(2)]
    async with asyncio.timeout(60):
        while len(window.server._connections) < 2 or window.server._idle:
            await asyncio.sleep(0.01)
    assert await window.send(b"GET /healthz HTTP/1.0\r\n\r\n") == b""
    assert window.refused("connections") == 1
    answer.set()
    await asyncio.gather(*busy)
    async with asyncio.timeout(60):
        while window.server._connections:
            await asyncio.sleep(0.01)
    assert (await window.ask("/healthz"))[0] == 200


async def test_who_has_asked_is_heard_before_a_crowd_that_comes_behind(open_window) -> None:
    """However many connect at once: those who ask nothing made whoever asks make room, unheard."""
    window = await open_window(connections_max=2)
    address = ("127.0.0.1", window.server.port)
    with contextlib.ExitStack() as stack:
        asking = stack.enter_context(socket.create_connection(address, timeout=60))
        asking.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for _ in range(60):
            stack.enter_context(socket.create_connection(address, timeout=60))
        assert (await asyncio.to_thread(asking.recv, 100)).startswith(b"HTTP/1.0 200")


async def test_who_says_nothing_makes_room_for_who_asks(open_window) -> None:
    """The one that was there first; nobody can shut the window by connecting to it."""
    window = await open_window(connections_max=2)
    silent = [await asyncio.open_connection("127.0.0.1", window.server.port) for _ in range(2)]
    async with asyncio.timeout(60):
        while len(window.server._connections) < 2:
            await asyncio.sleep(0.01)
    assert (await window.ask("/healthz"))[0] == 200
    assert window.refused("connections") == 1
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(silent[0][0].read(), 60) == b""
    assert len(window.server._idle) <= 2
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize(
    ("path", "first"),
    [
        (b"/healthz", b"HTTP/1.0 200 OK"),
        (b"/nothing", b"HTTP/1.0 404 Not Found"),
    ],
)
async def test_a_status_stands_with_its_words(open_window, path: bytes, first: bytes) -> None:
    """For whoever reads it in curl."""
    window = await open_window()
    answer = await window.send(b"GET " + path + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert answer.split(b"\r\n")[0] == first


async def test_a_request_is_as_large_as_it_may_be(open_window) -> None:
    """More is refused while it comes."""
    window = await open_window(request_max=Size(500))
    for size, status in ((400, 200), (600, 431)):
        head = b"GET / HTTP/1.1\r\nx: "
        answer = await window.send(head + b"a" * (size - len(head) - 4) + b"\r\n\r\n")
        assert answer.startswith(f"HTTP/1.0 {status} ".encode())
    assert window.refused("status 431") == 1


async def test_cancelled_it_closes_and_drops_who_is_connected(open_window) -> None:
    """The port is free at once, no task is left."""
    window = await open_window()
    reader, writer = await asyncio.open_connection("127.0.0.1", window.server.port)
    async with asyncio.timeout(60):
        while not window.server._connections:
            await asyncio.sleep(0.01)
    await stopped(window, reader, writer)
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", window.server.port)
    assert not window.server.started.is_set()


async def test_a_taken_port_is_an_oserror(open_window) -> None:
    """Who runs it says so and tries again later."""
    window = await open_window()
    settings = ControlSettings(listen=f"127.0.0.1:{window.server.port}", request_max=Size(1024))
    second = ControlServer(settings, status=dict, telemetry=Telemetry(), healthy=bool, ready=bool, trace=window.trace)
    with pytest.raises(OSError):
        await second.run()


def test_addresses_are_told_from_names() -> None:
    """With port, without, IPv6 in brackets, left out."""
    good = ["127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80", "localhost", "localhost:1", ""]
    assert all(names_this_machine(host) for host in good)
    assert not any(names_this_machine(host) for host in ["evil.example", "evil.example:80", "1.evil", "a:b"])


def test_a_plain_head_has_no_problem() -> None:
    """As browsers send it."""
    assert check_head(b"GET / HTTP/1.1\r\nhost: a\r\naccept: */*\r\n\r\n") is None


async def _status_and_body(window: Window, path: str) -> tuple[int, str]:
    status, _, body = await window.ask(path)
    return status, body
