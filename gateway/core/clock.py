"""Time: the only place that asks a clock, and the repair of times stamped before the clock was right.

A reading without a device's own time is stamped with the boot's monotonic clock. When it leaves, the
`Timeline` turns that into Unix time by the best offset known by then for that boot, and says how good it is.
Must not know about batches, sources or the store.
"""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from gateway.core.contracts import BootId

NS_PER_S: Final = 1_000_000_000
# No reading is older than the code that reads it: a wall clock before this day was never set.
WALL_FLOOR_NS: Final = 1_767_225_600 * NS_PER_S  # 2026-01-01
WALL_CEILING_NS: Final = 4_102_444_800 * NS_PER_S  # 2100-01-01
# A step smaller than this is drift or a leap second, larger is a clock being set.
STEP_NS_MIN: Final = 20_000_000
SAMPLES_PER_BOOT_MAX: Final = 256
# Reading two clocks takes a moment in which the process may be put aside: try again, take the quickest.
LOOKS_MAX: Final = 4
LOOK_NS_FINE: Final = 100_000


def is_plausible(unix_ns: int) -> bool:
    """Whether it can be the time of day now: no earlier than this program, and of this century."""
    return WALL_FLOOR_NS <= unix_ns < WALL_CEILING_NS


class Quality(IntEnum):
    """How good a time is; what `tidegate.time.quality` says."""

    SYNCED = 0  # the kernel says that a time server disciplines the clock
    UNSYNCED = 1  # plausible, never confirmed
    REPAIRED = 2  # stamped before the clock was right, rewritten by an offset of the same boot
    ESTIMATED = 3  # the boot never saw a right clock: placed between the boots around it
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

    The true offset of a boot moves only by drift; the wall clock's own jumps say when it was wrong, not
    that time jumped. So the latest sample of the best quality is believed, and of the earlier ones those
    that drift can explain; in between the offset is interpolated, beyond them it stays. Spacing and order
    of a boot's readings come from its monotonic clock and are always kept.

    Samples are taken by `observe`; only those that say something new are kept (a step, another quality, drift
    past STEP_NS_MIN), at most SAMPLES_PER_BOOT_MAX a boot: past that every second of the old ones goes.
    """

    def __init__(self, boots: Iterable[BootTimes], *, current: BootId) -> None:
        self._boots = {times.boot: times for times in sorted(boots, key=lambda times: times.boot)}
        for times in self._boots.values():
            times.samples.sort()
        self.current = self._boots[current]
        # Whether its wall clock is held to be wrong though it could be right (`doubt`). Samples that are unknown though
        # they say what could be are of such a clock, so that a new process of the same boot need not find it out again.
        last = self.current.samples[-1] if self.current.samples else None
        self.is_doubted = (
            last is not None and last.quality is Quality.UNKNOWN and is_plausible(last.monotonic_ns + last.offset_ns)
        )
        self.steps = 0  # how often the wall clock was set while we looked
        # Of every boot at once, made when first asked for and cleared by whatever changes them. Other threads ask too:
        # what one of them makes of samples that have changed meanwhile must not stay.
        self._offsets: dict[BootId, _Offset | None] = {}
        self._lock = threading.Lock()

    @property
    def boots(self) -> list[BootTimes]:
        """Every boot known, oldest first."""
        return list(self._boots.values())

    def forget_before(self, boot: BootId) -> None:
        """Let go of boots older than `boot`; nothing that is held was stamped in them."""
        assert boot <= self.current.boot
        with self._lock:
            self._boots = {number: times for number, times in self._boots.items() if number >= boot}
            self._offsets.clear()

    def saw(self, boot: BootId, monotonic_ns: int) -> None:
        """Note that `boot` was still running at `monotonic_ns`: a reading was stamped then."""
        times = self._boots.get(boot)
        if times is not None and monotonic_ns > times.last_ns:
            with self._lock:
                times.last_ns = monotonic_ns
                self._offsets.clear()

    def observe(self, clock: Clock) -> bool:
        """Look at both clocks; return whether something worth keeping on disk was learnt."""
        # Asked before the clock is read: whoever sets the clock says so at the same moment or after it.
        synced = clock.is_synced()
        monotonic_ns, wall_ns = _look(clock)
        quality = Quality.SYNCED if synced else Quality.UNSYNCED
        self.is_doubted &= not synced
        if not is_plausible(wall_ns) or self.is_doubted:
            quality = Quality.UNKNOWN
        return self.add(Sample(monotonic_ns, wall_ns - monotonic_ns, quality))

    def doubt(self, told: Sample) -> None:
        """Believe `told`, and the wall clock no more until it is confirmed or `trust` is called.

        Nothing changes in a boot whose clock was confirmed once: from then on its monotonic clock is as good.
        """
        if all(sample.quality is not Quality.SYNCED for sample in self.current.samples):
            self.add(told)
            self.is_doubted = True

    def trust(self) -> None:
        """Believe the wall clock again, from the next look on."""
        self.is_doubted = False

    def add(self, sample: Sample) -> bool:
        """Take a look of this boot's clocks, the newest yet; return whether it says something new.

        One that says it knows the time, and says one that cannot be, is ignored, whoever brought it: nanoseconds of
        the year 9999 fit no column, and no commit would be possible while it is there.
        """
        if sample.quality is not Quality.UNKNOWN and not is_plausible(sample.monotonic_ns + sample.offset_ns):
            return False
        times = self.current
        last = times.samples[-1] if times.samples else None
        times.last_ns = max(times.last_ns, sample.monotonic_ns)
        if last is not None:
            moved_ns = abs(sample.offset_ns - last.offset_ns)
            if sample.monotonic_ns < last.monotonic_ns:
                return False
            if sample.quality == last.quality and moved_ns < STEP_NS_MIN:
                return False
            self.steps += moved_ns > STEP_NS_MIN + drift_max_ns(sample.monotonic_ns - last.monotonic_ns)
        with self._lock:
            if last is not None and (sample.monotonic_ns, sample.quality) == (last.monotonic_ns, last.quality):
                times.samples.pop()
            times.samples.append(sample)
            if len(times.samples) > SAMPLES_PER_BOOT_MAX:
                times.samples[:] = _thinned(times.samples)
            self._offsets.clear()
        return True

    @property
    def quality(self) -> Quality:
        """How good the time is that this boot goes by now: its wall clock's, or what was told in its place."""
        with self._lock:
            last = self.current.samples[-1].quality if self.current.samples else Quality.UNKNOWN
        return Quality.UNSYNCED if self.is_doubted and last is Quality.UNKNOWN else last

    def wall_from(self, monotonic_ns: int) -> int | None:
        """Return Unix time in ns for a moment of this boot, or None while no clock is known."""
        offset = self._offset(self.current)
        return None if offset is None else offset.wall_ns(monotonic_ns)

    def repair(self, monotonic_ns: npt.NDArray[np.int64], boot: BootId) -> tuple[npt.NDArray[np.int64], Quality]:
        """Return Unix times in ns for moments of `boot`, and the worst quality among them.

        UNKNOWN gives the times back as they are: keep them until there is a clock.
        """
        if not len(monotonic_ns):
            return monotonic_ns, Quality.SYNCED
        times = self._boots.get(boot)
        offset = None if times is None else self._offset(times)
        if offset is None:
            return monotonic_ns, Quality.UNKNOWN
        quality = offset.quality_between(int(monotonic_ns.min()), int(monotonic_ns.max()))
        return offset.walls_ns(monotonic_ns), quality

    def _offset(self, times: BootTimes) -> _Offset | None:
        with self._lock:
            if not self._offsets:
                self._offsets = _placed(self.boots)
            return self._offsets[times.boot]


