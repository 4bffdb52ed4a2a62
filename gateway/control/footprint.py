"""What this process takes of the machine, memory and flash, held against its board's limits. Must not decide a pace."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.control.flash import Allowance
from gateway.core.units import Size
from gateway.core.words import amount

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.control.flash import Pace
    from gateway.control.profiles import HardwareProfile
    from gateway.core.telemetry import Telemetry

log = logging.getLogger("tidegate")

# A purse that is only just less than half full is not worth a word, nor is one that has just recovered.
SHORT: Final = 0.1
# What "no limit" looks like in the first version of control groups.
NO_LIMIT: Final = 1 << 60
# Of a control group's memory the kernel takes some for itself: sockets, and files that were just written.
OURS: Final = 0.9


def read_written_bytes(path: str = "/proc/self/io") -> int | None:
    """Return how many bytes the kernel has sent to the disk for this process (proc(5)); None where it does not say."""
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123  as cheap as it gets
            for line in file:
                name, _, number = line.partition(":")
                if name == "write_bytes":
                    return int(number)
    except (OSError, ValueError):
        pass
    return None


def read_rss_bytes(path: str = "/proc/self/statm") -> int | None:
    """Return the resident memory of this process; None where the kernel does not say."""
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123  as cheap as it gets
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def read_memory_limit(root: Path = Path("/")) -> int | None:
    """Return the least memory limit of the control groups that this process is in (cgroups(7)); None where none is set.

    systemd's MemoryMax= and a container's limit are such: past it the kernel kills, whatever a profile says.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    limits: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        here = PurePosixPath(path.lstrip("/"))
        for group in (here, *here.parents):
            try:
                limits.append(int((root / "sys/fs/cgroup" / base / group / name).read_text(encoding="ascii")))
            except (OSError, ValueError):  # "max", or not a group of ours to look at
                continue
    least = min(limits, default=NO_LIMIT)
    return None if least >= NO_LIMIT else least


def within(profile: HardwareProfile, limit_bytes: int | None) -> HardwareProfile:
    """Return `profile` with a memory_max that leaves the kernel its part of a limit that is smaller."""
    if limit_bytes is None or limit_bytes * OURS >= profile.memory_max:
        return profile
    return msgspec.structs.replace(profile, memory_max=Size(limit_bytes * OURS))


class Footprint:
    """Looks at memory and flash now and then; says it once when a limit is passed, and once when that is over."""

    def __init__(
        self,
        profile: HardwareProfile,
        *,
        base_interval_s: float,
        bounds_bytes: int,
        telemetry: Telemetry,
        is_shared: bool = False,
        read_written: Callable[[], int | None] = read_written_bytes,
        read_rss: Callable[[], int | None] = read_rss_bytes,
    ) -> None:
        if is_shared:
            # What of this process is ours nobody can tell.
            read_written = read_rss = _unknown
        self._profile = profile
        self._telemetry = telemetry
        self._bounds_bytes = bounds_bytes
        self._read_written = read_written
        self._read_rss = read_rss
        self._allowance = Allowance(bytes_per_day=int(profile.flash_bytes_per_day), base_interval_s=base_interval_s)
        self._written_first = read_written()
        self._written: int | None = None
        self._rss = read_rss()
        self._is_short = False
        self._is_large = False

    def look(self, now_s: float, *, readings: int) -> Pace:
        """Look at both; return the pace that commits should have. `readings` is how many were accepted so far."""
        self._look_at_memory()
        written = self._read_written()
        if written is None or self._written_first is None:
            return self._allowance.pace
        self._written = written - self._written_first
        pace = self._allowance.look(now_s, written_bytes=self._written, readings=readings)
        self._say_flash()
        return pace

    def status(self) -> dict[str, dict[str, Any]]:
        """Return `memory` and `flash` of the status. What is not known is None; `advice` says what would help."""
        allowance = self._allowance
        pace = allowance.pace
        return {
            "memory": {
                "rss_bytes": self._rss,
                "max_bytes": int(self._profile.memory_max),
                "bounds_bytes": self._bounds_bytes,
                "advice": self._memory_advice() if self._is_large else "",
            },
            "flash": {
                "written_bytes": self._written,
                "bytes_per_day": _rounded(allowance.bytes_per_day, 0),
                "bytes_per_day_max": allowance.bytes_per_day_max,
                "bytes_per_reading": _rounded(allowance.bytes_per_reading, 2),
                "commit_interval_s": round(pace.interval_s, 3),
                "early_commit_gap_s": round(pace.gap_s, 3),
                "is_stretched": allowance.shortage > 0,
                "advice": self._flash_advice() if self._is_short else "",
            },
        }

    def _look_at_memory(self) -> None:
        rss = self._rss = self._read_rss()
        if rss is None:
            return
        self._telemetry.gauge("tidegate_memory_rss_bytes", rss)
        self._telemetry.gauge("tidegate_memory_max_bytes", int(self._profile.memory_max))
        if rss > self._profile.memory_max and not self._is_large:
            self._is_large = True
            log.warning("memory: %s", self._memory_advice())
        elif rss < self._profile.memory_max * 0.95:
            self._is_large = False

    def _say_flash(self) -> None:
        allowance = self._allowance
        if allowance.bytes_per_day is not None:
            self._telemetry.gauge("tidegate_flash_bytes_per_day", allowance.bytes_per_day)
        self._telemetry.gauge("tidegate_flash_bytes_per_day_max", allowance.bytes_per_day_max)
        self._telemetry.gauge("tidegate_flash_commit_interval_seconds", allowance.pace.interval_s)
        if allowance.shortage > SHORT and not self._is_short:
            self._is_short = True
            log.warning("flash: %s", self._flash_advice())
        elif not allowance.shortage and self._is_short:
            self._is_short = False
            log.info("flash: within the day's allowance again; commits have their own pace")

    def _flash_advice(self) -> str:
        allowance = self._allowance
        rate = allowance.bytes_per_day
        written = "more is written" if rate is None else f"{amount(rate)} a day is written"
        return (
            f"{written} than the {amount(allowance.bytes_per_day_max)} that {self._profile.name} allows, so commits "
            f"wait up to {allowance.pace.interval_s:.1f} s for each other; what would help: a longer [store] "
            "commit_interval, several readings to a message, or a profile of your own for a better card"
        )

    def _memory_advice(self) -> str:
        return (
            f"{amount(self._rss or 0)} is resident, {self._profile.name} allows "
            f"{amount(int(self._profile.memory_max))}; lower [store] pending_bytes or the sources' bounds in bytes, "
            'or write a profile with a larger memory_max (docs/CONFIGURATION.md, "A hardware profile")'
        )


def _unknown() -> None:
    """Say that it is not known."""


def _rounded(value: float | None, digits: int) -> float | int | None:
    if value is None:
        return None
    return round(value, digits) if digits else round(value)
