"""What the kernel says of networks, from its own mouth and as bytes."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys

import pytest

from gateway.net import interfaces
from gateway.net.interfaces import (
    GROUPS,
    HEADER,
    IFF_RUNNING,
    LINK,
    LINKS_MAX,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    NetworkWatch,
    messages,
)

RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE = RTM_NEWLINK + 1, RTM_NEWADDR + 1, RTM_NEWROUTE + 1
CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def message(kind: int, body: bytes = b"") -> bytes:
    """One netlink message, padded as the kernel does."""
    whole = HEADER.pack(HEADER.size + len(body), kind, 0, 0, 0) + body
    return whole + bytes(-len(whole) % 4)


def link(index: int, *, is_running: bool) -> bytes:
    """A link as RTM_NEWLINK tells of it, with an attribute behind it."""
    return message(RTM_NEWLINK, LINK.pack(0, 1, index, IFF_RUNNING if is_running else 0, 0) + b"\x05\0\x03\0x")


def watch() -> tuple[NetworkWatch, list[int]]:
    """A watch and what it called."""
    called: list[int] = []
    return NetworkWatch(lambda: called.append(1)), called


@pytest.mark.parametrize(
    ("datagram", "is_news"),
    [
        (message(RTM_NEWADDR), True),
        (message(RTM_NEWROUTE, b"some"), True),
        (message(RTM_DELADDR) + message(RTM_NEWROUTE), True),
        (link(2, is_running=True), True),
        (link(2, is_running=False), False),
        (message(RTM_DELLINK), False),
        (message(RTM_DELADDR) + message(RTM_DELROUTE), False),
        (message(RTM_NEWADDR)[:-1], False),
        (message(RTM_NEWLINK, b"short"), False),
        (HEADER.pack(3, RTM_NEWADDR, 0, 0, 0), False),
        (b"", False),
    ],
)
def test_what_is_news(datagram: bytes, *, is_news: bool) -> None:
    """A way that is new is; one that went, and what cannot be read, are not."""
    assert watch()[0].tells_of_a_way(datagram) is is_news


def test_a_link_is_news_once() -> None:
    """Wireless links tell of themselves all the time; after it was gone it is news again."""
    listener, _ = watch()
    told = [listener.tells_of_a_way(link(7, is_running=running)) for running in (True, True, False, False, True)]
    assert told == [True, False, False, False, True]


def test_links_are_bounded() -> None:
    """A host that makes links without end costs no more memory than a thousand."""
    listener, _ = watch()
    assert all(listener.tells_of_a_way(link(index, is_running=True)) for index in range(2 * LINKS_MAX + 1))
    assert len(listener._running) <= LINKS_MAX


def test_messages_are_cut_at_their_own_lengths() -> None:
    """Padding between them is nobody's; what is longer than the datagram is left out."""
    both = message(RTM_NEWADDR, b"abc") + message(RTM_NEWROUTE, b"d")
    assert list(messages(both)) == [(RTM_NEWADDR, b"abc"), (RTM_NEWROUTE, b"d")]
    assert list(messages(both[:-8])) == [(RTM_NEWADDR, b"abc")]


async def test_all_that_waits_is_one_call() -> None:
    """The kernel tells of a link, its address and its routes in one go; an overrun (ENOBUFS) counts as news."""
    listener, called = watch()

    waiting: list[bytes | OSError] = [message(RTM_NEWADDR), message(RTM_NEWROUTE), link(1, is_running=True)]

    class Socket:
        def recv(self, _: int) -> bytes:
            if not waiting:
                raise BlockingIOError
            said = waiting.pop()
            if isinstance(said, OSError):
                raise said
            return said

    listener._socket = Socket()
    listener._read()
    assert called == [1]
    listener._read()
    assert called == [1]
    waiting.append(OSError("no buffer space"))
    listener._read()
    assert called == [1, 1]


async def test_where_the_kernel_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another system, or a unit that may not use the address family: then nobody is told, and nothing fails."""
    listener, _ = watch()
    monkeypatch.setattr(interfaces.socket, "socket", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert not listener.open()
    listener.close()


CHILD = """
import asyncio
from tests.net.test_interfaces import hear_the_loopback_come_up

asyncio.run(hear_the_loopback_come_up())
"""


async def hear_the_loopback_come_up() -> None:
    """In a network namespace of its own, where nothing is up yet: watch, switch `lo` on, and say what was heard."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        print("cannot:", os.strerror(ctypes.get_errno()))
        return
    heard = asyncio.Event()
    listener = NetworkWatch(heard.set)
    assert listener.open()
    await asyncio.sleep(0.1)
    assert not heard.is_set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    async with asyncio.timeout(60):
        await heard.wait()
    listener.close()
    print("heard")


def test_the_kernel_says_when_a_link_comes_up() -> None:
    """A real one, in a namespace of its own."""
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=100, check=False)
    if done.stdout.startswith("cannot:"):
        pytest.skip(f"network namespaces are not allowed here ({done.stdout.strip()})")
    assert (done.stdout, done.returncode) == ("heard\n", 0), done.stderr


def test_the_groups_are_links_addresses_and_routes() -> None:
    """linux/rtnetlink.h: RTMGRP_LINK 1, IPv4 address 0x10 and route 0x40, IPv6 address 0x100 and route 0x400."""
    assert GROUPS == 0x1 | 0x10 | 0x40 | 0x100 | 0x400
