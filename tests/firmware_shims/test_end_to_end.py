"""A device in a MicroPython VM, a pty that hurts, the serial door: every sample once, or counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cbor2
import numpy as np
import pytest

from gateway.core.clock import FakeClock
from gateway.core.contracts import Accepted, Arrivals, FullError
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration
from gateway.sources.serial import SerialSettings, SerialSource

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable

    from hil.children import Child
    from hil.serial_lines import SerialLine

SHIMS = Path(__file__).parents[2] / "firmware_shims"
SAMPLES = 1200
KINDS = {70: "<u4", 78: "<i4", 85: "<f4"}

# Samples as fast as it can poll, then polls until all is acknowledged; the last line says what it counted.
DEVICE = """
import json, time
from tidegate.uplink import Uplink
from tidegate.ports import device_id

{port}

def work():
    times = []
    uplink = Uplink(
        make_port(), (("temp", "f"), ("n", "i")), topic="boiler", device_id=device_id(), records={records},
        frame_bytes=256, window={window}, flush_ms=50, ack_ms=400, on_time=lambda *time: times.append(time),
    )
    values = [0.0, 0]
    start = time.ticks_ms()
    for n in range({samples}):
        values[0] = n / 2
        values[1] = n
        uplink.sample(values)
        if n % {burst} == 0:
            for _ in range({burst}):
                uplink.poll()
                time.sleep_ms(1)
    while uplink.pending and time.ticks_diff(time.ticks_ms(), start) < 40000:
        uplink.poll()
        time.sleep_ms(2)
    return dict(
        acknowledged=uplink.acknowledged, dropped=uplink.dropped, pending=uplink.pending,
        resent=uplink.resent, put_off=uplink.put_off, times=times,
    )

report = work()
{report}
"""

WEB_PORT = """
import host
from binascii import hexlify, unhexlify

class Port:
    def __init__(self):
        self.waiting = b""
    def any(self):
        if not self.waiting:
            self.waiting = unhexlify(host.read(256))
        return len(self.waiting)
    def readinto(self, buffer):
        count = min(len(buffer), self.any())
        buffer[:count] = self.waiting[:count]
        self.waiting = self.waiting[count:]
        return count
    def write(self, data):
        return host.write(hexlify(bytes(data)).decode())

make_port = Port
"""

UNIX_PORT = """
from tidegate.ports import UsbPort as make_port
"""


class Gateway:
    """The serial door with a shelf that commits late and has no room now and then."""

    def __init__(self, line: SerialLine, *, full: float) -> None:
        self.numbers: list[int] = []
        self.dropped = 0
        self.topics: set[bytes] = set()
        self._dice = random.Random(7)
        self._full = full
        settings = SerialSettings(name="line1", port=str(line.path), reopen_delay=Duration(0.02))
        self.source = SerialSource(
            settings, accept=self.accept, clock=FakeClock(), telemetry=Telemetry(), random=self._dice
        )

    async def accept(self, arrivals: Arrivals, /) -> Accepted:
        await asyncio.sleep(self._dice.uniform(0, 0.05))
        if self._dice.random() < self._full:
            raise FullError("no room", 0.1)
        await asyncio.sleep(self._dice.uniform(0, 0.1))
        self.topics.update(arrivals.topics)
        for payload in arrivals.payloads:
            batch = cbor2.loads(payload)
            assert 0 <= max(column(batch["t"])) <= batch["now"]
            numbers = column(batch["n"])
            assert column(batch["temp"]) == [n / 2 for n in numbers]
            self.numbers += numbers
            self.dropped = max([self.dropped, *column(batch.get("tidegate", {}).get("device", {}).get("dropped"))])
        return Accepted(len(arrivals.payloads))

    @property
    def status(self) -> dict[str, Any]:
        """What the source says of itself."""
        return self.source.status()


def column(tagged: cbor2.CBORTag | None) -> list[Any]:
    """Return a typed array's values."""
    return [] if tagged is None else np.frombuffer(tagged.value, KINDS[tagged.tag]).tolist()


@contextlib.asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[None]:
    """Run the door."""
    task = asyncio.create_task(gateway.source.run())
    try:
        while gateway.status["state"] != "reading":
            await asyncio.sleep(0.005)
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def hurt(line: SerialLine) -> None:
    """Lose and change bytes both ways: about every tenth batch, and answers too."""
    for way in (line.to_host, line.to_device):
        way.drop = way.garble = 1 / 4000
    line.to_device.drop = 1 / 200


