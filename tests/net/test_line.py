"""A line by itself: what it costs, and how it comes about. How it is spoken over stands in test_http and test_http2."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from gateway.net.deadline import Deadline
from gateway.net.line import Address, ConnectError, ConnectTimeoutError, Line, ProxyRefusedError, reason


class Tunnelled(Line):
    """One whose far side is to be spoken to directly."""

    is_tunnelled = True


def serve_once(answer: bytes) -> tuple[socket.socket, list[bytes]]:
    """Answer the first words of one connection."""
    listener, heard = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def run() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(1000))
                connection.sendall(answer)
                connection.recv(1)

    threading.Thread(target=run, daemon=True).start()
    return listener, heard


def test_a_proxy_is_asked_for_a_tunnel_where_one_is_wanted() -> None:
    """Though there is no TLS; the far side's name is the proxy's to resolve."""
    listener, heard = serve_once(b"HTTP/1.1 200 go\r\n\r\n")
    with listener:
        line = Tunnelled(to=Address("far.example", 4317), timeout_s=5.0, proxy=Address(*listener.getsockname()))
        line._connect(Deadline.after(5))
        assert line.is_open
        line.close()
    assert heard == [b"CONNECT far.example:4317 HTTP/1.1\r\nHost: far.example:4317\r\n\r\n"]
    assert line.wire_bytes > len(heard[0])


@pytest.mark.parametrize(
    ("answer", "error", "within_s"),
    [(b"HTTP/1.1 403 no\r\n\r\n", ProxyRefusedError, 20.0), (b"", ConnectTimeoutError, 0.2)],
)
def test_a_proxy_that_opens_none_is_said(answer: bytes, error: type[Exception], within_s: float) -> None:
    """By its status, or by its silence."""
    listener, _ = serve_once(answer)
    with listener:
        line = Tunnelled(to=Address("far.example", 4317), timeout_s=within_s, proxy=Address(*listener.getsockname()))
        with pytest.raises(error):
            line._connect(Deadline.after(within_s))
        line.close()


def test_addresses_and_reasons() -> None:
    """As they stand in headers and sentences."""
    assert str(Address.of("http://[::1]:4317")) == "[::1]:4317"
    assert reason(ValueError()) == "ValueError"


def test_it_leaves_by_the_device_that_is_given() -> None:
    """By the loopback it gets there; by one that is not there it gets nowhere, and that is said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        to = Address(*listener.getsockname())
        line = Line(to=to, timeout_s=5, device="lo")
        try:
            line._connect(Deadline.after(5))
        except ConnectError as error:
            pytest.skip(f"this kernel lets nobody but root bind to a device ({error})")
        line.close()
        with pytest.raises(ConnectError, match="No such device"):
            Line(to=to, timeout_s=5, device="wwan9nothere")._connect(Deadline.after(5))
