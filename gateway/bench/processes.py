"""A gateway and a sink as children, and what the operating system says they cost. Must not guess a figure."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from gateway.control.asking import fetch_status

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
# What a shell may set and an installation has not: another processor's code paths, modules compiled at each start.
DISTURBING: Final = frozenset({"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE"})
START_S_MAX: Final = 20.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has used since it began."""

    at_s: float
    cpu_s: float
    flash_bytes: int

    def since(self, earlier: Cost) -> Cost:
        """Return what was used between the two looks."""
        return Cost(self.at_s - earlier.at_s, self.cpu_s - earlier.cpu_s, self.flash_bytes - earlier.flash_bytes)


class Child:
    """A process that we started and that we end."""

    def __init__(self, *command: str, pipe: bool = False) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in DISTURBING}
        self.process = subprocess.Popen(  # noqa: S603  our own interpreter and modules
            command, stdout=subprocess.PIPE if pipe else None, stdin=subprocess.DEVNULL, text=True, env=environment
        )

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.process.pid

    def line(self) -> str:
        """Return the next line it prints; "" at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def cost(self) -> Cost:
        """Look at /proc: user and system time, and bytes that were sent to the disk on its behalf."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        flash = 0
        with contextlib.suppress(PermissionError):
            for text in Path(f"/proc/{self.pid}/io").read_text(encoding="ascii").splitlines():
                if text.startswith("write_bytes:"):
                    flash = int(text.split()[1])
        return Cost(time.monotonic(), (int(fields[11]) + int(fields[12])) * TICK_S, flash)

    def rss_mb(self) -> float:
        """Return resident memory now, in MB (10^6 bytes), file-backed pages included."""
        return self._status_kib("VmRSS") * 1024 / 1e6

    def rss_peak_mb(self) -> float:
        """Return the most that it ever was."""
        return self._status_kib("VmHWM") * 1024 / 1e6

    def _status_kib(self, key: str) -> int:
        for text in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if text.startswith(key + ":"):
                return int(text.split()[1])
        raise KeyError(key)

    def end(self, number: signal.Signals = signal.SIGTERM, *, wait_s: float = 30) -> int:
        """Send a signal and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(wait_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode


class GatewayUnderTest(Child):
    """`tidegate run` with a configuration of the benchmark's own in a folder of its own."""

    def __init__(self, folder: Path, config: str, *, control_port: int) -> None:
        self.url = f"http://127.0.0.1:{control_port}"
        path = folder / "tidegate.toml"
        path.write_text(config, encoding="utf-8")
        super().__init__(sys.executable, "-m", "gateway", "run", "-c", str(path), "--log-level", "warning")
        deadline = time.monotonic() + START_S_MAX
        while True:
            with contextlib.suppress(OSError, ValueError):
                self.status()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end(signal.SIGKILL)
                raise RuntimeError("the gateway under test did not start")
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        """Ask it how it is."""
        return fetch_status(self.url, token="", timeout_s=10)

    def uplink(self) -> dict[str, Any]:
        """Return the status of its one uplink."""
        (uplink,) = self.status()["uplinks"].values()
        return dict(uplink)

    def wait_delivered(self, *, timeout_s: float) -> float:
        """Wait until nothing is held; return how long that took in seconds."""
        began_s = time.monotonic()
        while self.uplink()["held"]:
            if time.monotonic() - began_s > timeout_s:
                raise RuntimeError(f"still held after {timeout_s:.0f} s: {self.uplink()}")
            time.sleep(0.05)
        return time.monotonic() - began_s


class SinkUnderTest(Child):
    """The counting OTLP receiver in a process of its own."""

    def __init__(self, *, port: int = 0, with_grpc: bool = False) -> None:
        options = ["--grpc"] if with_grpc else []
        super().__init__(sys.executable, "-m", "gateway.bench.sink", "--port", str(port), *options, pipe=True)
        self.port = int(self.line())
        self._data_port = int(self.line()) if with_grpc else self.port

    @property
    def endpoint(self) -> str:
        """Return the URL that requests go to: gRPC's where it takes that."""
        return f"http://127.0.0.1:{self._data_port}"


@dataclass(slots=True)
class Workshop:
    """Ends every child that was started in it, whatever happens."""

    folder: Path
    children: list[Child]

    def add(self, child: Child) -> None:
        """Take care of `child`."""
        self.children.append(child)

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Self]:
        """Make a folder and end what was started in it."""
        with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
            shop = cls(Path(folder), [])
            try:
                yield shop
            finally:
                for child in reversed(shop.children):
                    child.end()
