"""A port that nobody listens on, for the demo and the benchmark. Must not be used where a fixed port is meant."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a TCP port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
