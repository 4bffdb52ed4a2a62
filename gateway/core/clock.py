"""Time: the only place that asks a clock, and the repair of times stamped before the clock was right.

A reading without a device's own time is stamped with the boot's monotonic clock. When it leaves, the
`Timeline` turns that into Unix time by the best offset known by then for that boot, and says how good it is.
Must not know about batches, sources or the store.
"""

from __future__ import annotations

import ctypes
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from gateway.core.contracts import BootId

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

NS_PER_S: Final = 1_000_000_000
# No reading is older than the code that reads it: a wall clock before this day was never set.
WALL_FLOOR_NS: Final = 1_767_225_600 * NS_PER_S  # 2026-01-01
WALL_CEILING_NS: Final = 4_102_444_800 * NS_PER_S  # 2100-01-01
# A step smaller than this is drift or a leap second, larger is a clock being set.
STEP_NS_MIN: Final = 20_000_000
SAMPLES_PER_BOOT_MAX: Final = 256


class Quality(IntEnum):
    """How good a time is; what `tidegate.time.quality` says."""

    SYNCED = 0  # the kernel says that a time server disciplines the clock
    UNSYNCED = 1  # plausible, never confirmed
    REPAIRED = 2  # stamped before the clock was right, rewritten by an offset of the same boot
    ESTIMATED = 3  # the boot never saw a right clock: placed before the next one that did
    UNKNOWN = 4  # no right clock anywhere yet


class Clock(Protocol):
    """What asks the time. Tests bend their own."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since boot, suspend included; never steps."""
        ...

    def wall_ns(self) -> int:
        """Unix time in ns, right or wrong."""
        ...

    def is_synced(self) -> bool:
        """Whether the kernel believes the wall clock to be disciplined by a time source."""
        ...

    def boot_uuid(self) -> str:
        """Name this boot."""
        ...


class _Timex(ctypes.Structure):
    # struct timex of <sys/timex.h>: only `modes` and `status` are read; the rest is room for the kernel.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


STA_UNSYNC: Final = 0x0040
TIME_ERROR: Final = 5


class SystemClock:
    """The machine's clocks."""

    def __init__(self, *, boot_id_path: Path = Path("/proc/sys/kernel/random/boot_id")) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._boot_id_path = boot_id_path

    def monotonic_ns(self) -> int:
        """Nanoseconds since boot, suspend included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall_ns(self) -> int:
        """Unix time in ns."""
        return time.time_ns()

    def is_synced(self) -> bool:
        """Ask adjtimex(2), as chrony, ntpd and timesyncd all tell the kernel."""
        timex = _Timex()
        state = self._libc.adjtimex(ctypes.byref(timex))
        return state not in {-1, TIME_ERROR} and not timex.status & STA_UNSYNC

    def boot_uuid(self) -> str:
        """Return the kernel's boot id."""
        return self._boot_id_path.read_text().strip()


@dataclass(slots=True)
class FakeClock:
    """A clock for tests: stands still until told otherwise."""

    monotonic: int = 1_000 * NS_PER_S
    wall: int = 1_790_000_000 * NS_PER_S
    synced: bool = True
    boot: str = "boot-1"

    def monotonic_ns(self) -> int:
        """Return what was set."""
        return self.monotonic

    def wall_ns(self) -> int:
        """Return what was set."""
        return self.wall

    def is_synced(self) -> bool:
        """Return what was set."""
        return self.synced

    def boot_uuid(self) -> str:
        """Return what was set."""
        return self.boot

    def advance(self, ns: int) -> None:
        """Let both clocks run."""
        self.monotonic += ns
        self.wall += ns

    def reboot(self, boot: str, *, wall: int, synced: bool = False) -> None:
        """Start a new boot whose wall clock says `wall`."""
        self.boot, self.wall, self.synced, self.monotonic = boot, wall, synced, 5 * NS_PER_S


@dataclass(slots=True, order=True)
class Sample:
    """One look at both clocks of a boot: at `monotonic_ns` the wall clock was `offset_ns` ahead."""

    monotonic_ns: int
    offset_ns: int
    quality: Quality  # SYNCED, UNSYNCED or UNKNOWN


@dataclass(slots=True)
class BootTimes:
    """What is known of one boot's clocks. `last_ns` is the last monotonic time seen in it."""

    boot: BootId
    uuid: str
    last_ns: int = 0
    samples: list[Sample] = field(default_factory=list)


