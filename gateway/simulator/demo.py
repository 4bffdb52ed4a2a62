"""`tidegate demo`: the whole story on one desk. A real gateway in a process of its own; only the plant is fake.

The story: devices talk → the link goes → an anomaly → the gateway is killed with SIGKILL → it starts again → the
link returns → fresh data first, the backlog behind it → every acknowledged message is at the collector.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.control.summary import fetch_status
from gateway.net.ports import free_port
from gateway.simulator.collector import Collector
from gateway.simulator.plant import MqttPlant, SerialDevice

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_MIN: Final = 12.0
DEVICES: Final = ["pump-1", "pump-2", "pump-3", "cooler-1", "cooler-2"]
PER_SECOND: Final = 20.0
DRAIN_S_MAX: Final = 30.0
START_S_MAX: Final = 15.0

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
examples = [ {{ topic = "plant/d1/climate", payload = '{{"ts":1790000000000,"temp":20.5}}', gives = {{ temperature = 20.5 }} }} ]

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


class Story:
    """Prints what happens, with the seconds since it began; colour only on a terminal."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def tell(self, text: str, mark: str = "·") -> None:
        """Print one line of the story."""
        codes = {"✓": "32", "✗": "31", "!": "33", "▸": "1"}
        if self._colour and mark in codes:
            mark, text = f"\x1b[{codes[mark]}m{mark}", f"{text}\x1b[0m"
        print(f"{time.monotonic() - self._began_s:6.1f} s  {mark} {text}", flush=True)


