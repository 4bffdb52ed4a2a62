"""How much to read at a time, so that taking it in does not hold up everybody else. Does no I/O.

Ever new topics, or CSV of a digit a line, cost fifty times as much for their bytes as known topics do: of those less
is read and offered at a time, until it goes quickly again.
"""

from __future__ import annotations

from typing import Final

# How long taking in one offer should take: no other message, answer or ping is looked at meanwhile.
TAKE_S_MAX: Final = 0.02
PORTION_BYTES_MIN: Final = 4096


class Portion:
    """Bytes to read at a time, at most `bytes_max`. It doubles when a large one went quickly."""

    __slots__ = ("_bytes_max", "size_bytes")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.size_bytes = bytes_max

    @property
    def is_small(self) -> bool:
        """Whether it is less than it could be."""
        return self.size_bytes < self._bytes_max

    def took(self, size_bytes: int, took_s: float) -> None:
        """Note how long it took to take in so many bytes."""
        if took_s > TAKE_S_MAX:
            fitting = int(size_bytes * TAKE_S_MAX / took_s)
            self.size_bytes = max(PORTION_BYTES_MIN, min(self.size_bytes, fitting))
        elif 2 * size_bytes >= self.size_bytes:
            self.size_bytes = min(2 * self.size_bytes, self._bytes_max)

    def was_slow(self, size_bytes: int, took_s: float) -> None:
        """Note how long something else took with so many bytes: where that is too long less is read, and never more."""
        if took_s > TAKE_S_MAX:
            self.took(size_bytes, took_s)