class Timeline:
    """Offsets between monotonic and wall time for this boot and earlier ones.

    Samples are taken by `observe`; only those that say something new are kept (a step, a better quality,
    drift past STEP_NS_MIN), at most SAMPLES_PER_BOOT_MAX a boot: past that every second of the old ones
    goes, since drift between neighbours is interpolated.
    """

    def __init__(self, boots: Iterable[BootTimes], *, current: BootId) -> None:
        self._boots = {times.boot: times for times in sorted(boots, key=lambda times: times.boot)}
        self.current = self._boots[current]
        self.steps = 0  # how often the wall clock was set while we looked

    @property
    def boots(self) -> list[BootTimes]:
        """Every boot known, oldest first."""
        return list(self._boots.values())

    def forget_before(self, boot: BootId) -> None:
        """Let go of boots older than `boot`; nothing that is held was stamped in them."""
        self._boots = {number: times for number, times in self._boots.items() if number >= boot}
        assert self.current.boot in self._boots

    def observe(self, clock: Clock) -> bool:
        """Look at both clocks; return whether something worth keeping on disk was learnt."""
        monotonic_ns, wall_ns = clock.monotonic_ns(), clock.wall_ns()
        if not WALL_FLOOR_NS <= wall_ns < WALL_CEILING_NS:
            quality = Quality.UNKNOWN
        else:
            quality = Quality.SYNCED if clock.is_synced() else Quality.UNSYNCED
        return self.add(Sample(monotonic_ns, wall_ns - monotonic_ns, quality))

    def add(self, sample: Sample) -> bool:
        """Take a look of this boot's clocks, the newest yet; return whether it says something new."""
        times = self.current
        times.last_ns = max(times.last_ns, sample.monotonic_ns)
        last = times.samples[-1] if times.samples else None
        if last is not None:
            moved_ns = abs(sample.offset_ns - last.offset_ns)
            if sample.quality == last.quality and moved_ns < STEP_NS_MIN:
                return False
            # Slow drift moves the offset by parts in ten thousand at most; more in that time is a step.
            self.steps += moved_ns > max(STEP_NS_MIN, (sample.monotonic_ns - last.monotonic_ns) // 2000)
        times.samples.append(sample)
        if len(times.samples) > SAMPLES_PER_BOOT_MAX:
            half = len(times.samples) // 2
            times.samples[:half] = times.samples[:half:2]
        return True

    @property
    def quality(self) -> Quality:
        """How good this boot's wall clock is now."""
        return self.current.samples[-1].quality if self.current.samples else Quality.UNKNOWN

    def wall_from(self, monotonic_ns: int) -> int | None:
        """Return Unix time in ns for a moment of this boot, or None while no clock is known."""
        wall_ns, quality = self.repair(np.array([monotonic_ns], np.int64), self.current.boot)
        return None if quality is Quality.UNKNOWN else int(wall_ns[0])

    def repair(
        self, monotonic_ns: npt.NDArray[np.int64], boot: BootId
    ) -> tuple[npt.NDArray[np.int64], Quality]:
        """Return Unix times in ns for moments of `boot`, and the worst quality among them.

        UNKNOWN gives the times back as they are: keep them until there is a clock.
        """
        times = self._boots.get(boot)
        if times is None or not len(monotonic_ns):
            return monotonic_ns, Quality.UNKNOWN
        for wanted in (Quality.SYNCED, Quality.UNSYNCED):
            good = [sample for sample in times.samples if sample.quality is wanted]
            if good:
                return _by_samples(monotonic_ns, good, wanted)
        estimated = self._estimate_offset(times)
        if estimated is None:
            return monotonic_ns, Quality.UNKNOWN
        return monotonic_ns + estimated, Quality.ESTIMATED

    def _estimate_offset(self, times: BootTimes) -> int | None:
        """Place a boot that never saw a right clock so that it ends where the next known one begins.

        The time the box was off is not known, so this is the latest it can have been; order is kept.
        """
        later = [other for number, other in self._boots.items() if number > times.boot]
        between_ns = 0
        for other in later:
            known = [sample for sample in other.samples if sample.quality < Quality.REPAIRED]
            if known:
                started_ns = min(known, key=lambda sample: (sample.quality, sample.monotonic_ns)).offset_ns
                return started_ns - between_ns - times.last_ns
            between_ns += other.last_ns
        return None


def _by_samples(
    monotonic_ns: npt.NDArray[np.int64], samples: list[Sample], wanted: Quality
) -> tuple[npt.NDArray[np.int64], Quality]:
    at = np.array([sample.monotonic_ns for sample in samples], np.int64)
    offset = np.array([sample.offset_ns for sample in samples], np.int64)
    # Interpolated relative to the first offset: doubles hold nanoseconds of days, not of decades.
    if wanted is Quality.SYNCED:
        drift = np.interp(
            (monotonic_ns - at[0]).astype(np.float64),
            (at - at[0]).astype(np.float64),
            (offset - offset[0]).astype(np.float64),
        )
        moved = np.rint(drift).astype(np.int64)
    else:
        # Nothing disciplines this clock: a change is somebody setting it, and the later setting is righter
        # for all that came before it too.
        moved = np.full(len(monotonic_ns), offset[-1] - offset[0], np.int64)
    wall_ns = monotonic_ns + offset[0] + moved
    before = bool(np.any(monotonic_ns < at[0])) or (wanted is Quality.UNSYNCED and len(samples) > 1)
    if wanted is Quality.UNSYNCED:
        return wall_ns, Quality.REPAIRED if before and bisect_left(at, int(monotonic_ns.min())) == 0 else wanted
    return wall_ns, Quality.REPAIRED if before else Quality.SYNCED
