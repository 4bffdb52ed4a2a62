"""A shelf, an uplink and a line in virtual time, and what arrives at the line's other end, reading by reading.

Shelf, uplink, its scheduler and budget, encoder, compressor and HTTP sender are the gateway's own; time, the line's
speed and the devices are not. Must not judge what it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gateway.bench.line import Line, LineWorker, Receiver
from gateway.bench.plant import Arrived, Plant, Taken
from gateway.bench.sink import fields
from gateway.bench.virtual_time import VirtualClock
from gateway.core.clock import NS_PER_S
from gateway.core.telemetry import Telemetry
from gateway.store.database import Store, StoreSettings
from gateway.store.reading import look_at_held
from gateway.store.segments import decode_metrics
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.worker import Seams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from gateway.bench.line import Received
    from gateway.store.reading import Held
    from gateway.uplinks.settings import OtlpUplinkSettings

# Said where nobody listens: an outage is what is wanted here.
logging.getLogger("tidegate").addHandler(logging.NullHandler())

NAME: Final = "cloud"
RTT_S: Final = 0.1
COMMIT_INTERVAL_S: Final = 1.0
# A point without attributes: tag and length, time as fixed64, value as double or sfixed64.
POINT: Final = np.dtype(
    [("tag", "u1"), ("size", "u1"), ("time_tag", "u1"), ("time", "<i8"), ("value_tag", "u1"), ("value", "<i8")]
)


class Columns:
    """The readings of a request, column by column, read without the gateway's codecs."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[tuple[str, str, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield device, metric, times in Unix ns and the values' 64 bits."""
        body = self._body
        for tag, start, end in fields(body, 0, len(body)):
            assert tag == 0x0A, "resource_metrics"
            device = ""
            for inner, at, stop in fields(body, start, end):
                if inner == 0x0A:  # resource
                    device = self._device(at, stop)
                elif inner == 0x12:  # scope_metrics
                    yield from self._metrics(device, at, stop)

    def _device(self, start: int, end: int) -> str:
        texts = {}
        for _, at, stop in fields(self._body, start, end):
            parts = {tag: (a, b) for tag, a, b in fields(self._body, at, stop)}
            ((_, a, b), *_) = fields(self._body, *parts[0x12])
            texts[self._text(*parts[0x0A])] = self._text(a, b)
        return texts["device.id"]

    def _text(self, start: int, end: int) -> str:
        return self._body[start:end].decode()

    def _metrics(
        self, device: str, start: int, end: int
    ) -> Iterator[tuple[str, str, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        for tag, at, stop in fields(self._body, start, end):
            if tag != 0x12:
                continue
            parts = {inner: (a, b) for inner, a, b in fields(self._body, at, stop)}
            name, (first, last) = self._text(*parts[0x0A]), parts[0x2A]  # name, gauge
            points = np.frombuffer(self._body[first:last], POINT)
            is_plain = (points["tag"] == 0x0A) & (points["size"] == POINT.itemsize - 2) & (points["time_tag"] == 0x19)
            is_plain &= (points["value_tag"] == 0x21) | (points["value_tag"] == 0x31)
            assert is_plain.all(), "points of another form"
            yield device, name, points["time"], points["value"]


class FarEnd:
    """All that came, and when. `per_window` are the bytes on the wire by hours or days of the wall clock."""

    def __init__(self, arrived: Arrived, *, window_s: int = 86_400) -> None:
        self.arrived = arrived
        self.requests = 0
        self.per_window: Counter[int] = Counter()
        self._window_s = window_s
        self.sums = Taken(0, 0, 0)
        self.diluted = 0

    def take(self, request: Received, at_s: float) -> None:
        """Take a request whose last byte is there `at_s`, in virtual time."""
        self.requests += 1
        wall_s = self.arrived.plant.started_ns // NS_PER_S + at_s
        self.per_window[int(wall_s // self._window_s)] += request.wire_bytes
        self.diluted += b"tidegate.diluted" in request.body
        for device, metric, times, bits in Columns(request.body):
            number = self.arrived.plant.numbers[device, metric]
            self.sums = Taken(*map(sum, zip(self.sums, self.arrived.take(number, times, bits), strict=True)))
            self.look(times, at_s)

    def look(self, times: npt.NDArray[np.int64], at_s: float) -> None:
        """Look at the readings of one series in a request."""


class Rig:
    """All of it, open. `append` lets the devices speak, `start` the uplink."""

    def __init__(self, plant: Plant, store: Store, clock: VirtualClock, uplink: Uplink) -> None:
        self.plant, self.store, self.clock, self.uplink = plant, store, clock, uplink
        self.task: asyncio.Task[None] | None = None
        self.second = 0
        # None of them is silent for so long that it would be forgotten.
        self._numbers = np.array([store.resolve(one) for one in plant.series], np.uint32)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, plant: Plant, settings: OtlpUplinkSettings, *, receiver: Receiver, far: FarEnd, rate: float, folder: Path
    ) -> AsyncIterator[Rig]:
        """Open a shelf in `folder` and make its uplink; close both in order at the end."""
        clock, dice = VirtualClock(plant.started_ns), random.Random(1)  # noqa: S311  jitter is no secret
        telemetry = Telemetry()
        store = await Store.open(
            state_dir=folder,
            settings=StoreSettings(),
            clock=clock,
            uplinks=[NAME],
            max_series=2 * len(plant.series),
            telemetry=telemetry,
            commit_interval_s=COMMIT_INTERVAL_S,
        )
        try:
            line = Line(settings, receiver=receiver, take=far.take, clock=clock, random=dice, rate=rate, rtt_s=RTT_S)
            uplink = Uplink(
                settings,
                store=store,
                gateway_attributes=(("tidegate.gateway.id", "bench"),),
                version="bench",
                clock=clock,
                telemetry=telemetry,
                random=dice,
                seams=Seams(wire=line, start_worker=lambda _: LineWorker(clock)),  # type: ignore[arg-type,return-value]
            )
            rig = cls(plant, store, clock, uplink)
            try:
                yield rig
            finally:
                if rig.task is not None:
                    rig.task.cancel()
                    await asyncio.wait({rig.task})
        finally:
            await store.close()

    def start(self) -> None:
        """Let the uplink begin to send, or to try."""
        self.task = asyncio.create_task(self.uplink.run())

    async def append(self, seconds: int) -> None:
        """Let so many seconds go by, and then have the devices say all that they saw in them."""
        self.second += seconds
        await asyncio.sleep(max(0.0, self.second - self.clock.now_s()))
        await self.store.append(
            self.plant.readings(self.second - seconds, seconds, numbers=self._numbers), is_last=True
        )

    def account(self) -> dict[str, Any]:
        """Return what the shelf says became of all it accepted."""
        status = self.store.status()
        return {"accepted": status["accepted"], **status["uplinks"][NAME]}


def add_held(folder: Path, arrived: Arrived) -> Taken:
    """Add what a closed shelf still holds to what has arrived; return how much of it was new, was there, was wrong."""
    total = [Taken(0, 0, 0)]

    def look(held: Held) -> None:
        for segment in held:
            batch = decode_metrics(segment.body)
            starts = batch.run_starts()
            for start, stop in zip(starts, [*starts[1:], len(batch)], strict=True):
                series = held.series(int(batch.series[start]))
                number = arrived.plant.numbers[str(series.resource[0][1]), series.name]
                total.append(arrived.take(number, batch.time_ns[start:stop], batch.bits[start:stop]))

    look_at_held(folder, look)
    return Taken(*map(sum, zip(*total, strict=True)))
