"""When each series was used last, and which of them may be forgotten: columns and choices. Must not forget any itself.

Nothing here loops over series, and a commit costs a look-up of the numbers that it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

ROWS_FIRST: Final = 64
# Under pressure: what came once goes after so long, what has come back again and again only after longer.
ONCE_IDLE_S: Final = 600
BACK_IDLE_S: Final = 3600
CAME_BACK_S: Final = 600
"""A series that was used over so long a time is one that comes back: hardly part of a flood."""

_KINDS: Final[dict[str, Any]] = {
    "number": np.uint32,
    "owner": np.int32,
    "size": np.int64,
    "born_s": np.int64,
    "used_s": np.int64,
    "held_to": np.int64,
}
_NOTHING_NOTED: Final = (np.empty(0, np.uint32), np.empty(0, np.intp))


class Uses:
    """A row for each series, in order of number.

    | column  | is                                                                       |
    | ------- | ------------------------------------------------------------------------ |
    | number  | the series' number                                                       |
    | owner   | who brought it, as in store/quota                                        |
    | size    | bytes of memory that it takes                                            |
    | born_s  | when it came, in seconds of the boot's clock; for one found at the start, then |
    | used_s  | when a commit held readings of it last                                   |
    | held_to | sequence of the last segment that may hold it                            |
    """

    def __init__(self) -> None:
        self._rows = 0
        self._columns = {name: np.empty(ROWS_FIRST, kind) for name, kind in _KINDS.items()}
        # What was noted last, and where it stands: steady telemetry is the same series again and again.
        self._noted = _NOTHING_NOTED

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """Return a column, which may be written to."""
        return self._columns[column][: self._rows]

    def fill(
        self, numbers: npt.NDArray[np.uint32], *, owner: int, sizes: npt.NDArray[np.int64], now_s: int, held_to: int
    ) -> None:
        """Begin with these series, in order of number; segments up to `held_to` may hold them."""
        self._rows = len(numbers)
        for name, column in zip(_KINDS, (numbers, owner, sizes, now_s, now_s, held_to), strict=True):
            self._columns[name] = np.empty(max(self._rows, ROWS_FIRST), _KINDS[name])
            self._columns[name][: self._rows] = column

    def add(self, number: int, *, owner: int, size: int, now_s: int) -> None:
        """Add a series; its number is above all others."""
        assert not self._rows or number > self._columns["number"][self._rows - 1]
        if self._rows == len(self._columns["number"]):
            self._columns = {name: np.concatenate([column, column]) for name, column in self._columns.items()}
        for name, value in zip(_KINDS, (number, owner, size, now_s, now_s, 0), strict=True):
            self._columns[name][self._rows] = value
        self._rows += 1
        self._noted = _NOTHING_NOTED

    def places(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
        """Return the rows of `numbers`, distinct and in order, without those that are not there."""
        known = self["number"]
        places = np.searchsorted(known, numbers)
        # Numbers beyond the last one have no row to compare with.
        places = places[: np.searchsorted(places, len(known))]
        found: npt.NDArray[np.intp] = places[known[places] == numbers[: len(places)]]
        return found

    def note(self, numbers: npt.NDArray[np.uint32], *, held_to: int, now_s: int) -> None:
        """Take note that segments up to `held_to` hold readings of `numbers`, distinct and in order."""
        known, places = self._noted
        if not np.array_equal(known, numbers):
            places = self.places(numbers)
            self._noted = numbers, places
        self["held_to"][places] = held_to
        self["used_s"][places] = now_s

    def hold(self, numbers: npt.NDArray[np.uint32], *, held_to: int) -> None:
        """Take note that a segment as new as that holds readings of `numbers`, distinct and in order, too."""
        places = self.places(numbers)
        self["held_to"][places] = np.maximum(self["held_to"][places], held_to)

    def touch(self, numbers: npt.NDArray[np.uint32], *, now_s: int) -> None:
        """Let `numbers`, distinct and in order, count as used now."""
        self["used_s"][self.places(numbers)] = now_s

    def drop(self, chosen: npt.NDArray[np.bool_]) -> None:
        """Let go of the chosen rows, and of the memory that a flood has left."""
        kept = np.flatnonzero(~chosen)
        room = max(len(kept) * 2, ROWS_FIRST)
        for name, column in self._columns.items():
            fresh = np.empty(room, column.dtype)
            fresh[: len(kept)] = column[kept]
            self._columns[name] = fresh
        self._rows = len(kept)
        self._noted = _NOTHING_NOTED

    def ripe(
        self, free: npt.NDArray[np.bool_], *, now_s: int, idle_s: float
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
        """Return which of the `free` rows are idle for `idle_s`, and the others that may go under pressure, in order.

        First goes what came and never came back, then what is idle for longest; of equals the youngest.
        """
        idle = now_s - self["used_s"]
        lapsed = free & (idle >= idle_s)
        came_back = self["used_s"] - self["born_s"] >= CAME_BACK_S
        others = np.flatnonzero(free & ~lapsed & (idle >= np.where(came_back, BACK_IDLE_S, ONCE_IDLE_S)))
        order = np.lexsort((-others, self["used_s"][others], came_back[others]))
        return lapsed, others[order]


def first_enough(sizes: npt.NDArray[np.int64], *, count: int, size: int) -> int:
    """Return how many of the first rows make up `count` rows and `size` bytes; all of them if all are too few.

    >>> first_enough(np.array([5, 5, 5]), count=1, size=6)
    2
    """
    enough = int(np.searchsorted(np.cumsum(sizes), size)) + 1 if size > 0 else 0
    return min(max(count, enough), len(sizes))
