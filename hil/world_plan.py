"""What a simulated life is like, from its seed: length, shelf, clock, troubles. Must not play it: hil/world does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from unittest import mock

from gateway.core.clock import NS_PER_S
from gateway.core.units import Duration, Size
from gateway.store import settings as store_settings
from gateway.store.database import StoreSettings
from hil.plant_model import EPOCH_NS

if TYPE_CHECKING:
    from random import Random

HOUR_S: Final = 3600.0


@dataclass(slots=True)
class Plan:
    """What kind of life it will be; all of it from the seed."""

    hours: float
    devices: int
    reboots: int
    has_rtc: bool
    learns_time: bool
    is_clock_steady: bool
    disk_trouble: bool
    trouble: float
    settings: StoreSettings
    commit_interval_s: float
    statement_s: float

    @classmethod
    def of(cls, dice: Random, *, hours: float) -> Plan:
        """Throw the dice."""
        # Smaller than any real shelf may be, so that hours fill it.
        max_bytes = dice.choice([64 << 20, 64 << 20, 200_000, 100_000])
        with mock.patch.object(store_settings, "MAX_BYTES_MIN", 0):
            return cls._of(dice, hours=hours, max_bytes=max_bytes)

    @classmethod
    def _of(cls, dice: Random, *, hours: float, max_bytes: int) -> Plan:
        return cls(
            hours=hours * dice.uniform(0.7, 1.3),
            devices=dice.randint(2, 5),
            reboots=dice.choice([0, 0, 1, 2, 4]),
            has_rtc=dice.random() < 0.4,
            learns_time=dice.random() < 0.3,
            is_clock_steady=dice.random() < 0.5,
            disk_trouble=dice.random() < 0.5,
            trouble=dice.choice([0.0, 0.05, 0.3]),
            settings=StoreSettings(
                max_bytes=Size(max_bytes),
                when_full=dice.choice(["dilute", "drop_oldest", "refuse"]),
                max_age=Duration(dice.choice([30 * 86400, 30 * 86400, HOUR_S])),
                recent_bytes=Size(dice.choice([2 << 20, 20_000])),
                backlog_share=dice.choice([0.3, 0.0, 0.9]),
            ),
            commit_interval_s=dice.choice([0.02, 0.25, 1.0]),
            statement_s=dice.choice([0.0, 0.001, 0.02]),
        )


@dataclass(slots=True)
class BoxClock:
    """The box's clocks: monotonic since the boot with a drift, wall as it was set."""

    boot: str
    booted_s: float
    drift: float
    wall_off_ns: int
    synced: bool = False

    def monotonic_ns(self) -> int:
        """Nanoseconds since the boot."""
        since_s = asyncio.get_running_loop().time() - self.booted_s
        return 5 * NS_PER_S + round(since_s * (1 + self.drift) * NS_PER_S)

    def wall_ns(self) -> int:
        """Unix time, right or wrong."""
        return true_ns() + self.wall_off_ns

    def is_synced(self) -> bool:
        """Whether somebody disciplines the wall clock."""
        return self.synced

    def boot_uuid(self) -> str:
        """Name this boot."""
        return self.boot

    def set_right(self, off_ns: int = 0, *, synced: bool = True) -> None:
        """Set the wall clock."""
        self.wall_off_ns, self.synced = off_ns, synced


def true_ns() -> int:
    """Return the true Unix time."""
    return EPOCH_NS + round(asyncio.get_running_loop().time() * NS_PER_S)
