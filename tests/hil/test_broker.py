"""The broker rig starts, refuses, remembers and forgets as it claims."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from hil.needs import NotHereError, find_tool, require_tool

if TYPE_CHECKING:
    from hil.broker import Broker


def connect_packet(user: str = "", password: str = "") -> bytes:
    """Return a CONNECT of MQTT 3.1.1, clean session, client id c."""
    flags = 0x02 | (0xC0 if user else 0)
    tail = b"\x00\x01c" + b"".join(
        len(text).to_bytes(2, "big") + text.encode() for text in ((user, password) if user else ())
    )
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + b"\x00\x0a" + tail
    return bytes([0x10, len(body)]) + body


def knock(broker: Broker, packet: bytes) -> bytes:
    """Return the broker's first answer."""
    with socket.create_connection(broker.address, timeout=60) as client:
        client.sendall(packet)
        return client.recv(4)


def test_it_takes_anonymous_clients(broker: Broker) -> None:
    """CONNACK 0."""
    assert knock(broker, connect_packet()) == b"\x20\x02\x00\x00"


def test_it_asks_for_a_password_when_told(make_broker) -> None:
    """CONNACK 5 without, 0 with."""
    broker = make_broker(users={"gateway": "secret"})
    assert knock(broker, connect_packet()) == b"\x20\x02\x00\x05"
    assert knock(broker, connect_packet("gateway", "wrong")) == b"\x20\x02\x00\x05"
    assert knock(broker, connect_packet("gateway", "secret")) == b"\x20\x02\x00\x00"


def test_it_comes_back_at_the_same_port(broker: Broker) -> None:
    """After a stop and after a kill."""
    port = broker.port
    broker.restart()
    broker.kill()
    with pytest.raises(ConnectionRefusedError):
        knock(broker, connect_packet())
    broker.start()
    assert broker.port == port
    assert knock(broker, connect_packet()) == b"\x20\x02\x00\x00"


def test_it_stops_though_it_has_only_begun(make_broker) -> None:
    """It forgets a signal that comes too early."""
    for _ in range(20):
        broker = make_broker()
        child = broker._child
        assert child is not None
        broker.stop()
        assert child.process.returncode == 0


def test_a_bad_option_shows_what_the_broker_says(make_broker) -> None:
    """The rig's error has mosquitto's own sentence."""
    with pytest.raises(OSError, match="nonsense"):
        make_broker(options=("nonsense 1",))


def test_a_missing_tool_names_its_package() -> None:
    """What to install stands in the reason."""
    assert find_tool("no-such-tool") is None
    with pytest.raises(NotHereError, match="apt-get install no-such-package"):
        require_tool("no-such-tool", package="no-such-package")
