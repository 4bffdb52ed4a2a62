"""A broker that answers publishers by script: reason codes, limits, silence. Loopback only; knows no subscribers.

What a mosquitto can be had to say, a mosquitto says in the tests; this one says the rest. It keeps what it took.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.net.mqtt import VERSION_UNKNOWN, Packet, Publishes, PublishScanner
from gateway.net.mqtt_fields import VERSION_5, PacketType, Property, ProtocolError, ReasonCode, write_properties
from gateway.net.mqtt_packets import PINGRESP_BYTES, answer_bytes, connack_bytes, connect_version, packet_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

    from gateway.net.mqtt_fields import PropertyValue

READ_BYTES: Final = 1 << 16
PACKET_BYTES_MAX: Final = 16 << 20


@dataclass
class Message:
    """One that came: `is_duplicate` is its DUP flag."""

    topic: str
    payload: bytes
    qos: int
    is_duplicate: bool


@dataclass
class Script:
    """How it behaves. `answer(message)` is the PUBACK's code, or None for none at all.

    `connack` and `terms` are the code and properties of the CONNACK, None for no CONNACK. After `ends_after` messages
    it says DISCONNECT with `end_code` (None: hangs up without a word). `reason` goes with each refusal in words. It
    waits `pause_s` before each 64 KB that it reads. `knows_5` is whether it knows MQTT 5; one that `hangs_up_on_5` does
    not say that it doesn't. `after_connack` is what it says then that nobody has asked for.
    """

    answer: Callable[[Message], int | None] = lambda _: 0
    connack: int | None = 0
    terms: Iterable[tuple[Property, PropertyValue]] = ()
    ends_after: int = -1
    end_code: int | None = None
    reason: str = ""
    knows_5: bool = True
    hangs_up_on_5: bool = False
    after_connack: bytes = b""
    pause_s: float = 0.0


@dataclass
class ScriptedBroker:
    """Listens from `with` on, one thread for each connection. `script` may be changed at any time."""

    script: Script = field(default_factory=Script)
    messages: list[Message] = field(default_factory=list)
    connections: int = 0
    ends: int = 0  # that the script asked for
    versions: list[int] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="scripted broker", daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        # Nobody comes in any more; then whoever is there can be told from whoever will be.
        self._threads[0].join(20)
        self.hang_up()
        for thread in self._threads:
            thread.join(20)

    def hang_up(self) -> None:
        """End all connections without a word."""
        for stream in list(self._open):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def say(self, data: bytes) -> None:
        """Say something on all connections that nobody asked for."""
        for stream in list(self._open):
            stream.sendall(data)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._listener.accept()
                self.connections += 1
                self._open.add(stream)
                thread = threading.Thread(target=self._serve, args=(stream,), name="scripted connection", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, stream: socket.socket) -> None:
        try:
            with stream:
                self._talk(stream)
        except (OSError, ProtocolError) as error:
            self.mistakes.append(str(error))
        finally:
            self._open.discard(stream)

    def _talk(self, stream: socket.socket) -> None:
        scanner = PublishScanner(packet_bytes_max=PACKET_BYTES_MAX, version=VERSION_UNKNOWN)
        came = 0
        while data := self._read(stream):
            items = scanner.feed(data)
            while items:
                item = items.pop(0)
                if isinstance(item, Publishes):
                    for message, packet_id in _messages(item):
                        came += 1
                        self.messages.append(message)
                        self._answer(stream, message, packet_id, scanner.version)
                        if came == self.script.ends_after:
                            self._end(stream)
                            return
                elif item.type is PacketType.CONNECT:
                    scanner.version = self._greet(stream, item)
                    if not scanner.version:
                        return
                    items = scanner.feed(b"")
                elif item.type is PacketType.PINGREQ:
                    stream.sendall(PINGRESP_BYTES)
                elif item.type is PacketType.DISCONNECT:
                    return

    def _read(self, stream: socket.socket) -> bytes:
        time.sleep(self.script.pause_s)
        return stream.recv(READ_BYTES)

    def _greet(self, stream: socket.socket, connect: Packet) -> int:
        """Answer a CONNECT; return its version, or 0 where that is the end."""
        script, version = self.script, connect_version(connect.body)
        self.versions.append(version)
        if script.hangs_up_on_5 and version == VERSION_5:
            return 0
        if not script.knows_5 and version == VERSION_5:
            stream.sendall(b"\x20\x02\x00\x01")
            return 0
        if script.connack is not None:
            properties = script.terms if version == VERSION_5 else ()
            code = ReasonCode(script.connack)
            stream.sendall(connack_bytes(version=version, code=code, properties=properties) + script.after_connack)
        return 0 if script.connack else version

    def _answer(self, stream: socket.socket, message: Message, packet_id: bytes, version: int) -> None:
        code = self.script.answer(message)
        if not message.qos or code is None:
            return
        if code and self.script.reason and version == VERSION_5:
            said = write_properties([(Property.REASON_STRING, self.script.reason.encode())])
            stream.sendall(packet_bytes(PacketType.PUBACK << 4, packet_id + bytes((code,)) + said))
        else:
            stream.sendall(answer_bytes(PacketType.PUBACK, packet_id, code=code, version=version))

    def _end(self, stream: socket.socket) -> None:
        if self.script.end_code is not None:
            stream.sendall(bytes((0xE0, 1, self.script.end_code)))
        # What came behind is read, so that what was said is not lost in a reset.
        stream.shutdown(socket.SHUT_WR)
        self.ends += 1
        stream.settimeout(20)
        with contextlib.suppress(OSError):
            while stream.recv(READ_BYTES):
                pass


def _messages(run: Publishes) -> Iterable[tuple[Message, bytes]]:
    rows = zip(run.topics, run.payloads, run.packet_ids, run.first_bytes, strict=True)
    for topic, payload, packet_id, first in rows:
        yield Message(topic.decode(), payload, first >> 1 & 3, bool(first & 8)), packet_id
