"""Free ports."""

from __future__ import annotations

import socket

from gateway.net.ports import free_port


def test_a_free_port_can_be_listened_on() -> None:
    """At once, and by us."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
