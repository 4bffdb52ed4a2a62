"""A day without a link, then one of 64 kbit/s: the first fresh reading, how late live data is, the backlog's share.

1,000 readings a second, 86 million of them waiting. What the devices saw while the link was away stands on the shelf
in pieces of a minute, as from devices that say each minute what they saw, since that is quicker to make and harder to
share a line with than a segment each second; once it is back they speak each second. See simulated.py for what is real.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.bench import virtual_time
from gateway.bench.line import Receiver
from gateway.bench.plant import METRICS, Arrived, Plant
from gateway.bench.report import Figure, Result
from gateway.bench.simulated import NAME, FarEnd, Rig
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.core.words import span
from gateway.store.database import StoreSettings
from gateway.uplinks.settings import OtlpUplinkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from gateway.bench.line import Received

STARTED_S: Final = 1_788_220_800
LINE: Final = 64_000 / 8
STEP_S: Final = 60
# The uplink is started so long before the link comes, and tries; a day of tries would take as long as all else here.
TRIES_S: Final = 5 * 60
LAG_S_MAX: Final = 5.0
SHARE_OFF_MAX: Final = 10.0
SHARE: Final = StoreSettings().backlog_share
DEVICES: Final = 200
# They say more than such a line carries.
TOO_MANY: Final = 3 * DEVICES
# Until then what went before is not forgotten yet.
SETTLE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Case:
    """How many devices there are, how long there is no link, and how long to look once there is one."""

    devices: int
    away_s: int
    drain_s: int


@dataclass(slots=True)
class Request:
    """One that arrived: when, what it cost on the wire, how many readings it held, and of which seconds."""

    at_s: float
    wire_bytes: int
    readings: int = 0
    newest_s: float = float("-inf")
    seconds: list[npt.NDArray[np.float64]] = field(default_factory=list)


class Watcher(FarEnd):
    """A far end that knows how old everything is that arrives."""

    def __init__(self, arrived: Arrived) -> None:
        super().__init__(arrived)
        self.came: list[Request] = []

    def take(self, request: Received, at_s: float) -> None:
        """Take a request whose last byte is there `at_s`."""
        self.came.append(Request(at_s, request.wire_bytes))
        super().take(request, at_s)

    def look(self, times: npt.NDArray[np.int64], at_s: float) -> None:  # noqa: ARG002  as `take` has it
        """Note what the readings are of."""
        request = self.came[-1]
        seconds = (times - self.arrived.plant.started_ns) / NS_PER_S
        request.readings += len(seconds)
        request.newest_s = max(request.newest_s, float(seconds.max()))
        request.seconds.append(seconds)


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What was found. `up_s` is when the link came back."""

    case: Case
    up_s: float
    came: list[Request]
    lags_s: npt.NDArray[np.float64]
    wrong: int

    def is_fresh(self, request: Request) -> bool:
        """Whether it holds anything that is not of the outage."""
        return request.newest_s >= self.up_s

    def backlog_share(self) -> float:
        """Return which part of the bytes on the wire was backlog, once all has settled."""
        settled = [request for request in self.came if request.at_s > self.up_s + SETTLE_S]
        backlog = sum(request.wire_bytes for request in settled if not self.is_fresh(request))
        return backlog / sum(request.wire_bytes for request in settled)


def outage(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Simulate it."""
    found = simulate(Case(DEVICES, 600, 150) if quick else Case(DEVICES, 86_400, 600))
    yield from _after(found)
    yield _contested(simulate(Case(TOO_MANY, 600, 210) if quick else Case(TOO_MANY, 3600, 600)))


def simulate(case: Case) -> Outcome:
    """Let it happen."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        return virtual_time.run(_simulate(case, Path(folder)))


async def _simulate(case: Case, folder: Path) -> Outcome:
    plant = Plant({Priority.NORMAL: case.devices}, started_ns=STARTED_S * NS_PER_S)
    arrived = Arrived(plant, seconds=case.away_s + case.drain_s, path=folder / "arrived")
    far = Watcher(arrived)
    with Receiver() as receiver:
        settings = OtlpUplinkSettings(name=NAME, endpoint=receiver.endpoint)
        async with Rig.open(plant, settings, receiver=receiver, far=far, rate=LINE, folder=folder / "state") as rig:
            for k in range(case.away_s // STEP_S):
                if (k + 1) * STEP_S == case.away_s - TRIES_S:
                    rig.start()
                await rig.append(STEP_S)
            receiver.open()
            for _ in range(case.drain_s):
                await rig.append(1)
    # From when on the gateway can know that there is a link.
    first_s = far.came[0].at_s
    lags_s = [request.at_s - seconds[seconds >= first_s] for request in far.came for seconds in request.seconds]
    return Outcome(case, float(case.away_s), far.came, np.concatenate(lags_s), far.sums.wrong)


def _after(found: Outcome) -> Iterator[Figure]:
    case = found.case
    what = f"{span(case.away_s)} offline at {case.devices * len(METRICS):,} readings/s, then 64 kbit/s"
    number = next(k for k, request in enumerate(found.came, 1) if found.is_fresh(request))
    first = found.came[number - 1]
    yield Figure(
        f"{what}: request that brings the first fresh reading", number, "of all", floor=1,
        note=f"{first.at_s - first.newest_s:.1f} s old with {first.readings:,} others, {first.at_s - found.up_s:.1f} s "
        "after the link came, the wait for the next try included",
    )  # fmt: skip
    yield Figure(
        f"{what}: live data's lag while the backlog drains", float(found.lags_s.max()), "s at most", floor=LAG_S_MAX,
        note=f"P50 {np.median(found.lags_s):.2f}, P99 {np.percentile(found.lags_s, 99):.2f}, from reading to the last "
        f"byte of its request; {len(found.lags_s):,} readings in {span(case.drain_s)}, a commit each second in it",
    )  # fmt: skip
    sent = sum(request.readings for request in found.came if not found.is_fresh(request))
    yield Figure(
        f"{what}: the backlog's part of the bytes", 100 * found.backlog_share(), "%", floor=100 * SHARE, better="more",
        note=f"what live data leaves of the line; {sent / (found.came[-1].at_s - found.up_s):,.0f} readings/s of it",
    )  # fmt: skip


def _contested(found: Outcome) -> Figure:
    share = found.backlog_share()
    return Figure(
        f"the backlog's share of a line that live data alone would fill ({100 * SHARE:.0f} % are set)",
        100 * abs(share - SHARE) / SHARE, "% off", floor=SHARE_OFF_MAX,
        note=f"{100 * share:.1f} % of the bytes on the wire, {found.case.devices * len(METRICS):,} readings/s over "
        f"64 kbit/s for {span(found.case.drain_s)}",
    )  # fmt: skip
