"""Days and months over an allowance, simulated: what is billed, what arrives, and that every reading is somewhere.

200 readings a second over 20 MiB a day, which is three quarters of what they would take: so some of it has to be
thinned, and the least important first. Bytes are those of the far end of the line, readings are looked at one by one:
on the far side, on the shelf, in the ledger. See simulated.py for what is real of it.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.bench import virtual_time
from gateway.bench.line import Receiver
from gateway.bench.plant import METRICS, Arrived, Plant, Taken
from gateway.bench.report import Figure, Result
from gateway.bench.simulated import NAME, FarEnd, Rig, add_held
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.core.units import Duration, Size
from gateway.core.words import plural, span
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.settings import OtlpUplinkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_S: Final = 86_400
HOUR_S: Final = 3600
MIDNIGHT_S: Final = 1_788_220_800  # the first of a month of thirty days, UTC
DEVICES: Final = {Priority.CRITICAL: 2, Priority.NORMAL: 30, Priority.BULK: 8}
PER_DAY: Final = Size(20 << 20)
# Devices say each minute what they saw in it, and that is how often the uplink sends.
STEP_S: Final = 60
LINE: Final = 1e6 / 8
# What came in so lately may still be under way at the end.
LATELY_S: Final = 5 * 60
SILENCE_S_MAX: Final = 900
SETTLES_S: Final = 10 * 60
CHANGES_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Case:
    """How long it lasts, and in which windows it is reckoned."""

    seconds: int
    window: str = "day"

    @property
    def limit(self) -> Size:
        """What may go in a window: as much of it in an hour as in a day."""
        return PER_DAY if self.window == "day" else Size(int(PER_DAY) // 24)

    @property
    def window_s(self) -> int:
        """How long it lasts."""
        return DAY_S if self.window == "day" else HOUR_S


QUICK: Final = Case(3 * HOUR_S, "hour")
TWO_DAYS: Final = Case(2 * DAY_S)
MONTH: Final = Case(30 * DAY_S)


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What was found in the end."""

    case: Case
    account: dict[str, Any]
    far: FarEnd
    there: dict[Priority, int]  # readings that arrived
    silence_s: dict[Priority, int]
    held: Taken
    took_s: float
    changes: int  # of the steps at which classes are thinned, seen once a minute

    @property
    def used(self) -> float:
        """Which part of what might go in the whole time went."""
        return sum(self.far.per_window.values()) / (int(self.case.limit) * self.case.seconds / self.case.window_s)

    @property
    def readings(self) -> int:
        """How many the devices have said."""
        return sum(DEVICES.values()) * len(METRICS) * self.case.seconds

    @property
    def lost(self) -> int:
        """Readings that are nowhere or somewhere with another value, or are counted wrongly."""
        ledger: int = sum(self.account["ledger"].values())
        account: int = self.account["delivered"] + self.account["held"] + ledger
        accepted: int = self.account["accepted"]
        somewhere = sum(self.there.values()) + self.held.new
        wrong = self.far.sums.wrong + self.held.wrong
        return abs(self.readings - somewhere - ledger) + wrong + abs(account - accepted)


