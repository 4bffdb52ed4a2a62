"""What stands on the demo's desk: a config, a real gateway as a child process, and someone who tells the story.

Must not reach into the gateway: it is started, asked and ended as anybody would do it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from gateway.control.asking import fetch_status

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

START_S_MAX: Final = 60.0
END_S_MAX: Final = 60.0
LOG_LINES_SHOWN: Final = 10
WIDTH_MIN: Final = 60
WIDTH_MAX: Final = 100

CONFIG: Final = """\
[gateway]
id = "demo"
state_dir = {state}

[[sources]]
type = "mqtt_server"
name = "direct"
listen = "127.0.0.1:{mqtt}"

[[sources]]
type = "serial"
name = "line1"
port = {line}
framing = "cobs"

[[mappings]]
match = "plant/{{device}}/climate"
payload = "json"
resource = {{ "device.id" = "{{device}}" }}
time = {{ field = "ts", unit = "ms" }}
metrics = [
  {{ field = "temp", name = "temperature", unit = "Cel" }},
  {{ field = "hum", name = "humidity", unit = "%" }},
  {{ field = "n", name = "n", type = "int" }},
]

[[mappings.examples]]
topic = "plant/d1/climate"
payload = '{{"ts":1790000000000,"temp":20.5,"hum":40,"n":1}}'
gives = {{ temperature = 20.5, humidity = 40, n = 1 }}

[[mappings]]
match = "line1/{{device}}"
payload = "cbor"
resource = {{ "device.id" = "{{device}}" }}
time = {{ ticks = "t", now = "now", unit = "ms" }}
metrics = [
  {{ field = "pressure", name = "pressure", unit = "bar" }},
  {{ field = "n", name = "n", type = "int" }},
]

[store]
commit_interval = "250ms"

[[detectors]]
match = {{ metric = "temperature" }}
type = "zscore"
threshold = 8.0
warmup = 40

[[uplinks]]
type = "otlp"
name = "cloud"
endpoint = "{endpoint}"
batch_interval = "500ms"

[uplinks.retry]
initial = "200ms"
max = "1s"

[control]
listen = "127.0.0.1:{control}"
"""


def write_config(path: Path, *, state: Path, line: Path, mqtt: int, control: int, endpoint: str) -> None:
    """Write the demo's configuration."""
    text = CONFIG.format(
        state=json.dumps(str(state)), line=json.dumps(str(line)), mqtt=mqtt, control=control, endpoint=endpoint
    )
    path.write_text(text, encoding="utf-8")


class BrokenPromiseError(Exception):
    """The story cannot go on; the message says what did not happen."""


class Story:
    """Prints what happens, with the seconds since it began; colour only on a terminal."""

    def __init__(self, *, out: IO[str] | None = None) -> None:
        self._out = out or sys.stdout
        self._began_s = time.monotonic()
        self._colour = self._out.isatty() and "NO_COLOR" not in os.environ
        columns = shutil.get_terminal_size((80, 24)).columns
        self._width = min(max(columns, WIDTH_MIN), WIDTH_MAX) - 1

    def tell(self, text: str, mark: str = "·") -> None:
        """Print one sentence or two of the story."""
        head = f"{time.monotonic() - self._began_s:6.1f} s  {mark} "
        lines = textwrap.wrap(text, self._width - len(head), break_on_hyphens=False, break_long_words=False)
        codes = {"✓": "32", "✗": "31", "!": "33", "▸": "1"}
        start, end = (f"\x1b[{codes[mark]}m", "\x1b[0m") if self._colour and mark in codes else ("", "")
        for number, line in enumerate(lines):
            print(f"{head if not number else ' ' * len(head)}{start}{line}{end}", file=self._out, flush=True)


@dataclass(slots=True)
class Gateway:
    """The real gateway, as a child process. What it says goes to `log`, to be shown where something fails."""

    config: Path
    control_url: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and wait until it is ready; return how long that took in seconds."""
        began_s = time.monotonic()
        command = [sys.executable, "-m", "gateway", "run", "-c", str(self.config), "--log-level", "warning"]
        # The same code, wherever the demo is started; and a Ctrl-C is for the story, which then ends the gateway.
        home = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  our own interpreter and file
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
                process_group=0,
            )
        while time.monotonic() - began_s < START_S_MAX:
            if self.process.poll() is not None:
                raise BrokenPromiseError(f"the gateway ended with exit code {self.process.returncode}")
            with contextlib.suppress(OSError, ValueError):
                if self.status()["sources"]["direct"]["state"] == "listening":
                    return time.monotonic() - began_s
            time.sleep(0.05)
        raise BrokenPromiseError(f"the gateway was not ready within {START_S_MAX:.0f} s")

    def status(self) -> dict[str, Any]:
        """Ask it how it is."""
        return fetch_status(self.control_url, token="", timeout_s=20)

    def uplink(self) -> dict[str, Any]:
        """Ask it how its uplink is."""
        uplink: dict[str, Any] = self.status()["uplinks"]["cloud"]
        return uplink

    def memory_mib(self) -> float:
        """Return its resident memory."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def end(self, number: signal.Signals) -> tuple[float, int]:
        """Send it a signal and wait for its end; return how long that took in seconds, and its exit code."""
        if self.process is None:
            return 0.0, 0
        began_s = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(timeout=END_S_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return time.monotonic() - began_s, self.process.returncode

    def last_words(self) -> list[str]:
        """Return the last lines that it logged."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        except OSError:
            return []


def wait_until(done: Callable[[], bool], otherwise: str, *, within_s: float) -> None:
    """Poll until `done()`; raise BrokenPromiseError with `otherwise`."""
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            raise BrokenPromiseError(otherwise)
        time.sleep(0.05)
