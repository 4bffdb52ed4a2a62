"""The rig for NATS shows what a stream holds, survives a kill at its port, and says why where it cannot be."""

from __future__ import annotations

import pytest

from hil import nats_server
from hil.nats_server import why_no_nats


def test_a_stream_is_made_filled_and_read(make_nats) -> None:
    """Over a kill, which takes nothing that was answered."""
    server = make_nats()
    server.make_stream("S", "a.>")
    with server.client() as client:
        assert client.ask("a.b", {"n": 1})["seq"] == 1
        with pytest.raises(OSError, match="503"):
            client.ask("nobody")
    port = server.port
    server.kill()
    server.start()
    assert server.port == port
    (message,) = server.stored("S")
    assert (message.sequence, message.subject, message.headers, message.data) == (1, "a.b", {}, b'{"n": 1}')
    server.stop()


def test_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is named."""
    monkeypatch.setattr(nats_server, "find_tool", lambda _: None)
    assert "apt-get install nats-server" in why_no_nats()
