"""From series' numbers to rows of state: a hash table of two numpy arrays. Must not know what a row holds.

Numbers grow for ever, as series come and are forgotten; the table is as large as the numbers that are in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

UNSEEN: Final = -1
"""Instead of a row: this number is not in the table."""

# No series has this number.
_EMPTY: Final = 0
_BITS_MIN: Final = 6
# Fibonacci hashing (Knuth, TAOCP 3, section 6.4): numbers that rise one by one fall far apart.
_SCATTER: Final = np.uint64(11_400_714_819_323_198_485)


class RowTable:
    """Open addressing with linear probing, at most half full, so that most numbers are found at the first look."""

    def __init__(self) -> None:
        self._fill(np.empty(0, np.uint32), np.empty(0, np.int32))

    def __len__(self) -> int:
        return self._count

    @property
    def places(self) -> int:
        """How many numbers there is space for, free ones included."""
        return len(self._numbers)

    def find(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        """Return the row of each of `numbers`, UNSEEN where there is none.

        >>> table = RowTable()
        >>> table.set(7, 3)
        >>> table.find(np.array([7, 8, 7], np.uint32)).tolist()
        [3, -1, 3]
        """
        place = self._first_place(numbers)
        rows: npt.NDArray[np.int32] = self._rows[place]
        left = np.flatnonzero(self._numbers[place] != numbers)
        while len(left):
            at = place[left]
            # Behind an empty place nothing of that hash can stand.
            is_absent = self._numbers[at] == _EMPTY
            rows[left[is_absent]] = UNSEEN
            left = left[~is_absent]
            at = place[left] = (place[left] + 1) & (len(self._numbers) - 1)
            rows[left] = self._rows[at]
            left = left[self._numbers[at] != numbers[left]]
        return rows

    def set(self, number: int, row: int) -> None:
        """Give a number that is not in the table its row."""
        assert number != _EMPTY
        if 2 * self._count >= len(self._numbers):
            used = self._numbers != _EMPTY
            self._fill(self._numbers[used], self._rows[used])
        place = int(self._first_place(np.array([number], np.uint32))[0])
        while self._numbers[place] != _EMPTY:
            assert self._numbers[place] != number
            place = (place + 1) & (len(self._numbers) - 1)
        self._numbers[place], self._rows[place] = number, row
        self._count += 1

    def drop(self, chosen: npt.NDArray[np.bool_]) -> None:
        """Take numbers out; `chosen` is by place, as `numbers` and `rows` are."""
        kept = (self._numbers != _EMPTY) & ~chosen
        self._fill(self._numbers[kept], self._rows[kept])

    @property
    def numbers(self) -> npt.NDArray[np.uint32]:
        """What stands at each place, 0 for nothing."""
        return self._numbers

    @property
    def rows(self) -> npt.NDArray[np.int32]:
        """The row of each place's number, UNSEEN where there is none."""
        return self._rows

    def _first_place(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
        return ((numbers.astype(np.uint64) * _SCATTER) >> self._shift).astype(np.intp)

    def _fill(self, numbers: npt.NDArray[np.uint32], rows: npt.NDArray[np.int32]) -> None:
        """Make the table anew, half full at most and hardly less than a quarter."""
        bits = max(int(2 * len(numbers)).bit_length(), _BITS_MIN)
        self._shift = np.uint64(64 - bits)
        self._count = len(numbers)
        self._numbers = np.full(1 << bits, _EMPTY, np.uint32)
        self._rows = np.full(1 << bits, UNSEEN, np.int32)
        place = self._first_place(numbers)
        while len(numbers):
            is_free = self._numbers[place] == _EMPTY
            self._numbers[place[is_free]] = numbers[is_free]
            # Of several that want one place the last has it; the others go on.
            is_in = self._numbers[place] == numbers
            self._rows[place[is_in]] = rows[is_in]
            numbers, rows, place = numbers[~is_in], rows[~is_in], (place[~is_in] + 1) & (len(self._numbers) - 1)
