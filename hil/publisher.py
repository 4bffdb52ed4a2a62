"""A device that knows what was acknowledged to it: numbered QoS 1 messages, sent again over a new connection or not.

Each message carries a number that is never used twice. `acknowledged` has those whose PUBACK came; a number that
was sent and not acknowledged is nobody's promise, and it is not sent again.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from gateway.net.mqtt_packets import connect_bytes, publish_bytes

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

WINDOW: Final = 200
PUBACK: Final = 0x40
RECONNECT_S: Final = 0.02
ANSWER_S: Final = 20.0
# How often it is looked whether it shall end.
LOOK_S: Final = 1.0


class Publisher:
    """Publishes `{"n": number}` to one topic as fast as acknowledgements come, from a thread of its own.

    With `pause_s` it waits so long after each answer: at most WINDOW messages go in that time, on a quick machine too.
    """

    def __init__(
        self, *, port: int, topic: bytes = b"plant/d1/count", client_id: bytes = b"counter", pause_s: float = 0.0
    ) -> None:
        self.acknowledged: set[int] = set()
        self.sent = 0
        self.connections = 0
        self._address = ("127.0.0.1", port)
        self._topic = topic
        self._client_id = client_id
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more; wait a moment for what is in flight."""
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(self._address, timeout=ANSWER_S) as stream:
                self._talk(stream)
            time.sleep(RECONNECT_S)

    def _talk(self, stream: socket.socket) -> None:
        stream.sendall(connect_bytes(self._client_id))
        if stream.recv(4)[:1] != b"\x20":
            return
        self.connections += 1
        stream.settimeout(LOOK_S)
        in_flight: dict[int, int] = {}
        packet_id = 0
        rest = b""
        until_s = float("inf")
        while in_flight or not self._stop.is_set():
            if self._stop.is_set():
                until_s = min(until_s, time.monotonic() + 5)
                if time.monotonic() > until_s:
                    return
            parts = []
            while len(in_flight) < WINDOW and not self._stop.is_set():
                packet_id = packet_id % 65535 + 1
                in_flight[packet_id] = self.sent
                parts.append(publish_bytes(self._topic, b'{"n":%d}' % self.sent, qos=1, packet_id=packet_id))
                self.sent += 1
            stream.sendall(b"".join(parts))
            try:
                data = stream.recv(65536)
            except TimeoutError:
                # A gateway that keeps its answers back, or a busy machine: it is the same connection still.
                continue
            if not data:
                return
            rest = self._acknowledge(rest + data, in_flight)
            if self._pause_s:
                time.sleep(self._pause_s)

    def _acknowledge(self, data: bytes, in_flight: dict[int, int]) -> bytes:
        whole = len(data) // 4 * 4
        for at in range(0, whole, 4):
            assert data[at] == PUBACK, data[at : at + 4]
            self.acknowledged.add(in_flight.pop(int.from_bytes(data[at + 2 : at + 4], "big")))
        return data[whole:]
