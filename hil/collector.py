"""A real OTLP server that nobody here wrote, between an uplink and a sink: it takes OTLP and passes it on.

    with Collector(folder, passes_on_to=sink.url) as collector:
        ...                                  # send to collector.http or collector.grpc

It is the one that `pytest --collector PATH` names, an OpenTelemetry Collector on the PATH, or the agent of the package
rotel (`pip install rotel`). Must not be asked what it has: the sink knows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from gateway.net.ports import free_port
from hil.children import Child, start_somewhere, wait_until
from hil.needs import NotHereError, find_tool

if TYPE_CHECKING:
    from types import TracebackType

START_S: Final = 60.0
NAMES: Final = ("otelcol", "otelcol-contrib")
AGENT: Final = "rotel-agent"
WHY_NOT: Final = "there is no collector: pip install rotel, or name one with --collector PATH"


def find_collector(path: str = "") -> Path | None:
    """Return the program: the one that is named, or what this machine has; None where it has none."""
    if path:
        return find_tool(path)
    if found := next(filter(None, map(find_tool, NAMES)), None):
        return found
    spec = importlib.util.find_spec("rotel")
    agent = Path(spec.origin).with_name(AGENT) if spec is not None and spec.origin else None
    return agent if agent is not None and agent.exists() else None


class Collector:
    """A process that listens at `http` and `grpc`, and sends all that it takes to `passes_on_to` over HTTP."""

    def __init__(self, folder: Path, *, passes_on_to: str, path: str = "") -> None:
        program = find_collector(path)
        if program is None:
            raise NotHereError(WHY_NOT)
        folder.mkdir(parents=True, exist_ok=True)
        self._program, self._folder, self._far = program, folder, passes_on_to
        self._child: Child | None = None
        self.http = self.grpc = ""
        start_somewhere(self._start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _start(self) -> None:
        addresses = [("127.0.0.1", free_port()) for _ in range(2)]
        http, grpc = (f"{host}:{port}" for host, port in addresses)
        command = self._agent(http, grpc) if self._program.name == AGENT else self._otelcol(http, grpc)
        child = self._child = Child([self._program, *command])
        wait_until(lambda: not child.is_running or all(map(_listens, addresses)), "the collector", within_s=START_S)
        if not child.is_running:
            said = child.tail()
            self.close()
            raise OSError(f"{self._program} ended at once:\n{said}")
        self.http, self.grpc = f"http://{http}", f"http://{grpc}"

    def _agent(self, http: str, grpc: str) -> list[str]:
        listen = ["--otlp-http-endpoint", http, "--otlp-grpc-endpoint", grpc]
        send = ["--exporter", "otlp", "--otlp-exporter-endpoint", self._far, "--otlp-exporter-protocol", "http"]
        return ["start", *listen, *send, "--pid-file", str(self._folder / "agent.pid")]

    def _otelcol(self, http: str, grpc: str) -> list[str]:
        pipeline = {"receivers": ["otlp"], "exporters": ["otlphttp"]}
        config = {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": http}, "grpc": {"endpoint": grpc}}}},
            "exporters": {"otlphttp": {"endpoint": self._far}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": dict.fromkeys(("metrics", "logs", "traces"), pipeline),
            },
        }
        # JSON is YAML.
        path = self._folder / "collector.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        return ["--config", str(path)]


def _listens(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
        return True
    return False
