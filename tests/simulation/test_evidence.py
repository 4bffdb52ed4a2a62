"""An anomaly brings its own evidence, over every kind of road that is thinned or late, and across a kill."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from gateway.bench.virtual_time import VirtualClock, run
from gateway.codecs import zstd
from gateway.codecs.otlp import encode_log_record
from gateway.codecs.readings_json import Messages
from gateway.control.reading import decode_hook
from gateway.core.batch import Batch, LogRecords, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.store.database import Store, StoreSettings
from gateway.store.taking import taking
from gateway.uplinks.bridge_encoder import BridgeEncoder
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.file_settings import FileUplinkSettings
from gateway.uplinks.file_wire import FileWire
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.worker import Seams
from hil.at_once import AtOnce, TakingWire
from hil.otlp_files import files_in, requests_in, signal_of
from hil.otlp_readings import parse_logs, parse_metrics

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.uplinks.guards import Packed

SERIES = 40
MINUTE_S = 60
NOON_S = 1_789_948_800 + 43_200
KINDS = {
    "otlp": (OtlpUplinkSettings, {"endpoint": "http://h:1", "budget": {"per_hour": "768KiB"}}),
    "mqtt otlp": (MqttUplinkSettings, {"url": "mqtt://h", "payload": "otlp", "budget": {"per_hour": "768KiB"}}),
    "mqtt json": (MqttUplinkSettings, {"url": "mqtt://h", "payload": "json", "budget": {"per_hour": "8MiB"}}),
    "some of it": (
        MqttUplinkSettings,
        {"url": "mqtt://h", "payload": "otlp", "budget": {"per_hour": "768KiB"}, "signals": ["metrics"]},
    ),
    "file": (FileUplinkSettings, {"batch_interval": "2m"}),
}


class Box:
    """A store with one uplink of a kind; `arrived` are the requests of readings, each with the numbers in it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.clock = VirtualClock(NOON_S * NS_PER_S)
        self.wire = TakingWire()
        self.task: asyncio.Task[None]
        self.dice = Random(4)
        self.minute = 0
        self.priority = Priority.NORMAL

    async def start(self) -> None:
        make, table = KINDS[self.kind]
        if make is FileUplinkSettings:
            self.stick = self.folder.with_name(f"{self.folder.name} stick")
            self.stick.mkdir(exist_ok=True)
            table = {**table, "directory": str(self.stick), "compression": "none"}
        self.takes = {"far": taking(signals=table["signals"])} if "signals" in table else {}
        settings = msgspec.convert({**table, "name": "far"}, make, dec_hook=decode_hook)
        self.store = await Store.open(
            state_dir=self.folder, settings=StoreSettings(), clock=self.clock, uplinks=["far"], max_series=100,
            telemetry=Telemetry(), commit_interval_s=0.2, takes=self.takes,
        )  # fmt: skip
        self.store.evidence.keep("far", float(settings.evidence))
        shared: dict[str, Any] = {"gateway_attributes": (), "version": "0"}
        seams = Seams(wire=self.wire, start_worker=lambda _: AtOnce())
        if make is MqttUplinkSettings:
            encoder = BridgeEncoder(settings, series=self.store.series, **shared)
            seams = Seams(wire=self.wire, start_worker=lambda _: AtOnce(), encoder=encoder)
        if make is FileUplinkSettings:
            wire = FileWire(settings, gateway_id="g", notes=self.store.notes, clock=self.clock, random=self.dice)
            seams = Seams(wire=wire, start_worker=lambda _: AtOnce())
        self.uplink = Uplink(
            settings, store=self.store, clock=self.clock, telemetry=Telemetry(), random=self.dice, seams=seams, **shared
        )
        self.task = asyncio.create_task(self.uplink.run())

    async def append(self, *, found: bool = False) -> set[float]:
        """Let a minute go by and have all series say what they saw in it, a finding beside it; return its numbers."""
        await asyncio.sleep(MINUTE_S)
        times = (NOON_S + MINUTE_S * self.minute + np.arange(MINUTE_S)) * NS_PER_S
        self.minute += 1
        pieces = []
        for k in range(SERIES):
            series = self.store.resolve(Series((("device.id", f"d{k}"),), "n"))
            values = np.array([round(self.dice.uniform(0, 1e6), 3) for _ in range(MINUTE_S)])
            pieces.append(Batch.of(series, times, values))
        batch = Batch.join(pieces).sorted()
        logs = self.finding() if found else None
        if found:
            self.store.evidence.found()
        await self.store.append([(self.priority, batch)], **({"logs": logs} if found else {}))
        return set(batch.values().tolist())

    def finding(self) -> LogRecords:
        series = self.store.resolve(Series((), "", kind="log"))
        body = encode_log_record(
            time_ns=self.clock.wall_ns(), observed_ns=0, severity_number=13, severity_text="", body="x", attributes=()
        )
        return LogRecords(np.array([series], np.uint32), np.array([self.clock.wall_ns()]), (body,))

    def arrived(self) -> list[tuple[bool, list[float]]]:
        """Return of each request of readings whether it was thinned, and the numbers in it."""
        if self.kind == "file":
            paths = [path for path in files_in(self.stick) if signal_of(path) == "metrics"]
            bodies = [body for path in paths for body in requests_in(path)]
            return [(False, [reading.value for reading in parse_metrics(body)]) for body in bodies]
        found = []
        for packed in self.wire.sent:
            if packed.signal is not Signal.METRICS:
                continue
            body = packed.body
            if isinstance(body, Messages):
                ends = itertools.pairwise([0, *body.ends.tolist()])
                said = [msgspec.json.decode(bytes(body[a:b])) for a, b in ends]
                found.append((any("diluted" in one for one in said), [one["value"] for one in said]))
                continue
            body = zstd.decompress(body, bytes_max=1 << 26) if packed.encoding == "zstd" else body
            found.append((b"tidegate.diluted" in body, [reading.value for reading in parse_metrics(body)]))
        return found

    async def kill(self) -> Box:
        """Return what comes up after a kill in this moment."""
        left = self.folder.with_name("left")
        shutil.copytree(self.folder, left)
        other = Box(self.kind, left)
        other.clock, other.minute, other.dice = self.clock, self.minute, self.dice
        await self.end()
        return other

    async def end(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        await self.store.close()


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_goes_first_and_whole_though_a_kill_comes_between(tmp_path: Path, kind: str) -> None:
    """After half an hour of thinned readings, or before they were written; what came before it waits."""

    async def live() -> None:
        box = Box(kind, tmp_path / "state")
        await box.start()
        for _ in range(31):
            await box.append()
        if kind != "file":
            steps = [is_thinned for is_thinned, _ in box.arrived()]
            assert any(steps)
            assert box.uplink.status()["budget"]["plan"]["classes"]["normal"]["step_s"] > 0
        evidence = await box.append(found=True)
        after = await box.kill()
        await after.start()
        await asyncio.sleep(15)
        arrived: set[float] = set()
        for is_thinned, numbers in after.arrived():
            assert not is_thinned
            arrived |= set(numbers)
            if evidence <= arrived:
                break
        assert evidence <= arrived, after.uplink.status()
        # And of what came long before not more than shares a minute with it.
        assert len(arrived) <= 3 * len(evidence)
        logs = [packed for packed in after.wire.sent if packed.signal is Signal.LOGS]
        assert bool(logs) is (kind not in {"some of it", "file"})
        assert all(line.body == "x" for packed in logs for line in parse_logs(unpacked(packed)))
        # What comes in the minute after it is evidence too, though nobody remembers when that began.
        late = await after.append()
        await asyncio.sleep(30 if kind != "file" else 150)
        assert late <= {number for is_thinned, numbers in after.arrived() if not is_thinned for number in numbers}
        await after.end()

    run(live())


@pytest.mark.parametrize("kind", ["otlp", "mqtt otlp", "mqtt json"])
def test_a_finding_is_told_at_once_though_its_class_is_thinned(tmp_path: Path, kind: str) -> None:
    """It is of class critical: where readings of that class wait for their step to end, it goes with what is around."""

    async def live() -> None:
        box = Box(kind, tmp_path / "state")
        box.priority = Priority.CRITICAL
        await box.start()
        for _ in range(31):
            await box.append()
        assert box.uplink.status()["budget"]["plan"]["classes"]["critical"]["step_s"] > 0
        evidence = await box.append(found=True)
        await asyncio.sleep(15)
        logs = [
            line for packed in box.wire.sent if packed.signal is Signal.LOGS for line in parse_logs(unpacked(packed))
        ]
        assert [line.body for line in logs] == ["x"], box.uplink.status()
        assert evidence <= {number for is_thinned, numbers in box.arrived() if not is_thinned for number in numbers}
        await box.end()

    run(live())


def unpacked(packed: Packed) -> bytes:
    """Return the body as it was before it was compressed."""
    return zstd.decompress(packed.body, bytes_max=1 << 26) if packed.encoding == "zstd" else packed.body
