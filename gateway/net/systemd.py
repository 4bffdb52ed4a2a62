"""Tells systemd how the service is (sd_notify(3)); elsewhere nothing. Must not know what the service does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# A damaged shelf is salvaged at the start, which takes its time: systemd is asked for more of it again and again.
PATIENCE_S: Final = 10.0


def notify(message: str) -> None:
    """Tell systemd, where it asked to be told; elsewhere do nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(message.encode(), address)


def keep_quiet(_message: str) -> None:
    """Tell systemd nothing: the service is somebody else's, and whether that is alive is not for us to say."""


def runtime_directory() -> Path | None:
    """Return the folder in memory that systemd has made for this service, None elsewhere."""
    # There may be several, separated by colons.
    name = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(name) if name else None


async def ask_for_patience(tell: Callable[[str], None] = notify) -> None:
    """Ask for more time to start, again and again until cancelled."""
    while True:
        tell(f"EXTEND_TIMEOUT_USEC={int(PATIENCE_S * 3e6)}\nWATCHDOG=1\nSTATUS=opening the store")
        await asyncio.sleep(PATIENCE_S)
