"""A TCP link that can be bad: rate, delay, jitter, loss, cut, stall, refusal; and the judge of wire bytes.

    client → LinkProxy.port → (faults, counts) → target

It runs an event loop in a thread of its own, so that blocking clients, threads and event loops may use it
alike. Everything can be changed while it runs. It must not look inside what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType
    from typing import Any

CHUNK_BYTES: Final = 65536
# What may be under way in one direction of one connection before the sender is held back.
UNDER_WAY_BYTES_MAX: Final = 1 << 20
# Ethernet MTU 1500, IPv4, TCP with timestamps (RFC 7323).
SEGMENT_BYTES: Final = 1448
HEADER_BYTES: Final = 52
# SYN, SYN+ACK, ACK; and at the end FIN, ACK both ways: 60 bytes with options, then 52 each.
OPEN_UP_BYTES, OPEN_DOWN_BYTES = 60 + HEADER_BYTES, 60
CLOSE_BYTES: Final = 2 * HEADER_BYTES


class Mode(Enum):
    """What the link does as a whole."""

    UP = "up"
    STALL = "stall"  # connections stand and new ones are accepted, nothing moves: a half-open link
    DISCARD = "discard"  # everything sent is swallowed, nothing answers: a black hole behind a middlebox
    REFUSE = "refuse"  # new connections are refused; those that stand go on


@dataclass(slots=True)
class Way:
    """One direction: what is wrong with it, and what has passed.

    `rate` is bytes per second of payload for all connections together (0: as fast as it goes). `loss` is the
    chance of each segment to be lost, which TCP turns into a stall of `loss_stall_s` for all behind it.
    `trickle_s` hands over one byte at a time with that pause: slow loris. `cut_after` cuts all connections
    when that many more bytes have passed (-1: never).
    """

    rate: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    loss_stall_s: float = 0.2
    trickle_s: float = 0.0
    cut_after: int = -1
    payload_bytes: int = 0
    segments: int = 0
    losses: int = 0
    free_at_s: float = field(default=0.0, repr=False)


@dataclass(frozen=True, slots=True)
class Counts:
    """What has gone over the wire so far.

    `up` and `down` are payload; `up_wire` and `down_wire` estimate IPv4 and TCP as well: 52 bytes a segment,
    an acknowledgement for every second segment the other way, opening and closing. TLS is payload here.
    """

    connections: int
    up: int
    down: int
    up_wire: int
    down_wire: int


class LinkProxy:
    """A link to `target` on a port of its own. `up` is towards the target, `down` back."""

    def __init__(self, target: tuple[str, int], *, seed: int = 0, host: str = "127.0.0.1") -> None:
        self.target = target
        self.up = Way()
        self.down = Way()
        self.connections = 0
        self.refused_by_target = 0
        self._mode = Mode.UP
        self.dice = random.Random(seed)
        self._open: dict[_Connection, asyncio.Task[None]] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self._accepting: asyncio.Task[None] | None = None
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, 0))
        self.host, self.port = self._listener.getsockname()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link proxy", daemon=True)
        self._thread.start()
        self._in_loop(self._start_listening())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def mode(self) -> Mode:
        """What the link does as a whole; set it at any time."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._in_loop(self._switch(mode))

    @property
    def url(self) -> str:
        """The link as the root of an HTTP endpoint."""
        return f"http://{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many stand now."""
        return len(self._open)

    def cut(self) -> int:
        """Reset every connection that stands (RST both ways); return how many those were."""

        async def reset() -> int:
            standing = list(self._open)
            for connection in standing:
                connection.reset()
            return len(standing)

        count: int = self._in_loop(reset())
        return count

    def down_for_good(self) -> None:
        """Cut what stands and refuse what comes: the link is absent until `mode` says UP."""
        self.mode = Mode.REFUSE
        self.cut()

    def counts(self) -> Counts:
        """Return what has passed."""
        up, down, opened = self.up, self.down, self.connections
        ends = opened * CLOSE_BYTES
        return Counts(
            connections=opened,
            up=up.payload_bytes,
            down=down.payload_bytes,
            up_wire=up.payload_bytes
            + (up.segments + (down.segments + 1) // 2) * HEADER_BYTES
            + opened * OPEN_UP_BYTES
            + ends,
            down_wire=down.payload_bytes
            + (down.segments + (up.segments + 1) // 2) * HEADER_BYTES
            + opened * OPEN_DOWN_BYTES
            + ends,
        )

    def close(self) -> None:
        """Reset everything and end the thread."""
        if self._loop.is_closed():
            return
        self._in_loop(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._listener.close()
        self._loop.close()

    def _in_loop(self, act: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(act, self._loop).result(60)

    async def _start_listening(self) -> None:
        self._listener.listen(1024)
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())

    async def _switch(self, mode: Mode) -> None:
        before, self._mode = self._mode, mode
        if mode is Mode.STALL:
            self.gate.clear()
        else:
            self.gate.set()
        if mode is Mode.REFUSE and before is not Mode.REFUSE:
            await self._stop_listening()
            self._listener.close()
            # Bound and not listening, the port stays ours and the kernel refuses who knocks.
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((self.host, self.port))
        elif before is Mode.REFUSE and mode is not Mode.REFUSE:
            await self._start_listening()

    async def _stop_listening(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self.connections += 1
            connection = _Connection(self, client)
            task = asyncio.create_task(connection.run())
            self._open[connection] = task
            task.add_done_callback(lambda _, gone=connection: self._open.pop(gone, None))  # type: ignore[misc]

    async def _end(self) -> None:
        await self._stop_listening()
        tasks = list(self._open.values())
        for connection in list(self._open):
            connection.reset()
        if tasks:
            await asyncio.wait(tasks, timeout=5)


class _Connection:
    """Two sockets and what is between them."""

    def __init__(self, link: LinkProxy, client: socket.socket) -> None:
        self._link = link
        self._client = client
        self._far: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_reset = False
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> None:
        """Say RST to both sides."""
        for end in (self._client, self._far):
            if end is not None:
                # Linger of zero seconds turns the close into a reset.
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # It may have been accepted this moment, and not begun.
        self._is_reset = True
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Move bytes both ways until both ends have closed, one fails, or somebody resets."""
        self._task = asyncio.current_task()
        loop, link = asyncio.get_running_loop(), self._link
        try:
            if self._is_reset:
                raise ConnectionResetError
            # A stalled link does not reach the far side either: that learns of us when the stall ends.
            await link.gate.wait()
            self._far = socket.socket()
            self._far.setblocking(False)
            self._far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(self._far, link.target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._move(self._client, self._far, link.up))
                both.create_task(self._move(self._far, self._client, link.down))
        except* ConnectionRefusedError:
            link.refused_by_target += 1
            self.reset()
        except* OSError:
            self.reset()
        except* asyncio.CancelledError:
            pass
        finally:
            self._client.close()
            if self._far is not None:
                self._far.close()

    async def _move(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        under_way: deque[tuple[float, bytes]] = deque()
        changed = asyncio.Condition()
        size = 0

        def has_room() -> bool:
            return size < UNDER_WAY_BYTES_MAX

        async def read() -> None:
            nonlocal size
            loop = asyncio.get_running_loop()
            data = b"?"
            while data:
                async with changed:
                    await changed.wait_for(has_room)
                await self._link.gate.wait()
                data = await loop.sock_recv(source, _chunk_bytes(way))
                if data and self._link.mode is Mode.DISCARD:
                    continue
                due_s = _due(way, len(data), loop.time(), self._link.dice)
                async with changed:
                    # Jitter must not overtake: TCP keeps the order.
                    under_way.append((max(due_s, under_way[-1][0] if under_way else 0.0), data))
                    size += len(data)
                    changed.notify_all()

        async def write() -> None:
            nonlocal size
            loop = asyncio.get_running_loop()
            while True:
                async with changed:
                    await changed.wait_for(lambda: under_way)
                    due_s, data = under_way[0]
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                await self._link.gate.wait()
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await self._hand_over(sink, data, way)
                async with changed:
                    under_way.popleft()
                    size -= len(data)
                    changed.notify_all()

        async with asyncio.TaskGroup() as two:
            two.create_task(read())
            two.create_task(write())

    async def _hand_over(self, sink: socket.socket, data: bytes, way: Way) -> None:
        loop = asyncio.get_running_loop()
        if 0 <= way.cut_after <= len(data):
            data, way.cut_after = data[: way.cut_after], -1
            _count(way, len(data))
            await loop.sock_sendall(sink, data)
            self.reset()
            await asyncio.sleep(0)
            return
        if way.cut_after > 0:
            way.cut_after -= len(data)
        if not way.trickle_s:
            _count(way, len(data))
            await loop.sock_sendall(sink, data)
            return
        for index in range(len(data)):
            _count(way, 1)
            await loop.sock_sendall(sink, data[index : index + 1])
            await asyncio.sleep(way.trickle_s)


def _chunk_bytes(way: Way) -> int:
    """Return how much to read at once: a twentieth of a second's worth, so that a slow link is smooth."""
    return min(CHUNK_BYTES, max(64, int(way.rate / 20))) if way.rate else CHUNK_BYTES


def _due(way: Way, count: int, now_s: float, dice: random.Random) -> float:
    """Return when `count` bytes that came in now are at the other end."""
    way.free_at_s = max(way.free_at_s, now_s)
    if way.rate:
        way.free_at_s += count / way.rate
    if way.loss:
        for _ in range(-(-count // SEGMENT_BYTES)):
            if dice.random() < way.loss:
                way.losses += 1
                way.free_at_s += way.loss_stall_s
    jitter_s = dice.random() * way.jitter_s if way.jitter_s else 0.0
    return way.free_at_s + way.delay_s + jitter_s


def _count(way: Way, count: int) -> None:
    way.payload_bytes += count
    way.segments += -(-count // SEGMENT_BYTES)
