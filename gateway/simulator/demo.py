"""`tidegate demo`: the whole story on one desk. A real gateway in a process of its own; only the plant is fake.

The story: devices talk → the link goes → an anomaly → the gateway is killed with SIGKILL → it starts again → the
link returns → fresh data first, the backlog behind it → every acknowledged message is at the collector.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.control.init import command_name
from gateway.core.words import plural
from gateway.net.ports import free_port
from gateway.simulator.collector import Collector
from gateway.simulator.desk import BrokenPromiseError, Gateway, Story, wait_until, write_config
from gateway.simulator.plant import CLOCK, MqttPlant, SerialDevice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SECONDS_MIN: Final = 12.0
DEVICES: Final = ["pump-1", "pump-2", "pump-3", "cooler-1", "cooler-2"]
HOT: Final = "pump-3"
PER_SECOND: Final = 20.0
# A machine that has much else to do gets there too, only later.
DRAIN_S_MAX: Final = 60.0
ACKNOWLEDGE_S_MAX: Final = 30.0
# How many readings of each device are known when one of them runs hot, and how many of those are hot at least.
KNOWN_READINGS: Final = 50
HOT_READINGS: Final = 5
FRESH_S_MAX: Final = 5.0
DOWN_S: Final = 0.5
INTERRUPTED: Final = 130


def demo(*, seconds: float, keep: bool) -> int:
    """Tell the story in about `seconds`; return 0 when every promise in it held, 1 when not."""
    story = Story()
    with tempfile.TemporaryDirectory(prefix="tidegate-demo-") as folder, _ended_by_signals():
        return Demo(Path(folder), story, seconds=max(seconds, SECONDS_MIN)).run(keep=keep)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a closed terminal and a `kill` end the story as Ctrl-C does, so that no gateway is left behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Demo:
    """The desk: plant, gateway, collector."""

    def __init__(self, folder: Path, story: Story, *, seconds: float) -> None:
        self._tell = story.tell
        self._seconds = seconds
        self._failures: list[str] = []
        self._unanswered = 0
        self._collector = Collector()
        line, mqtt, control = folder / "ttyPLANT", free_port(), free_port()
        config = folder / "tidegate.toml"
        write_config(
            config,
            state=folder / "state",
            line=line,
            mqtt=mqtt,
            control=control,
            endpoint=self._collector.endpoint,
        )
        self._gateway = Gateway(config, f"http://127.0.0.1:{control}", folder / "gateway.log")
        self._plant = MqttPlant(port=mqtt, devices=DEVICES, per_second=PER_SECOND)
        self._serial = SerialDevice(link=line, per_second=PER_SECOND)

    def run(self, *, keep: bool) -> int:
        """Tell the story; leave nothing running."""
        try:
            self._begin()
            self._go_offline()
            self._kill()
            self._come_back()
            self._settle()
            if keep and not self._failures:
                self._stay()
            self._stop()
        except KeyboardInterrupt:
            self._tell("Interrupted: everything is stopped.", "!")
            return INTERRUPTED
        except (BrokenPromiseError, OSError) as error:
            self._failures.append(str(error))
        finally:
            self._gateway.end(signal.SIGTERM)
            self._plant.stop()
            self._serial.stop()
            self._collector.close()
        return self._judge()

    def _begin(self) -> None:
        self._tell(
            "Tidegate demo. On this desk: five MQTT devices and one on a serial line, a real gateway, and a small "
            f"OTLP collector behind a link that will fail. It takes about {self._seconds:.0f} seconds.",
            "▸",
        )
        took_s = self._gateway.start()
        self._tell(
            f"The gateway is ready after {took_s:.1f} s and uses {self._gateway.memory_mib():.0f} MiB of memory. "
            f"It shows itself at {self._gateway.control_url}/"
        )
        self._plant.start()
        self._serial.start()
        self._wait(0.2)
        per_reading = self._collector.wire_bytes / max(self._collector.points, 1)
        self._tell(
            f"{self._collector.points:,} readings have arrived at the collector, {per_reading:.1f} bytes each on the "
            "wire."
        )

    def _go_offline(self) -> None:
        self._collector.close()
        self._tell("The link goes down: the collector is out of reach. The devices keep talking.", "!")
        self._wait(0.12)
        self._hear(KNOWN_READINGS)
        self._plant.anomaly_on = HOT
        self._tell(f"{HOT} runs hot by 60 degrees, and nobody upstream can see it.", "!")
        known = self._plant.published // len(DEVICES)
        self._wait(0.08)
        self._hear(known + HOT_READINGS)
        self._plant.anomaly_on = None
        held = self._gateway.uplink()["held"]
        self._tell(f"{held:,} readings are held on disk. Each was acknowledged only when it was there.")

    def _hear(self, readings: int) -> None:
        """Wait until each device has said so much."""
        wait_until(
            lambda: self._plant.published >= readings * len(DEVICES), "the devices do not talk", within_s=DRAIN_S_MAX
        )

    def _kill(self) -> None:
        self._gateway.end(signal.SIGKILL)
        self._unanswered = self._plant.unacknowledged + self._serial.unacknowledged
        self._tell("kill -9: the gateway dies in the middle of it all.", "!")
        time.sleep(DOWN_S)
        took_s = self._gateway.start()
        held = self._gateway.uplink()["held"]
        self._tell(f"Started again, ready after {took_s:.1f} s: {held:,} readings are on disk, and more arrive.")
        self._wait(0.15)

    def _come_back(self) -> None:
        backlog = self._gateway.uplink()["held"]
        back_s = time.monotonic()
        self._collector.open()
        self._tell(f"The link is back. {backlog:,} readings wait behind it.", "!")
        wait_until(
            lambda: self._collector.first_after_open is not None,
            "nothing arrived after the link came back",
            within_s=DRAIN_S_MAX,
        )
        first = self._collector.first_after_open
        assert first is not None
        arrived_s, _, newest_ns = first
        age_s = (CLOCK.wall_ns() - newest_ns) / 1e9 - (time.monotonic() - arrived_s)
        self._tell(
            f"The first request came {arrived_s - back_s:.1f} s later; what it brought was {age_s:.1f} s old. "
            "Fresh readings go first, the backlog follows."
        )
        if age_s > FRESH_S_MAX:
            self._failures.append(f"the first readings after the outage were {age_s:.0f} s old, not fresh")
        self._wait(0.2)
        with contextlib.suppress(BrokenPromiseError):
            wait_until(
                lambda: bool(self._collector.backfill_points and self._found()), "it did not come", within_s=DRAIN_S_MAX
            )
        held = self._gateway.uplink()["held"]
        self._tell(f"{_backlog(held)} What came late is marked so.")
        if not self._collector.backfill_points:
            self._failures.append("nothing of the backlog was marked as backfill")
        self._see_finding()

    def _found(self) -> list[str]:
        return [text for device, text in list(self._collector.findings) if device == HOT]

    def _see_finding(self) -> None:
        if found := self._found():
            self._tell("The gateway saw the anomaly itself, while it was cut off:", "✓")
            self._tell(f"“{found[0]}”", " ")
        else:
            self._failures.append(f"the anomaly of {HOT} was not reported")

    def _settle(self) -> None:
        """Let everything come to rest, then compare what the devices, the gateway and the collector say."""
        unacknowledged = self._plant.pause(wait_s=ACKNOWLEDGE_S_MAX) + self._serial.pause(wait_s=ACKNOWLEDGE_S_MAX)
        wait_until(lambda: self._gateway.uplink()["held"] == 0, "the backlog did not drain", within_s=DRAIN_S_MAX)
        status = self._gateway.status()
        uplink = status["uplinks"]["cloud"]
        accepted, delivered, held = status["accepted"], uplink["delivered"], uplink["held"]
        ledger, maybe_twice = sum(uplink["ledger"].values()), uplink["maybe_twice"]
        adds_up = accepted == delivered + held + ledger
        self._tell("The devices pause, and the gateway's books are closed. In readings:")
        self._tell(
            f"accepted {accepted:,} = delivered {delivered:,} + held {held:,} + lost {ledger:,}",
            "✓" if adds_up else "✗",
        )
        if not adds_up:
            self._failures.append("the gateway's own numbers don't add up")
        if ledger:
            self._failures.append(f"{plural(ledger, 'reading')} lost: {uplink['ledger']}")
        self._compare(unacknowledged, maybe_twice=maybe_twice)

    def _compare(self, unacknowledged: int, *, maybe_twice: int) -> None:
        acknowledged = {**self._plant.acknowledged, self._serial.name: self._serial.acknowledged}
        total = sum(map(len, acknowledged.values()))
        missing = sum(len(numbers - self._collector.seen(device).keys()) for device, numbers in acknowledged.items())
        twice = sum(times - 1 for device in acknowledged for times in self._collector.seen(device).values())
        self._tell(
            f"In messages, of two or three readings each: {total:,} were acknowledged to the devices; "
            f"{missing} of them are missing at the collector.",
            "✗" if missing else "✓",
        )
        explained = self._unanswered + maybe_twice
        if twice:
            self._tell(
                f"There twice: {twice:,} of them. At the kill {self._unanswered:,} were on their way without an "
                f"answer, so their devices sent them again; the uplink says {maybe_twice:,} of its own."
            )
        if missing:
            self._failures.append(f"{plural(missing, 'acknowledged message')} missing at the collector")
        if twice > explained:
            self._failures.append(f"{plural(twice, 'message')} came twice, of which only {explained} can be explained")
        if unacknowledged:
            self._failures.append(
                f"{plural(unacknowledged, 'message')} not acknowledged within {ACKNOWLEDGE_S_MAX:.0f} s"
            )

    def _stay(self) -> None:
        self._plant.resume()
        self._serial.resume()
        self._tell(f"Left running, and the devices talk again. Look at {self._gateway.control_url}/ or ask:", "▸")
        self._tell(f"{command_name()} status --url {self._gateway.control_url}", " ")
        self._tell("Ctrl-C ends it.", " ")
        with contextlib.suppress(KeyboardInterrupt):
            while self._gateway.process is not None and self._gateway.process.poll() is None:
                time.sleep(0.2)

    def _stop(self) -> None:
        took_s, code = self._gateway.end(signal.SIGTERM)
        self._tell(f"SIGTERM: the gateway stops cleanly in {took_s:.1f} s.")
        if code:
            self._failures.append(f"the gateway ended with exit code {code}")

    def _judge(self) -> int:
        for failure in self._failures:
            self._tell(failure, "✗")
        if self._failures:
            for line in self._gateway.last_words():
                self._tell(f"the gateway said: {line}", " ")
            return 1
        self._tell("All that was accepted has arrived. That is the promise.", "✓")
        return 0

    def _wait(self, share: float) -> None:
        time.sleep(self._seconds * share)


def _backlog(held: int) -> str:
    if not held:
        return "The backlog has followed: nothing is held any more."
    return f"The backlog is following: {plural(held, 'reading')} still held, those of this moment among them."
