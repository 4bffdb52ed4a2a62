"""A port that nobody listens on, for the demo and the benchmark. Must not be used where a fixed port is meant.

It is one that the kernel hands out to nobody by itself: until it is listened on, no program that only connects
somewhere can get it, nor can who knocks there in vain be given that very port and find himself.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from pathlib import Path
from typing import Final

FIRST: Final = 16_384
TRIES: Final = 100
# ip(7): the first and the last port that the kernel chooses for whoever asks for any.
KERNELS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a TCP port of the loopback that is free now."""
    for _ in range(TRIES):
        with socket.socket() as probe, contextlib.suppress(OSError, ValueError):
            probe.bind(("127.0.0.1", FIRST + secrets.randbelow(_kernels_first() - FIRST)))
            return int(probe.getsockname()[1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _kernels_first() -> int:
    return int(KERNELS.read_text(encoding="ascii").partition("\t")[0])