def check(gateway: Gateway, report: dict[str, Any]) -> None:
    """Every sample is at the gateway once, or among those that the ring let go."""
    assert report["pending"] == 0, report
    assert len(gateway.numbers) == len(set(gateway.numbers)) == report["acknowledged"]
    assert len(gateway.numbers) + report["dropped"] == SAMPLES
    assert gateway.dropped == report["dropped"]
    assert gateway.topics == {b"line1/boiler"}
    assert report["times"], "the gateway never said what time it is"


async def interrupt(gateway: Gateway, line: SerialLine, ended: Callable[[], bool]) -> None:
    """Pull the plug half way, then wait for the end."""
    async with asyncio.timeout(100):
        while len(gateway.numbers) < SAMPLES // 4 and not ended():
            await asyncio.sleep(0.01)
        line.unplug()
        await asyncio.sleep(0.1)
        line.plug()
        while not ended():
            await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("records", "burst"), [(SAMPLES, 10), (30, 100)], ids=["all fit", "ring overflows"])
async def test_every_sample_arrives_once_or_is_counted(
    serial_line: SerialLine, start_vm: Callable[..., Child], records: int, burst: int
) -> None:
    """32-bit VM, 4 frames under way, late commits, NAKs, lost ACKs, cut bytes, an adapter that falls out."""
    gateway = Gateway(serial_line, full=0.1)
    source = DEVICE.format(
        port=WEB_PORT,
        records=records,
        window=4,
        samples=SAMPLES,
        burst=burst,
        report="print(json.dumps(report))",
    )
    hurt(serial_line)
    async with running(gateway):
        child = start_vm(source, port=serial_line.device_path)
        await interrupt(gateway, serial_line, lambda: not child.is_running)
    assert child.wait() == 0, child.output
    report = json.loads(child.lines[-1])
    check(gateway, report)
    assert report["resent"] > 0
    assert report["put_off"] > 0
    # Of few frames none needs to have been one that was stored and whose ACK was lost.
    assert gateway.status["repeated"] > 0 or records < SAMPLES
    assert (report["dropped"] > 0) == (records < SAMPLES)


@pytest.mark.slow
async def test_the_same_in_64_kib_over_standard_input_and_output(
    serial_line: SerialLine, start_unix_port: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """As a board talks whose USB is its console, with the heap of a small one."""
    gateway = Gateway(serial_line, full=0.1)
    report = "import sys; sys.stderr.write(json.dumps(report))"
    source = DEVICE.format(port=UNIX_PORT, records=500, window=2, samples=SAMPLES, burst=10, report=report)
    hurt(serial_line)
    async with running(gateway):
        port = os.open(serial_line.device_path, os.O_RDWR | os.O_NOCTTY)
        child = start_unix_port(source, heap="64k", stdin=port, stdout=port, stderr=-1)
        os.close(port)
        await interrupt(gateway, serial_line, lambda: child.poll() is not None)
        _, said = child.communicate()
    assert child.returncode == 0, said
    check(gateway, json.loads(said))


# As much of a board as the example asks for; the UART is the test's line.
MACHINE = (
    WEB_PORT
    + """
class Pin:
    def __init__(self, number):
        pass

class ADC(Pin):
    def read_u16(self):
        return 14000

class RTC:
    def datetime(self, when):
        print("clock", when[0], when[4])

def UART(number, baud, **options):
    return Port()

def unique_id():
    return b"\\xe6\\x61"
"""
)


async def test_the_example_for_a_board_runs_as_it_is(serial_line: SerialLine, start_vm: Callable[..., Child]) -> None:
    """main.py: the chip's temperature arrives, the board's name is known, its clock is set."""
    gateway = Gateway(serial_line, full=0)
    kept: list[Any] = []

    async def accept(arrivals: Arrivals, /) -> Accepted:
        kept.extend(zip(arrivals.topics, map(cbor2.loads, arrivals.payloads), strict=True))
        return Accepted(1)

    gateway.source._accept = accept
    async with running(gateway), asyncio.timeout(60):
        child = start_vm((SHIMS / "main.py").read_text(), port=serial_line.device_path, files={"machine.py": MACHINE})
        while not kept:
            assert child.is_running, child.output
            await asyncio.sleep(0.01)
        child.kill()
    topic, batch = kept[0]
    assert topic == b"line1/chip"
    chip = 27 - (14000 * 3.3 / 65535 - 0.706) / 0.001721
    assert column(batch["temperature"])[0] == pytest.approx(chip, rel=1e-5)
    assert gateway.status["devices"] == ["e661"]
    assert child.lines == ["clock 2026 14"]
