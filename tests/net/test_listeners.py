"""Sockets that listen, and who comes."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from gateway.net import listeners
from gateway.net.listeners import TCP_KEEPALIVE, accept_from, listen, make_ready, stop_accepting


async def test_who_comes_is_handed_over() -> None:
    """With the address of where they come from."""
    (listener,) = await listen("127.0.0.1:0")
    met: asyncio.Queue[tuple[socket.socket, str]] = asyncio.Queue()

    async def admit(connected: socket.socket, peer: str) -> None:
        await met.put((connected, peer))

    task = asyncio.create_task(accept_from(listener, admit, pytest.fail))
    with socket.create_connection(listener.getsockname()):
        connected, peer = await met.get()
        connected.close()
    assert peer == "127.0.0.1"
    await stop_accepting({listener: task})
    assert (task.cancelled(), listener.fileno()) == (True, -1)


async def test_an_address_that_cannot_be_had_is_named() -> None:
    """With what to do about it; what was opened by then is closed."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: .*another program"):
            await listen(f"127.0.0.1:{port}")


async def test_a_socket_that_fails_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two families the second may be the one that cannot be had."""
    opened: list[socket.socket] = []
    create = socket.create_server

    def fail_second(*where: object, **options: object) -> socket.socket:
        if opened:
            raise OSError(errno.EADDRNOTAVAIL, "no such address")
        opened.append(create(("127.0.0.1", 0)))
        return opened[0]

    async def found(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(socket.AF_INET, 0, 0, "", ("127.0.0.1", 0)), (socket.AF_INET6, 0, 0, "", ("::1", 0))]

    monkeypatch.setattr(socket, "create_server", fail_second)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
    with pytest.raises(OSError, match="no such address|Cannot assign"):
        await listen("localhost:0")
    assert opened[0].fileno() == -1


async def test_without_descriptors_nobody_is_taken_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """And somebody hears of it; a client that is gone again is its own affair."""
    monkeypatch.setattr(listeners, "ACCEPT_PAUSE_S", 0.001)
    errors = [OSError(errno.ECONNABORTED, "gone"), OSError(errno.EMFILE, "Too many open files")]
    said: list[str] = []
    heard = asyncio.Event()

    async def accept(_: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
        if errors:
            raise errors.pop(0)
        heard.set()
        return await asyncio.get_running_loop().create_future()

    async def admit(_: socket.socket, __: str) -> None:
        pytest.fail("nobody came")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_accept", accept)
    (listener,) = await listen("127.0.0.1:0")
    task = asyncio.create_task(accept_from(listener, admit, said.append))
    await heard.wait()
    assert said == ["cannot take connections: Too many open files"]
    await stop_accepting({listener: task})
    await stop_accepting({})


async def test_an_answer_behind_another_does_not_wait() -> None:
    """What asyncio sets by itself it does not set for a socket that was accepted."""
    (listener,) = await listen("127.0.0.1:0")
    met: asyncio.Queue[socket.socket] = asyncio.Queue()

    async def admit(connected: socket.socket, _: str) -> None:
        make_ready(connected)
        await met.put(connected)

    task = asyncio.create_task(accept_from(listener, admit, pytest.fail))
    with socket.create_connection(listener.getsockname()):
        connected = await met.get()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, connected)
        found = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.abort()
    await stop_accepting({listener: task})
    assert found


def test_the_kernel_looks_after_a_connection_that_is_made_ready() -> None:
    """It blocks nobody, and a peer that is gone without a word is found out."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        make_ready(client)
        assert not client.getblocking()
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert [client.getsockopt(socket.IPPROTO_TCP, option) for option, _ in TCP_KEEPALIVE] == [60, 15, 4]
