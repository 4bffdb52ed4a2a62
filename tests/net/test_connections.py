"""Connections of a listener by themselves: how they are counted, make way and end."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.net.connections import ConnectionServer, HttpLimits


class Watcher:
    def __init__(self) -> None:
        self.away: list[str] = []
        self.counts: list[int] = []

    def turned_away(self, reason: str, why: str) -> None:
        self.away.append(reason)

    def connections_changed(self, count: int) -> None:
        self.counts.append(count)


class Echo(ConnectionServer):
    """Says back what it hears; idle until somebody says something."""

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        task = asyncio.current_task()
        self._idle[task] = writer.transport.abort
        while data := await reader.read(100):
            self._idle.pop(task, None)
            writer.write(data)


async def test_who_says_nothing_makes_way_and_who_does_stays() -> None:
    """Past the bound; where nobody says nothing, the new one is sent away. The end waits for those it may wait for."""
    watcher = Watcher()
    limits = HttpLimits(connections_max=2, body_bytes_max=100, request_s=1.0, idle_s=1.0)
    server = Echo(watcher, address="127.0.0.1:0", limits=limits, tls=None, name="t")
    task = asyncio.create_task(server.serve(stop_s=0.05))
    await server.listening.wait()
    clients = []
    for number in range(4):
        reader, writer = await asyncio.open_connection(*server.address)
        clients.append(writer)
        if number:
            writer.write(b"x")
            assert await reader.read(1) == (b"x" if number < 3 else b"")
    assert watcher.away == ["connections_max", "connections_max"]
    assert server.connections == 2
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert (server.connections, watcher.counts[-1]) == (0, 0)
    for writer in clients:
        writer.transport.abort()
