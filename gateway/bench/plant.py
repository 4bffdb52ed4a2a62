"""A plant whose every reading is known: what it says at any second, and what of that has arrived somewhere.

Devices with five metrics each at 1 Hz and clocks on whole seconds, as in wire.py. Must not measure anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from gateway.core.batch import Batch, Series, ValueKind, distinct
from gateway.core.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from gateway.core.contracts import Priority

METRICS: Final = (
    ("temperature", "Cel"),
    ("humidity", "%"),
    ("pressure", "hPa"),
    ("battery.voltage", "mV"),
    ("open", ""),
)
# After so long the same values come again; no compressor looks so far back.
PERIOD_S: Final = 3600


class Plant:
    """`devices` says how many there are of each class; the first reading is of `started_ns`, Unix time."""

    def __init__(self, devices: Mapping[Priority, int], *, started_ns: int) -> None:
        self.started_ns = started_ns
        self.series: list[Series] = []
        self.priorities: list[Priority] = []
        self._rows: dict[Priority, slice] = {}
        for priority, count in devices.items():
            self._rows[priority] = slice(len(self.series), len(self.series) + count * len(METRICS))
            for _ in range(count):
                device = f"device-{len(self.series) // len(METRICS):03d}"
                self.series += [Series((("device.id", device),), name, unit) for name, unit in METRICS]
                self.priorities += [priority] * len(METRICS)
        self.numbers = {(str(one.resource[0][1]), one.name): k for k, one in enumerate(self.series)}
        count = len(self.series) // len(METRICS)
        # Of each series and second: the 64 bits of the reading.
        self.bits = np.stack(_walks(count), axis=1).reshape(-1, PERIOD_S)
        kinds = [ValueKind.DOUBLE] * 3 + [ValueKind.INT] * 2
        self.kinds = np.tile(np.array(kinds, np.uint8), count)

    def readings(self, second: int, seconds: int, *, numbers: npt.NDArray[np.uint32]) -> list[tuple[Priority, Batch]]:
        """Return what all devices say in so many seconds, all of one period; `numbers` are the shelf's, by series."""
        start = second % PERIOD_S
        assert start + seconds <= PERIOD_S
        times = self.started_ns + (second + np.arange(seconds)) * NS_PER_S
        pieces = []
        for priority, rows in self._rows.items():
            batch = Batch(
                np.repeat(numbers[rows], seconds),
                np.tile(times, rows.stop - rows.start),
                self.bits[rows, start : start + seconds].reshape(-1),
                np.repeat(self.kinds[rows], seconds),
            )
            pieces.append((priority, batch))
        return pieces


def _walks(devices: int) -> list[npt.NDArray[np.int64]]:
    """Return for each metric the bits of all devices' readings in a period."""
    dice = np.random.default_rng(1)
    size = (devices, PERIOD_S)

    def around(least: float, most: float, steps: npt.NDArray[np.int64], step: float) -> npt.NDArray[np.float64]:
        # Reflected at bounds of its own, as what is controlled is.
        walk = np.abs((np.cumsum(steps, axis=1) + 2000) % 4000 - 2000) * step
        return dice.uniform(least, most, (devices, 1)) + walk

    doubles = [
        np.round(around(15, 25, dice.integers(-2, 3, size), 0.01), 2),
        np.round(around(20, 40, dice.integers(-1, 2, size), 0.02), 1),
        np.round(around(990, 1010, dice.integers(-3, 4, size), 0.01), 2),
    ]
    battery = dice.integers(3500, 4100, (devices, 1)) - np.cumsum(dice.random(size) < 0.1, axis=1) % 500
    is_open = np.cumsum(dice.random(size) < 0.02, axis=1) % 2
    return [np.ascontiguousarray(one).view(np.int64) for one in doubles] + [battery, is_open]


class Taken(NamedTuple):
    """What became of one column of readings."""

    new: int
    again: int
    wrong: int


class Arrived:
    """Which readings of a plant's first `seconds` are somewhere, reading by reading; on the disk, in `path`."""

    def __init__(self, plant: Plant, *, seconds: int, path: Path) -> None:
        self.plant = plant
        self.seconds = seconds
        self.seen = np.asarray(np.memmap(path, np.bool_, "w+", shape=(len(plant.series), seconds)))

    def take(self, number: int, times_ns: npt.NDArray[np.int64], bits: npt.NDArray[np.int64]) -> Taken:
        """Take note of readings of one series; each must be one that the plant has said."""
        offsets = times_ns - self.plant.started_ns
        seconds = offsets // NS_PER_S
        is_right = (offsets % NS_PER_S == 0) & (seconds >= 0) & (seconds < self.seconds)
        is_right &= self.plant.bits[number, seconds % PERIOD_S] == bits
        right = int(np.count_nonzero(is_right))
        if right < len(seconds):
            seconds = seconds[is_right]
        if not np.all(seconds[1:] > seconds[:-1]):
            seconds = distinct(seconds)
        again = int(np.count_nonzero(self.seen[number, seconds]))
        self.seen[number, seconds] = True
        # Twice in one column is twice, too.
        return Taken(len(seconds) - again, right - len(seconds) + again, len(times_ns) - right)

    def count(self, priority: Priority | None = None) -> int:
        """Return how many readings are there, of a class or of all."""
        rows = [k for k, other in enumerate(self.plant.priorities) if priority in {None, other}]
        return sum(int(np.count_nonzero(self.seen[k])) for k in rows)

    def gap_s(self, priority: Priority, *, before_s: int) -> int:
        """Return the longest that nothing is there of a series of this class, between its first second and another."""
        longest = 0
        for k, other in enumerate(self.plant.priorities):
            if other is priority:
                there = np.flatnonzero(self.seen[k, :before_s])
                longest = max(longest, int(np.diff(there, prepend=-1, append=before_s).max()))
        return longest