def _placed(boots: list[BootTimes]) -> dict[BootId, _Offset | None]:
    """Return the offset of each of `boots`, oldest first, None where no clock is known.

    A boot whose clock was confirmed stands where it says. A clock that was merely plausible, as one that
    was saved at the last shutdown and restored, is not believed where it says that a boot began before a
    confirmed one ended, or ended after the next one began. A boot without any clock ends where the next one
    begins: how long the box was off is not known, so that is the latest it can have been. The order of
    boots is kept.
    """
    offsets: dict[BootId, _Offset | None] = {}
    floor_ns: int | None = None
    for times in boots:
        own = _Offset.of(times.samples)
        if own is not None and own.quality is Quality.SYNCED:
            floor_ns = own.wall_ns(times.last_ns)
        elif floor_ns is not None:
            if own is not None and own.wall_ns(0) < floor_ns:
                own = _Offset.estimated(floor_ns)
            floor_ns += times.last_ns
        offsets[times.boot] = own
    next_ns: int | None = None
    for times in reversed(boots):
        own = offsets[times.boot]
        is_sure = own is not None and own.quality is Quality.SYNCED
        if next_ns is not None and not is_sure and (own is None or own.wall_ns(times.last_ns) > next_ns):
            own = offsets[times.boot] = _Offset.estimated(next_ns - times.last_ns)
        if own is not None:
            next_ns = own.wall_ns(0)
    return offsets


