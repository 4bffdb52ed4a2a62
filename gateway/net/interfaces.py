"""Hears from the kernel that this box has a network again: a link that is up, an address, a route. Sends nothing.

Whoever waits to try again would else learn of it at the end of its wait. rtnetlink(7): only Linux has it, and only
where the address family is allowed; elsewhere `open` says no, and those who wait do so to the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Final

from gateway.core.timeouts import timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# linux/rtnetlink.h, linux/if.h.
RTM_NEWLINK: Final = 16
RTM_NEWADDR: Final = 20
RTM_NEWROUTE: Final = 24
RTMGRP_LINK: Final = 0x1
RTMGRP_IPV4_IFADDR: Final = 0x10
RTMGRP_IPV4_ROUTE: Final = 0x40
RTMGRP_IPV6_IFADDR: Final = 0x100
RTMGRP_IPV6_ROUTE: Final = 0x400
GROUPS: Final = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
IFF_RUNNING: Final = 0x40
HEADER: Final = struct.Struct("=IHHII")  # length with the header, type, flags, sequence, port
LINK: Final = struct.Struct("=BxHiII")  # family, type, index, flags, which of them changed
ALIGNMENT: Final = 4

# A network that comes and goes all the time is no reason to try more often than that.
LEAST_S: Final = 1.0
DATAGRAM_BYTES_MAX: Final = 65536
DATAGRAMS_AT_ONCE_MAX: Final = 64
LINKS_MAX: Final = 1024


class NetworkWatch:
    """Calls `on_up` in the event loop when there may be a way where there was none; several times for one of them."""

    def __init__(self, on_up: Callable[[], None]) -> None:
        self._on_up = on_up
        self._socket: socket.socket | None = None
        # Wireless links tell of themselves all the time: only one that was not running is news.
        self._running: set[int] = set()

    def open(self) -> bool:
        """Listen from now on, until `close`; return False where the kernel does not tell."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            self._socket.bind((0, GROUPS))
        except (AttributeError, OSError):
            self.close()
            return False
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return True

    def close(self) -> None:
        """Listen no longer."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        assert self._socket is not None
        is_news = False
        for _ in range(DATAGRAMS_AT_ONCE_MAX):
            try:
                datagram = self._socket.recv(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                break
            except OSError:
                # More than the kernel keeps for us (ENOBUFS): whatever it was, something has changed.
                is_news = True
            else:
                is_news |= self.tells_of_a_way(datagram)
        if is_news:
            self._on_up()

    def tells_of_a_way(self, datagram: bytes) -> bool:
        """Whether a datagram of the kernel's says that there may be a way now."""
        is_news = False
        for kind, body in messages(datagram):
            if kind == RTM_NEWLINK and len(body) >= LINK.size:
                _, _, index, flags, _ = LINK.unpack_from(body)
                is_news |= self._note_link(index, is_running=bool(flags & IFF_RUNNING))
            else:
                is_news |= kind in {RTM_NEWADDR, RTM_NEWROUTE}
        return is_news

    def _note_link(self, index: int, *, is_running: bool) -> bool:
        if not is_running:
            self._running.discard(index)
            return False
        if index in self._running:
            return False
        if len(self._running) >= LINKS_MAX:
            self._running.clear()
        self._running.add(index)
        return True


class NetworkWait:
    """A wait until the next try that ends early when a network comes up meanwhile."""

    def __init__(self) -> None:
        self._is_up = asyncio.Event()

    def end(self) -> None:
        """Take note that there may be a network again."""
        self._is_up.set()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds, or after LEAST_S where `end` was called since the last wait.

        What comes up in the middle of a try is no help to that one: a resolver or a SYN that began without a network.
        """
        await asyncio.sleep(min(seconds, LEAST_S))
        with contextlib.suppress(TimeoutError):
            async with timeout(seconds - LEAST_S):
                await self._is_up.wait()
        self._is_up.clear()


def messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each netlink message; what is cut off is left out.

    >>> list(messages(HEADER.pack(20, RTM_NEWADDR, 0, 0, 0) + b"body" + b"rest"))
    [(20, b'body')]
    """
    at = 0
    while at + HEADER.size <= len(datagram):
        length, kind, _, _, _ = HEADER.unpack_from(datagram, at)
        if length < HEADER.size or at + length > len(datagram):
            return
        yield kind, datagram[at + HEADER.size : at + length]
        at += -(-length // ALIGNMENT) * ALIGNMENT
