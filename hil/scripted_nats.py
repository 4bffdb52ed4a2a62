"""A NATS server that answers publishers by script: hostile words, silence, answers of nobody. Loopback only.

What a real nats-server can be had to say, it says in the tests; this one says the rest. It keeps what it took.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

INFO: Final = b'INFO {"version":"0","headers":true,"max_payload":1048576}\r\n'


def stored(number: int) -> bytes:
    """Return a stream's answer."""
    return b'{"stream":"S","seq":%d}' % number


@dataclass
class NatsScript:
    """How it behaves. `answer(reply, number)` is what it says to the message of that number, byte for byte.

    `greeting` is what it begins with, `hello` what it says to CONNECT and PING.
    """

    greeting: bytes = INFO
    hello: bytes = b"PONG\r\n"
    answer: Callable[[bytes, int], bytes] = lambda reply, number: message(reply, stored(number))


def message(subject: bytes, payload: bytes) -> bytes:
    """Return a message as a server hands it out."""
    return b"MSG %b 1 %d\r\n%b\r\n" % (subject, len(payload), payload)


@dataclass
class ScriptedNats:
    """Listens from `with` on, one thread for each connection. `script` may be changed at any time."""

    script: NatsScript = field(default_factory=NatsScript)
    taken: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)  # subject, headers, payload
    said: list[bytes] = field(default_factory=list)  # lines that are no messages
    connections: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, name="scripted nats", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)
        self.hang_up()

    @property
    def url(self) -> str:
        """Its address."""
        return f"nats://127.0.0.1:{self.port}"

    def hang_up(self) -> None:
        """End all connections."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), name="scripted nats", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as file:
            connection.sendall(self.script.greeting)
            # What is cut off in the middle was never said.
            while (line := file.readline()).endswith(b"\n"):
                words = line.split() or [b""]
                if words[0] != b"HPUB":
                    self.said.append(line)
                    if words[0] == b"PING":
                        connection.sendall(self.script.hello)
                    continue
                head, size = int(words[3]), int(words[4])
                data = file.read(size + 2)
                if len(data) < size + 2:
                    break
                self.taken.append((words[1], data[:head], data[head:size]))
                connection.sendall(self.script.answer(words[2], len(self.taken)))
        self._open.discard(connection)
