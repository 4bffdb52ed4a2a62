"""A line to a receiver in virtual time: real requests over a real socket, which take as long as the line's rate says.

The uplink's own HTTP sender speaks to a receiver in a thread of this process; what that costs on the wire is counted
at the receiver's end, its kernel's packets included. Only how long it takes is reckoned: bytes of both directions over
the rate, and a round trip. What the processor takes counts as nothing. Must not know what the requests hold.

    uplink → LineWorker → Line → HttpSender ══ loopback ══ Receiver → take(request)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import zlib
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

from gateway.bench.virtual_time import settle
from gateway.codecs.zstd import decompress
from gateway.uplinks.endpoints import Endpoints
from gateway.uplinks.senders import HttpSender

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from gateway.bench.virtual_time import VirtualClock
    from gateway.uplinks.guards import Answer, Packed
    from gateway.uplinks.settings import OtlpUplinkSettings

BODY_BYTES_MAX: Final = 64 << 20
# As on Ethernet and most mobile lines, with timestamps; loopback itself takes 64 KiB at once.
SEGMENT_BYTES: Final = 1400
# Headers of IPv4 and TCP with timestamps, on every packet.
PACKET_BYTES: Final = 52
# What opens a connection, before there is a socket at this end to ask: SYN, its answer.
OPENING_PACKETS: Final = 2
_TCP_INFO_BYTES: Final = 192
_PACKETS_AT: Final = 136  # tcpi_segs_out, tcpi_segs_in of struct tcp_info
_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came: what was in it, and what it cost on the wire, to its last byte and with the answer."""

    path: str
    body: bytes
    wire_bytes: int


class Receiver:
    """An HTTP receiver that counts bytes and keeps requests until they are `taken`. It listens when it is `opened`."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        # Before it listens: both ends of a connection go by it.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        # The address is taken, and whoever connects is refused.
        self._listener.bind(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._came: deque[Received] = deque()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def endpoint(self) -> str:
        """Return its URL."""
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Listen."""
        self._listener.listen()
        self._start(self._accept)

    def taken(self) -> list[Received]:
        """Return what came since the last time."""
        came = []
        while self._came:
            came.append(self._came.popleft())
        return came

    def _start(self, call: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=call, args=args, name="bench receiver", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        """Take one request after the other and answer."""
        held, counted, payload = b"", 0, OPENING_PACKETS * PACKET_BYTES
        with contextlib.suppress(OSError), connection:
            while True:
                while (head_end := held.find(b"\r\n\r\n")) < 0:
                    if not (data := connection.recv(1 << 16)):
                        return
                    held += data
                    payload += len(data)
                lines = held[:head_end].decode("latin-1").split("\r\n")
                headers = {name.lower(): text.strip() for name, _, text in (one.partition(":") for one in lines[1:])}
                needed, pieces = head_end + 4 + int(headers.get("content-length", "0")), [held]
                size = len(held)
                while size < needed:
                    if not (data := connection.recv(1 << 18)):
                        return
                    pieces.append(data)
                    size += len(data)
                    payload += len(data)
                whole = b"".join(pieces)
                held = whole[needed:]
                payload += len(_ANSWER)
                cost = payload + PACKET_BYTES * (_packets(connection) + 1)  # and that of the answer
                body = _unpacked(whole[head_end + 4 : needed], headers.get("content-encoding", ""))
                # Before the answer: whoever has that finds this.
                self._came.append(Received(lines[0].split(" ")[1], body, cost - counted))
                counted = cost
                connection.sendall(_ANSWER)

    def close(self) -> None:
        """Hang up and listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _packets(connection: socket.socket) -> int:
    """Return how many packets the kernel has seen at this end, of both directions."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return sum(struct.unpack_from("=II", info, _PACKETS_AT))


def _unpacked(body: bytes, encoding: str) -> bytes:
    if encoding == "zstd":
        return decompress(body, bytes_max=BODY_BYTES_MAX)
    return zlib.decompress(body, wbits=31) if encoding == "gzip" else body


class Line(Endpoints):
    """The uplink's own wire over a line of `rate` bytes a second and a round trip of `rtt_s`.

    `take(request, at_s)` hears of each request, and when its last byte is there.
    """

    def __init__(
        self,
        settings: OtlpUplinkSettings,
        *,
        receiver: Receiver,
        take: Callable[[Received, float], None],
        clock: VirtualClock,
        random: Random,
        rate: float,
        rtt_s: float,
    ) -> None:
        super().__init__(settings, [HttpSender(settings, version="bench", clock=clock)], clock=clock, random=random)
        self._virtual = clock
        self._receiver = receiver
        self._take = take
        self._rate, self._rtt_s = rate, rtt_s

    def pause(self, seconds: float) -> None:
        """Let so much of the time go by."""
        self._virtual.ahead_s += seconds

    def send(self, packed: Packed, /) -> Answer:
        """Send it, and let the time go by that the line takes for it."""
        began_s = self._virtual.now_s()
        try:
            answer = super().send(packed)
        finally:
            # The line carries what is there while the rest is still held back to keep a rate.
            came = self._receiver.taken()
            carried_s = began_s + sum(request.wire_bytes for request in came) / self._rate
            there_s = max(carried_s, self._virtual.now_s()) + self._rtt_s / 2
            for request in came:
                self._take(request, there_s)
            self._virtual.ahead_s += there_s + self._rtt_s / 2 - self._virtual.now_s()
        return replace(answer, seconds=self._virtual.now_s() - began_s, rtt_s=self._rtt_s)


class LineWorker:
    """What the uplink's thread does, done in the loop: a call's answer is there when its time has gone by."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._calls: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self._is_busy = False

    def submit(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Start `call`, after the one under way; the future has its result or error."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls.append((future, call))
        if not self._is_busy:
            self._is_busy = True
            asyncio.get_running_loop().call_soon(self._next)
        return future

    def _next(self) -> None:
        if not self._calls:
            self._is_busy = False
            return
        loop = asyncio.get_running_loop()
        future, call = self._calls.popleft()
        done: asyncio.Future[Any] = loop.create_future()
        settle(done, call)
        # Whoever asked may not wait for it any more.
        done.exception()
        took_s, self._clock.ahead_s = self._clock.ahead_s, 0.0
        loop.call_later(took_s, self._end, future, done)

    def _end(self, future: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
        settle(future, done.result)
        self._next()

    def close(self) -> bool:
        """Nothing to wait for."""
        return True