class _Offset:
    """What is to be added to a boot's monotonic times: points to interpolate between, and how good they are.

    `loses_ns` is when the clock was last known to be disciplined, None if it still is.
    """

    def __init__(self, at_ns: list[int], offset_ns: list[int], quality: Quality, *, loses_ns: int | None) -> None:
        self.quality = quality
        self._first_ns, self._loses_ns = at_ns[0], loses_ns
        self._offset_ns = offset_ns[0]
        self._last_ns, self._last_offset_ns = at_ns[-1], offset_ns[-1]
        # Relative to the first: doubles hold the nanoseconds of days, not of decades.
        self._at = np.array([at - at_ns[0] for at in at_ns], np.float64)
        self._moved = np.array([offset - offset_ns[0] for offset in offset_ns], np.float64)

    @classmethod
    def of(cls, samples: list[Sample]) -> _Offset | None:
        """Return what `samples`, oldest first, tell; None if there was no plausible clock."""
        for wanted in (Quality.SYNCED, Quality.UNSYNCED):
            good = [sample for sample in samples if sample.quality is wanted]
            if good:
                believed = _believed(good)
                after = [sample for sample in samples if sample.monotonic_ns > good[-1].monotonic_ns]
                return cls(
                    [sample.monotonic_ns for sample in believed],
                    [sample.offset_ns for sample in believed],
                    wanted,
                    loses_ns=after[0].monotonic_ns if after else None,
                )
        return None

    @classmethod
    def estimated(cls, wall_ns: int) -> _Offset:
        """Return the offset of a boot that began at `wall_ns`, as far as anybody knows."""
        return cls([0], [wall_ns], Quality.ESTIMATED, loses_ns=None)

    def wall_ns(self, monotonic_ns: int) -> int:
        """Return one Unix time."""
        if monotonic_ns >= self._last_ns:
            return monotonic_ns + self._last_offset_ns
        moved = np.interp(float(monotonic_ns - self._first_ns), self._at, self._moved)
        return monotonic_ns + self._offset_ns + round(float(moved))

    def walls_ns(self, monotonic_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return many Unix times."""
        shifted = monotonic_ns + self._offset_ns
        if len(self._at) == 1:
            return shifted
        moved = np.interp((monotonic_ns - self._first_ns).astype(np.float64), self._at, self._moved)
        return shifted + np.rint(moved).astype(np.int64)

    def quality_between(self, first_ns: int, last_ns: int) -> Quality:
        """Return the worst quality of the moments from `first_ns` to `last_ns`."""
        # What was only reckoned with a clock that nobody vouched for is no better than that clock.
        if self.quality is not Quality.SYNCED:
            return self.quality
        if first_ns < self._first_ns:
            return Quality.REPAIRED
        if self._loses_ns is not None and last_ns > self._loses_ns:
            return Quality.UNSYNCED
        return self.quality


def _look(clock: Clock) -> tuple[int, int]:
    """Return monotonic and wall time of one moment; of several tries the one that took the shortest."""
    tries: list[tuple[int, int, int]] = []
    for _ in range(LOOKS_MAX):
        before_ns, wall_ns, after_ns = clock.monotonic_ns(), clock.wall_ns(), clock.monotonic_ns()
        tries.append((after_ns - before_ns, (before_ns + after_ns) // 2, wall_ns))
        if after_ns - before_ns < LOOK_NS_FINE:
            break
    _, monotonic_ns, wall_ns = min(tries)
    return monotonic_ns, wall_ns


def drift_max_ns(span_ns: int) -> int:
    """Return how far two clocks can drift apart in `span_ns`: the kernel slews by 500 ppm at most."""
    return span_ns // 2000


def _believed(samples: list[Sample]) -> list[Sample]:
    """Return the last of `samples`, oldest first, and those before it that differ from it by drift only.

    What is kept never lets time stand still or run backward between two samples.
    """
    kept = [samples[-1]]
    for sample in reversed(samples[:-1]):
        span_ns = kept[-1].monotonic_ns - sample.monotonic_ns
        moved_ns = abs(kept[-1].offset_ns - sample.offset_ns)
        if span_ns > 0 and moved_ns <= drift_max_ns(span_ns) + min(STEP_NS_MIN, span_ns // 2):
            kept.append(sample)
    kept.reverse()
    return kept


def _thinned(samples: list[Sample]) -> list[Sample]:
    """Return `samples` with every second of the older half left out, of each quality by itself.

    Taken together, a clock that keeps losing its time source could lose all samples of one quality.
    """
    half = len(samples) // 2
    kept = [sample for quality in Quality for sample in [old for old in samples[:half] if old.quality is quality][::2]]
    return sorted(kept) + samples[half:]