def allowance(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Simulate two days, or a few hours of them."""
    yield from _figures(simulate(QUICK if quick else TWO_DAYS))


def month(quick: bool) -> Iterator[Result]:  # noqa: FBT001  the suite's one switch
    """Simulate a whole month: the better part of an hour, and a gigabyte in the folder for temporary files."""
    yield from _figures(simulate(QUICK if quick else MONTH))


def simulate(case: Case) -> Outcome:
    """Let it happen."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        return virtual_time.run(_simulate(case, Path(folder)))


async def _simulate(case: Case, folder: Path) -> Outcome:
    began_s = time.monotonic()
    plant = Plant(DEVICES, started_ns=MIDNIGHT_S * NS_PER_S)
    arrived = Arrived(plant, seconds=case.seconds, path=folder / "arrived")
    far = FarEnd(arrived, window_s=case.window_s)
    with Receiver() as receiver:
        receiver.open()
        settings = OtlpUplinkSettings(
            name=NAME,
            endpoint=receiver.endpoint,
            batch_interval=Duration(STEP_S),
            budget=BudgetSettings(per_day=case.limit) if case.window == "day" else BudgetSettings(per_hour=case.limit),
        )
        async with Rig.open(plant, settings, receiver=receiver, far=far, rate=LINE, folder=folder / "state") as rig:
            rig.start()
            changes, steps = 0, _steps(rig)
            for minute in range(case.seconds // STEP_S):
                await rig.append(STEP_S)
                before, steps = steps, _steps(rig)
                # At first it is found out what comes in.
                changes += minute > SETTLES_S // STEP_S and any(steps[key] != before.get(key) for key in steps)
        account = rig.account()
    there = {priority: arrived.count(priority) for priority in Priority}
    before_s = case.seconds - LATELY_S
    silence_s = {priority: arrived.gap_s(priority, before_s=before_s) for priority in Priority}
    held = add_held(folder / "state", arrived)
    return Outcome(case, account, far, there, silence_s, held, time.monotonic() - began_s, changes)


def _steps(rig: Rig) -> dict[str, float]:
    """Return at which step each class is thinned just now."""
    budget: Any = rig.uplink.status().get("budget", {})
    return {name: part["step_s"] for name, part in budget.get("plan", {}).get("classes", {}).items()}


def _figures(found: Outcome) -> Iterator[Figure]:
    case, limit, sums = found.case, int(found.case.limit), found.far.sums
    what = f"{span(case.seconds)} at 200 readings/s over {case.limit} per {case.window}, simulated"
    fullest, windows = max(found.far.per_window.values()), plural(len(found.far.per_window), case.window)
    yield Figure(
        f"{what}: over the allowance in the fullest {case.window}", max(0, fullest - limit), "bytes", floor=0,
        note=f"{100 * fullest / limit:.2f} % of it, counted at the far end with headers of packets; {windows} of the "
        f"calendar in {found.took_s:.0f} s",
    )  # fmt: skip
    due = DEVICES[Priority.CRITICAL] * len(METRICS) * (case.seconds - LATELY_S)
    critical = min(100.0, 100 * found.there[Priority.CRITICAL] / due)
    yield Figure(
        f"{what}: critical readings that arrived whole", critical, "%", floor=100, better="more",
        note=f"of the normal ones {_share(found, Priority.NORMAL)} so far, of the bulk {_share(found, Priority.BULK)}",
    )  # fmt: skip
    critical_s, normal_s, bulk_s = (found.silence_s[priority] for priority in Priority)
    yield Figure(
        f"{what}: longest silence of a normal series on the far side", normal_s, "s", floor=SILENCE_S_MAX,
        note=f"critical {critical_s} s, bulk {bulk_s} s; {found.far.diluted:,} of {found.far.requests:,} requests with "
        "thinned readings",
    )  # fmt: skip
    yield Figure(
        f"{what}: changes of a class's step an hour", round(found.changes * HOUR_S / case.seconds, 2), "changes",
        floor=CHANGES_MAX, note=f"{100 * found.used:.1f} % of all that might go went",
    )  # fmt: skip
    there, ledger = sum(found.there.values()), sum(found.account["ledger"].values())
    yield Figure(
        f"{what}: readings that are neither there nor on the shelf nor in the ledger", found.lost, "readings", floor=0,
        note=f"of {found.readings:,}, looked at one by one: {there:,} there, {found.held.new:,} on the shelf alone, "
        f"{ledger:,} in the ledger; {sums.again:,} came twice, {found.account['maybe_twice']:,} are counted as such",
    )  # fmt: skip


def _share(found: Outcome, priority: Priority) -> str:
    return f"{100 * found.there[priority] / (DEVICES[priority] * len(METRICS) * found.case.seconds):.0f} %"
