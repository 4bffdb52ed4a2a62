"""Rows of many pieces of text put together in bulk, without an object per row. Must not know what the text says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

Text: TypeAlias = "npt.NDArray[np.uint8]"
Numbers: TypeAlias = "npt.NDArray[np.int64]"

# An index of eight bytes stands for each byte that is put together at a time.
ROWS_AT_ONCE: Final = 256


def gather(source: Text, starts: Sequence[Numbers], lengths: Sequence[Numbers]) -> Iterator[bytes]:
    """Yield the text of all rows, some rows at a time; row k is `source[starts[i][k]:][:lengths[i][k]]` for each i.

    >>> source = np.frombuffer(b"ab-12345", np.uint8)
    >>> head, number = np.array([0, 0]), np.array([3, 5])
    >>> list(gather(source, [head, number], [np.array([2, 1]), np.array([2, 3])]))
    [b'ab12a345']
    """
    rows = len(starts[0])
    for first in range(0, rows, ROWS_AT_ONCE):
        some = slice(first, first + ROWS_AT_ONCE)
        begin = np.stack([column[some] for column in starts], axis=1).ravel()
        size = np.stack([column[some] for column in lengths], axis=1).ravel()
        end = np.cumsum(size)
        yield source[np.arange(end[-1]) + np.repeat(begin - end + size, size)].tobytes()


def starts_of(lengths: Numbers) -> Numbers:
    """Return where pieces begin that stand one behind the other.

    >>> starts_of(np.array([2, 3, 1])).tolist()
    [0, 2, 5]
    """
    return np.cumsum(lengths) - lengths
