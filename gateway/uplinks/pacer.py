"""A rate that is kept from piece to piece, by one sender or by several that share a line. Must not wait."""

from __future__ import annotations

import threading
from typing import Final

# A piece takes so long at the rate that is set: what else is on that line has its turn in between.
PIECE_S: Final = 0.25
PIECE_BYTES_MIN: Final = 256


class Pacer:
    """Knows when a line of `rate` bytes a second has carried all that went over it. For any thread."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._free_s = float("-inf")

    @property
    def piece_bytes(self) -> int:
        """How large a piece of a body is at most."""
        return max(PIECE_BYTES_MIN, int(self.rate * PIECE_S))

    def left_s(self, now_s: float) -> float:
        """Return in how many seconds the next piece may go."""
        return max(0.0, self._free_s - now_s)

    def sent(self, size_bytes: int, now_s: float) -> None:
        """Take note that the line is busy with so much more."""
        with self._lock:
            self._free_s = max(self._free_s, now_s) + size_bytes / self.rate
