"""A real mosquitto on a port of its own, stopped, killed, started again at the same port. Loopback only."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final, Self

from gateway.net.ports import free_port
from hil.children import Child, start_somewhere
from hil.needs import find_tool, require_tool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from hil.certificates import Identity

START_S: Final = 60.0
ASK_AGAIN_S: Final = 0.5


def why_no_broker() -> str:
    """Return why there is no broker on this machine, or ""."""
    return "" if find_tool("mosquitto") else "mosquitto is not installed (Debian: apt-get install mosquitto)"


class Broker:
    """A mosquitto with everything in `folder`. Starts in the constructor, so `port` is known and listening.

    `users` are names and passwords (none: anonymous). `identity` turns TLS on; `client_ca` asks clients for a
    certificate of that CA as well. `websockets` listens for MQTT over WebSocket at `websocket_port` too,
    and TLS is there then, while `port` stays plain. `max_inflight` and
    `max_queued` are its limits per client (0: none); `access` is an ACL file's text; `options` are more lines
    of mosquitto.conf, `listener_options` those of the listener at `port`.
    """

    def __init__(  # noqa: PLR0913  one keyword for each thing a test may want of a broker
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        identity: Identity | None = None,
        client_ca: Path | None = None,
        websockets: bool = False,
        max_inflight: int = 0,
        max_queued: int = 0,
        access: str = "",
        options: tuple[str, ...] = (),
        listener_options: tuple[str, ...] = (),
    ) -> None:
        self._mosquitto = require_tool("mosquitto", package="mosquitto")
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "mosquitto.conf"
        self._lines = [
            "persistence true",
            f"persistence_location {folder}/",
            f"max_inflight_messages {max_inflight}",
            f"max_queued_messages {max_queued}",
            "log_dest stderr",
            # Not debug: that is a line for each packet, which costs the broker and us more than the packet.
            *(f"log_type {kind}" for kind in ("error", "warning", "notice", "information")),
            "set_tcp_nodelay true",
            # As root it would change to a user who may not read the test's folder.
            "user root",
        ]
        if users is not None:
            self._lines += ["allow_anonymous false", f"password_file {self._write_passwords(users)}"]
        else:
            self._lines.append("allow_anonymous true")
        if access:
            list_file = folder / "acl"
            list_file.write_text(access)
            list_file.chmod(0o600)
            self._lines.append(f"acl_file {list_file}")
        self._lines += options
        self._listener_options = listener_options
        self._tls: list[str] = []
        self._has_websockets = websockets
        if identity is not None:
            self._tls += [f"certfile {identity.certificate}", f"keyfile {identity.key}"]
        if client_ca is not None:
            self._tls += [f"cafile {client_ca}", "require_certificate true"]
        self._child: Child | None = None
        self.host = "127.0.0.1"
        self.port = 0
        self.websocket_port = 0
        start_somewhere(self._choose_and_start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        """Where a proxy should lead to."""
        return self.host, self.port

    @property
    def log(self) -> list[str]:
        """What the running broker has said."""
        return self._child.lines if self._child is not None else []

    @property
    def pid(self) -> int:
        """The broker's process id."""
        assert self._child is not None
        return self._child.pid

    def cpu_s(self) -> float:
        """CPU seconds that the broker has used."""
        assert self._child is not None
        return self._child.cpu_s()

    def start(self) -> None:
        """Start at the port it had; returns when it listens."""
        assert self._child is None
        listeners = [f"listener {self.port} {self.host}", *self._listener_options]
        if self._has_websockets:
            # mosquitto 2.0.11 does not start with a WebSocket listener alone.
            listeners += [f"listener {self.websocket_port} {self.host}", "protocol websockets"]
        self._config.write_text("\n".join([*self._lines, *listeners, *self._tls, ""]))
        self._child = Child([self._mosquitto, "-c", self._config])
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if not self._child.is_running:
                ended = self._child
                self.stop()
                raise OSError(f"mosquitto ended at once:\n{ended.output}")
            # Somebody else may have taken the port: our own child's word counts. Nor is it knocked at before: while
            # nobody listens there, the kernel may give who knocks that very port, and the broker finds it in use.
            if any("running" in line for line in self._child.lines):
                with contextlib.suppress(OSError), socket.create_connection(self.address, timeout=1):
                    return
            time.sleep(0.005)
        raise TimeoutError(f"mosquitto does not listen after {START_S} s:\n{self._child.tail()}")

    def stop(self) -> None:
        """End it as a service manager does: it saves its sessions and its queue."""
        if self._child is not None:
            # mosquitto 2.0.11 says that it runs, and forgets then whatever signal it has had until that moment.
            for _ in range(round(START_S / ASK_AGAIN_S)):
                with contextlib.suppress(TimeoutError):
                    self._child.terminate(within_s=ASK_AGAIN_S)
                    break
            self._child.close()
            self._child = None

    def kill(self) -> None:
        """End it as a power cut does: what it had not saved is gone."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def restart(self) -> None:
        """Stop and start with its sessions."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it."""
        self.kill()

    def _choose_and_start(self) -> None:
        # mosquitto cannot take port 0.
        self.port = free_port()
        self.websocket_port = free_port() if self._has_websockets else 0
        self.start()

    def _write_passwords(self, users: Mapping[str, str]) -> Path:
        path = self._folder / "passwords"
        path.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
        path.chmod(0o600)
        # Turns the plain passwords of the file into hashes.
        tool = require_tool("mosquitto_passwd", package="mosquitto")
        subprocess.run([tool, "-U", path], check=True, capture_output=True)
        return path
