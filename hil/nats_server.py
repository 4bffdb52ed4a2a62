"""A real nats-server with JetStream on a port of its own, and a client that looks into its streams. Loopback only.

The client knows nothing of the gateway's own code for NATS: what a stream holds is to be seen from outside.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias, TypeVar

from gateway.net.ports import free_port
from hil.children import Child, start_somewhere
from hil.needs import find_tool, require_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from hil.certificates import Identity

START_S: Final = 60.0
ANSWER_S: Final = 60.0
# What nobody leads is not answered at all: so long, then it is asked again.
LEADERLESS_S: Final = 3.0


def why_no_nats() -> str:
    """Return why there is no nats-server on this machine, or ""."""
    return "" if find_tool("nats-server") else "nats-server is not installed (Debian: apt-get install nats-server)"


T = TypeVar("T")
# What CONNECT says of who it is, or who makes that of the server's nonce.
Proof: TypeAlias = "dict[str, str] | Callable[[str], dict[str, str]]"


class Stored(NamedTuple):
    """A message of a stream."""

    sequence: int
    subject: str
    headers: dict[str, str]
    data: bytes


class NatsServer:
    """A nats-server with everything in `folder`. Starts in the constructor, so `port` is known and listening.

    `lines` are more lines of its configuration. `identity` turns TLS on; `client_ca` asks clients for a certificate of
    that CA as well. `admin` is a user and password, or a token, that may look into it, or makes what CONNECT says of a
    nonce.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lines: tuple[str, ...] = (),
        identity: Identity | None = None,
        client_ca: Path | None = None,
        admin: Proof | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._program = require_tool("nats-server", package="nats-server")
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "nats.conf"
        self._lines = [f'jetstream {{ store_dir: "{folder}/js" }}', *lines]
        self.is_tls = identity is not None
        if identity is not None:
            more = f', ca_file: "{client_ca}", verify: true' if client_ca is not None else ""
            self._lines.append(
                f'tls {{ cert_file: "{identity.certificate}", key_file: "{identity.key}", timeout: 60{more} }}'
            )
        self._admin: Proof = admin or {}
        self._answer_s = answer_s
        self._child: Child | None = None
        self.host = "127.0.0.1"
        self.port = 0
        start_somewhere(self._choose_and_start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def address(self) -> tuple[str, int]:
        """Where a proxy should lead to."""
        return self.host, self.port

    @property
    def url(self) -> str:
        """Its address, as clients write it."""
        return f"{'tls' if self.is_tls else 'nats'}://{self.host}:{self.port}"

    @property
    def is_up(self) -> bool:
        """Whether it has been started, and not ended since."""
        return self._child is not None

    def start(self) -> None:
        """Start at the port it had; returns when it is ready."""
        assert self._child is None
        listen = f'listen: "{self.host}:{self.port}"'
        self._config.write_text("\n".join([listen, *self._lines, ""]))
        self._child = Child([self._program, "-c", self._config])
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if not self._child.is_running:
                said = self._child.output
                self.kill()
                raise OSError(f"nats-server ended at once:\n{said}")
            if any("Server is ready" in line for line in self._child.lines):
                return
            time.sleep(0.005)
        raise TimeoutError(f"nats-server is not ready after {START_S} s:\n{self._child.tail()}")

    def stop(self) -> None:
        """End it as a service manager does."""
        if self._child is not None:
            self._child.terminate()
            self._child.close()
            self._child = None

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def signal(self, number: int) -> None:
        """Send it a signal: SIGUSR2 is its lame duck mode."""
        assert self._child is not None
        self._child.process.send_signal(number)

    def client(self, **who: str) -> NatsClient:
        """Return somebody who looks into it; only where TLS is off."""
        proof = self._admin if callable(self._admin) else {**self._admin, **who}
        return NatsClient(self.address, proof, answer_s=self._answer_s)

    def make_stream(self, name: str, *subjects: str, **limits: Any) -> None:
        """Make a stream."""
        with self.client() as client:
            client.ask(f"$JS.API.STREAM.CREATE.{name}", {"name": name, "subjects": list(subjects), **limits})

    def update_stream(self, name: str, *subjects: str, **limits: Any) -> None:
        """Change a stream."""
        with self.client() as client:
            client.ask(f"$JS.API.STREAM.UPDATE.{name}", {"name": name, "subjects": list(subjects), **limits})

    def stored(self, stream: str) -> list[Stored]:
        """Return all that a stream holds."""
        with self.client() as client:
            return client.stored(stream)

    def _choose_and_start(self) -> None:
        self.port = free_port()
        self.start()


class NatsCluster:
    """Servers that hold a stream together, each of them as many copies of it as `make_stream` says. See `NatsServer`.

    `identities` are theirs, for TLS; one at least has to be without, to look into it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        count: int = 3,
        identities: Sequence[Identity | None] = (),
        lines: tuple[str, ...] = (),
        admin: Proof | None = None,
    ) -> None:
        self.servers: list[NatsServer] = []
        ports = [free_port() for _ in range(count)]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        for number, port in enumerate(ports):
            cluster = f'cluster {{ name: plant, listen: "127.0.0.1:{port}", routes: [ {routes} ] }}'
            self.servers.append(
                NatsServer(
                    folder / f"n{number}",
                    lines=(f"server_name: n{number}", cluster, *lines),
                    identity=identities[number] if identities else None,
                    admin=admin,
                    answer_s=LEADERLESS_S,
                )
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            server.kill()

    @property
    def one_up(self) -> NatsServer:
        """Any that is up and can be looked into."""
        return next(server for server in self.servers if server.is_up and not server.is_tls)

    def make_stream(self, name: str, *subjects: str, **limits: Any) -> None:
        """Make a stream, as soon as they have found each other."""
        self._when_ready(lambda: self.one_up.make_stream(name, *subjects, **limits))

    def leader_of(self, stream: str) -> NatsServer:
        """Return who leads a stream, as soon as somebody does."""

        def ask() -> NatsServer:
            with self.one_up.client() as client:
                name = client.ask(f"$JS.API.STREAM.INFO.{stream}")["cluster"].get("leader", "")
            if not name:
                raise OSError("nobody leads it")
            return self.servers[int(name.removeprefix("n"))]

        return self._when_ready(ask)

    def stored(self, stream: str) -> list[Stored]:
        """Return all that a stream holds."""
        return self._when_ready(lambda: self.one_up.stored(stream))

    @staticmethod
    def _when_ready(act: Callable[[], T]) -> T:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                return act()
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)


class NatsClient:
    """One connection that asks one thing after the other."""

    def __init__(self, address: tuple[str, int], who: Proof, *, answer_s: float = ANSWER_S) -> None:
        self._socket = socket.create_connection(address, timeout=answer_s)
        self._file = self._socket.makefile("rb")
        self._number = 0
        info = self._file.readline()
        assert info.startswith(b"INFO ")
        proof = who(json.loads(info[5:]).get("nonce", "")) if callable(who) else who
        said = {"verbose": False, "headers": True, "no_responders": True, **proof}
        self._socket.sendall(b"CONNECT %b\r\nSUB _INBOX.look.* 1\r\nPING\r\n" % json.dumps(said).encode())
        assert self._file.readline() == b"PONG\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def ask(self, subject: str, question: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer; raise OSError for one that is an error."""
        self._number += 1
        reply, payload = f"_INBOX.look.{self._number}", json.dumps(question or {}).encode()
        self._socket.sendall(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n")
        while True:
            words = self._file.readline().split()
            if not words:
                raise OSError("nats-server hung up")
            if words[0] == b"PING":
                self._socket.sendall(b"PONG\r\n")
            elif words[0] == b"HMSG":
                raise OSError(self._file.read(int(words[-1]) + 2).decode())
            elif words[0] == b"MSG":
                answer: dict[str, Any] = json.loads(self._file.read(int(words[-1]) + 2))
                if "error" in answer:
                    raise OSError(str(answer["error"]))
                return answer

    def stored(self, stream: str) -> list[Stored]:
        """Return all that a stream holds, in its order."""
        state = self.ask(f"$JS.API.STREAM.INFO.{stream}")["state"]
        found = []
        for sequence in range(max(1, state["first_seq"]), state["last_seq"] + 1):
            try:
                message = self.ask(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": sequence})["message"]
            except TimeoutError:
                raise
            except OSError:
                # It is not there any more.
                continue
            lines = base64.b64decode(message.get("hdrs", "")).decode().split("\r\n")[1:]
            headers = dict(line.split(": ", 1) for line in lines if line)
            data = base64.b64decode(message.get("data", ""))
            found.append(Stored(sequence, message["subject"], headers, data))
        return found
