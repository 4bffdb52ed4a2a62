"""Opens the sockets of a listener, and takes connections from them. Must not read a byte of any.

asyncio's own server takes whoever comes, and begins TLS with them, before anybody can look how many there are.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final

from gateway.net.addresses import cannot_listen, split_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

BACKLOG: Final = 256
# No descriptors or memory left: accept nothing for so long.
ACCEPT_PAUSE_S: Final = 1.0
# The kernel finds peers that are gone without a word.
TCP_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def listen(address: str) -> list[socket.socket]:
    """Return sockets that listen on "HOST:PORT"; raise OSError that says what to do."""
    host, port = split_address(address)
    loop = asyncio.get_running_loop()
    listeners: list[socket.socket] = []
    try:
        # As bytes, where that will do: Python's tables for international names are half a megabyte.
        name = host.encode() if host.isascii() else host
        found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            listener = socket.create_server(where[:2], family=family, backlog=BACKLOG, reuse_port=False)
            listener.setblocking(False)
            listeners.append(listener)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise cannot_listen(address, error) from error
    return listeners


async def accept_from(
    listener: socket.socket,
    admit: Callable[[socket.socket, str], Awaitable[None]],
    out_of_resources: Callable[[str], None],
) -> None:
    """Hand each connection, and its peer's address, to `admit`, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connected, peer = await loop.sock_accept(listener)
        except OSError as error:
            # A client that is gone again is its own affair; no descriptors left is ours.
            if error.errno in _OUT_OF_RESOURCES:
                out_of_resources(f"cannot take connections: {error.strerror}")
                await asyncio.sleep(ACCEPT_PAUSE_S)
            continue
        await admit(connected, str(peer[0]))


def start_accepting(
    listeners: Iterable[socket.socket],
    admit: Callable[[socket.socket, str], Awaitable[None]],
    out_of_resources: Callable[[str], None],
    *,
    name: str,
) -> dict[socket.socket, asyncio.Task[None]]:
    """Begin to take connections from listeners, one at a time from each; `stop_accepting` ends that."""
    return {
        listener: asyncio.create_task(accept_from(listener, admit, out_of_resources), name=f"{name}: accept")
        for listener in listeners
    }


async def keep_accepting(accepting: Mapping[socket.socket, asyncio.Task[None]]) -> None:
    """Wait until cancelled; raise what ends one of the tasks."""
    done, _ = await asyncio.wait(accepting.values(), return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def make_ready(connected: socket.socket) -> None:
    """Make a connection fit for the event loop, and have the kernel find out when its client is gone."""
    connected.setblocking(False)
    # asyncio does so itself only where a socket names its protocol, and one that was accepted does not: an answer
    # behind another few bytes would wait for the client's delayed acknowledgement.
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in TCP_KEEPALIVE:
        connected.setsockopt(socket.IPPROTO_TCP, option, value)


async def stop_accepting(accepting: dict[socket.socket, asyncio.Task[None]]) -> None:
    """Close listeners and end the tasks that take connections from them."""
    for listener, task in accepting.items():
        # First: asyncio stumbles over who comes in the moment between the end of its waiting and this.
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()
        task.cancel()
    if accepting:
        await asyncio.wait(accepting.values())