@dataclass(slots=True)
class Gateway:
    """The real gateway, as a child process."""

    config: Path
    control_url: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and wait until it is ready; return how long that took in seconds."""
        began_s = time.monotonic()
        command = [sys.executable, "-m", "gateway", "run", "-c", str(self.config), "--log-level", "warning"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  our own interpreter and file
        while time.monotonic() - began_s < START_S_MAX:
            if self.process.poll() is not None:
                raise RuntimeError(f"the gateway ended with exit code {self.process.returncode}")
            with contextlib.suppress(OSError, ValueError):
                self.status()
                return time.monotonic() - began_s
            time.sleep(0.05)
        raise RuntimeError(f"the gateway was not ready within {START_S_MAX:.0f} s")

    def status(self) -> dict[str, Any]:
        """Ask it how it is."""
        return fetch_status(self.control_url, token="", timeout_s=5)  # noqa: S106  no token on loopback

    def end(self, number: signal.Signals) -> float:
        """Send it a signal and wait for its end; return how long that took in seconds."""
        assert self.process is not None
        began_s = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=30)
        return time.monotonic() - began_s


def demo(*, seconds: float, keep: bool) -> int:
    """Tell the story in about `seconds`; return 0 when every promise in it held."""
    story = Story()
    with tempfile.TemporaryDirectory(prefix="tidegate-demo-") as folder:
        return Demo(Path(folder), story, seconds=max(seconds, SECONDS_MIN)).run(keep=keep)


class Demo:
    """The desk: plant, gateway, collector."""

    def __init__(self, folder: Path, story: Story, *, seconds: float) -> None:
        self._story = story
        self._seconds = seconds
        self._collector = Collector()
        line = folder / "ttyPLANT"
        mqtt, control = free_port(), free_port()
        config = folder / "tidegate.toml"
        config.write_text(
            CONFIG.format(
                state=json.dumps(str(folder / "state")),
                mqtt=mqtt,
                line=json.dumps(str(line)),
                endpoint=self._collector.endpoint,
                control=control,
            ),
            encoding="utf-8",
        )
        self._state = folder / "state"
        self._control_url = f"http://127.0.0.1:{control}"
        self._gateway = Gateway(config, self._control_url)
        self._plant = MqttPlant(port=mqtt, devices=DEVICES, per_second=PER_SECOND)
        self._serial = SerialDevice(link=line, per_second=PER_SECOND)
        self._failures: list[str] = []

    def run(self, *, keep: bool) -> int:
        """Tell the story."""
        try:
            self._begin()
            self._go_offline()
            self._kill()
            self._come_back()
            self._settle()
            if keep:
                self._stay()
        except RuntimeError as error:
            self._story.tell(str(error), "✗")
            self._failures.append(str(error))
        finally:
            self._gateway.end(signal.SIGKILL) if self._failures else self._stop()
            self._collector.close()
        for failure in self._failures:
            self._story.tell(failure, "✗")
        if not self._failures:
            self._story.tell("Everything that was accepted arrived. That is the promise.", "✓")
        return 1 if self._failures else 0

    def _begin(self) -> None:
        tell = self._story.tell
        tell("Tidegate demo: five MQTT devices, one serial device, one gateway, one OTLP collector", "▸")
        took_s = self._gateway.start()
        tell(f"gateway ready after {took_s:.1f} s, using {self._rss_mb():.0f} MB; its page: {self._control_url}/")
        self._plant.start()
        self._serial.start()
        self._wait(0.2)
        tell(f"{self._collector.points:,} readings at the collector, {self._per_reading():.1f} bytes each on the wire")

    def _go_offline(self) -> None:
        self._collector.close()
        self._story.tell("the link goes: the collector is gone, the devices keep talking", "!")
        self._wait(0.12)
        self._plant.anomaly_on = "pump-3"
        self._story.tell("pump-3 runs hot by 60 degrees, and nobody upstream can see it", "!")
        self._wait(0.08)
        self._plant.anomaly_on = None
        held = self._uplink()["held"]
        self._story.tell(f"held on the shelf: {held:,} readings; every one was acknowledged after it was on disk")

    def _kill(self) -> None:
        self._gateway.end(signal.SIGKILL)
        self._story.tell("kill -9: the gateway is gone in the middle of it all", "!")
        time.sleep(0.5)
        took_s = self._gateway.start()
        held = self._uplink()["held"]
        self._story.tell(f"started again after {took_s:.1f} s, with {held:,} readings still on the shelf")
        self._wait(0.15)

    def _come_back(self) -> None:
        backlog = self._uplink()["held"]
        back_s = time.monotonic()
        self._collector.open()
        self._story.tell(f"the link is back, with {backlog:,} readings behind it", "!")
        self._until(lambda: self._collector.first_after_open is not None, "nothing arrived after the link came back")
        first = self._collector.first_after_open
        assert first is not None
        age_s = self._age_s(first[2])
        self._story.tell(f"first readings after {first[0] - back_s:.1f} s, the freshest {age_s:.1f} s old: fresh first")
        if age_s > 3:
            self._failures.append(f"the first readings after the outage were {age_s:.0f} s old, not fresh")
        self._wait(0.2)
        self._story.tell(f"{self._collector.backfill_points:,} readings came as backfill, marked so")
        hot = [text for device, text in self._collector.findings if device == "pump-3"]
        if hot:
            self._story.tell(f"and the finding was kept too: {hot[0]}", "✓")
        else:
            self._failures.append("the anomaly of pump-3 was not reported")

    def _settle(self) -> None:
        unacknowledged = self._plant.stop(wait_s=10) + self._serial.stop(wait_s=10)
        self._until(lambda: self._uplink()["held"] == 0, "the backlog did not drain")
        status = self._gateway.status()
        uplink = status["uplinks"]["cloud"]
        ledger = sum(uplink["ledger"].values())
        self._story.tell(
            f"accepted {status['accepted']:,} = delivered {uplink['delivered']:,} + held {uplink['held']:,} "
            f"+ ledger {ledger:,}; possibly sent twice {uplink['maybe_twice']:,}; RSS {self._rss_mb():.0f} MB"
        )
        if status["accepted"] != uplink["delivered"] + uplink["held"] + ledger:
            self._failures.append("the gateway's own numbers don't add up")
        acknowledged = {**self._plant.acknowledged, self._serial.name: self._serial.acknowledged}
        total = sum(map(len, acknowledged.values()))
        missing = sum(len(numbers - self._collector.seen(d).keys()) for d, numbers in acknowledged.items())
        twice = sum(times - 1 for d in acknowledged for times in self._collector.seen(d).values())
        self._story.tell(
            f"messages acknowledged to the devices: {total:,}; of them missing at the collector: {missing}; "
            f"seen twice: {twice}; never acknowledged: {unacknowledged}",
            "✗" if missing else "✓",
        )
        if missing:
            self._failures.append(f"{missing} acknowledged messages are missing")

    def _stop(self) -> None:
        took_s = self._gateway.end(signal.SIGTERM)
        self._story.tell(f"SIGTERM: stopped cleanly in {took_s:.1f} s")

    def _stay(self) -> None:
        self._story.tell(f"left running: {self._control_url}/  status: tidegate status --url {self._control_url}", "▸")
        self._story.tell("Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)

    def _uplink(self) -> dict[str, Any]:
        uplink: dict[str, Any] = self._gateway.status()["uplinks"]["cloud"]
        return uplink

    def _wait(self, share: float) -> None:
        time.sleep(self._seconds * share)

    def _until(self, done: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + DRAIN_S_MAX
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError(otherwise)
            time.sleep(0.05)

    def _per_reading(self) -> float:
        return self._collector.wire_bytes / max(self._collector.points, 1)

    def _rss_mb(self) -> float:
        assert self._gateway.process is not None
        pages = Path(f"/proc/{self._gateway.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    @staticmethod
    def _age_s(time_ns: int) -> float:
        from gateway.simulator.plant import CLOCK  # noqa: PLC0415  the one clock of the desk

        return (CLOCK.wall_ns() - time_ns) / 1e9
