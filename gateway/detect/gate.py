"""Turns scores into findings: threshold, habituation, silence. Must not know what a score is or whose.

Whether an anomaly is worth a person's attention depends on the series: some are odd every day. So a score
must top not only the threshold but also the series' own record, which fades with the readings that pass;
and after a finding the series is silent for a while, since what follows is mostly the same event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

# By how much a record must be topped to be news.
RECORD_FACTOR: Final = 1.05
# Readings of silence after a finding, whatever the time: a slow sensor has events too.
SILENCE_READINGS: Final = 120


@dataclass(slots=True)
class _Memory:
    """What is remembered of a row that was over the threshold once: its record, and its last finding."""

    record: float
    record_place: int
    said_place: int
    said_ns: int
    said_clock: int


@dataclass(frozen=True, slots=True)
class Passed:
    """Scores that are findings: positions (f,) in the call, and the level that each of them topped."""

    positions: list[int]
    levels: list[float]
    over_limit: int


class Gate:
    """One for each detector. Remembers rows that were over the threshold, nothing of the others."""

    def __init__(self, *, threshold: float, habituation: int, silence_ns: int, findings_max: int) -> None:
        self.threshold = threshold
        self._habituation = habituation
        self._silence_ns = silence_ns
        self._findings_max = findings_max
        self._memory: dict[int, _Memory] = {}

    def judge(
        self,
        scores: npt.NDArray[np.float64],
        index: npt.NDArray[np.intp],
        time_ns: npt.NDArray[np.int64],
        *,
        clock: npt.NDArray[np.uint8],
        seen: npt.NDArray[np.int64],
    ) -> Passed:
        """Return which of `scores` (k,) of the rows `index` (k,) are findings, in their order.

        `clock` (k,) tells times of different clocks apart, `seen` (rows,) is how many readings each row had
        before this call. At most `findings_max` come out; the rest is counted and remembered like them.
        """
        over = np.flatnonzero(scores >= self.threshold)
        if not len(over):
            return Passed([], [], 0)
        places = _places(index, over, seen)
        positions: list[int] = []
        levels: list[float] = []
        left_out = 0
        # Few readings are over a threshold; where all of them are, most are soon silent.
        columns = (over, index[over], places, scores[over], time_ns[over], clock[over])
        for position, row, place, score, at_ns, on in zip(*(column.tolist() for column in columns), strict=True):
            level = self._meet(row, place, score, at_ns, on)
            if level is None:
                continue
            if len(positions) < self._findings_max:
                positions.append(position)
                levels.append(level)
            else:
                left_out += 1
        return Passed(positions, levels, left_out)

    def _meet(self, row: int, place: int, score: float, at_ns: int, clock: int) -> float | None:
        """Remember a score over the threshold; return the level that it topped if it is a finding."""
        memory = self._memory.get(row)
        if memory is None:
            self._memory[row] = _Memory(score, place, place, at_ns, clock)
            return self.threshold
        record = memory.record * self._fade(place - memory.record_place)
        level = max(self.threshold, record * RECORD_FACTOR)
        if score >= record:
            memory.record, memory.record_place = score, place
        if score < level or self._is_silent(memory, place, at_ns, clock):
            return None
        memory.said_place, memory.said_ns, memory.said_clock = place, at_ns, clock
        return level

    def _fade(self, readings: int) -> float:
        return 0.5 ** (readings / self._habituation) if self._habituation else 0.0

    def _is_silent(self, memory: _Memory, place: int, at_ns: int, clock: int) -> bool:
        if place - memory.said_place <= SILENCE_READINGS:
            return True
        return clock == memory.said_clock and abs(at_ns - memory.said_ns) < self._silence_ns

    def forget(self, row: int) -> None:
        """Remember nothing of a row: another series has it now."""
        self._memory.pop(row, None)

    def state(self) -> npt.NDArray[np.float64]:
        """Return what is remembered, (rows, 4): row, record, its place, place of the last finding.

        Times are left out: the next run of the machine has another monotonic clock.
        """
        rows = [(row, m.record, m.record_place, m.said_place) for row, m in self._memory.items()]
        return np.array(rows, np.float64).reshape(-1, 4)

    def restore(self, state: npt.NDArray[np.float64]) -> None:
        """Remember what `state` returned."""
        self._memory = {
            int(row): _Memory(float(record), int(place), int(said), 0, -1)
            for row, record, place, said in state.tolist()
        }


def _places(
    index: npt.NDArray[np.intp], over: npt.NDArray[np.intp], seen: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return which reading of its row's life each of `over` is.

    >>> _places(np.array([1, 0, 1]), np.array([1, 2]), np.array([10, 20])).tolist()
    [10, 21]
    """
    order = np.argsort(index, kind="stable")
    row = index[order]
    first = np.searchsorted(row, row)
    place = np.empty(len(index), np.int64)
    place[order] = np.arange(len(index)) - first + seen[row]
    return place[over]
