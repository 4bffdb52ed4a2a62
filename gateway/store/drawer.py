"""A drawer: rows set aside for a person to look at, bounded in bytes, the oldest making way. Does no I/O."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from gateway.store.records import SetAside

SET_ASIDE_BYTES_MAX: Final = 64 << 10
ROW_BYTES: Final = 64
# Of what a source brings and cannot be used for one reason, so many are set aside at once and then one a minute:
# enough to see why. A line with the wrong baud rate would fill the drawer, and cost the card more than all else.
SAMPLES_MAX: Final = 16
SAMPLE_S: Final = 60.0
KINDS_MAX: Final = 256


class Filing(NamedTuple):
    """What a commit does to the drawer: rows (id, at_ns, …) that come, and the first that stays (0: all stay)."""

    rows: list[tuple[Any, ...]]
    first_kept: int


NOTHING: Final = Filing([], 0)


class Drawer:
    """Which rows are in the drawer, by id and size."""

    def __init__(self, rows: Iterable[tuple[int, int]], *, bytes_max: int) -> None:
        self._rows = deque(rows)
        self._bytes_max = bytes_max
        self.size_bytes = sum(size for _, size in self._rows)
        self._next = self._rows[-1][0] + 1 if self._rows else 1

    def __len__(self) -> int:
        return len(self._rows)

    def plan(self, at_ns: int, values: Iterable[tuple[Any, ...]]) -> Filing:
        """Say what filing `values` means; nothing happens before `done`."""
        rows = [(number, at_ns, *row) for number, row in enumerate(values, start=self._next)]
        coming = [(row[0], _size(row)) for row in rows]
        size_bytes = self.size_bytes + sum(size for _, size in coming)
        first_kept = 0
        for number, size in itertools.chain(self._rows, coming):
            if size_bytes <= self._bytes_max:
                break
            size_bytes -= size
            first_kept = number + 1
        return Filing([row for row in rows if row[0] >= first_kept], first_kept)

    def growth_bytes(self, values: Collection[tuple[Any, ...]]) -> int:
        """Return by how much filing `values` makes it larger: what finds no place in it takes no room."""
        if not values:
            return 0
        filing = self.plan(0, values)
        going = sum(size for number, size in self._rows if number < filing.first_kept)
        return max(0, sum(map(_size, filing.rows)) - going)

    def done(self, filing: Filing) -> None:
        """Take note that the commit with `filing` is on disk."""
        for row in filing.rows:
            self._rows.append((row[0], _size(row)))
            self.size_bytes += _size(row)
            self._next = row[0] + 1
        while self._rows and self._rows[0][0] < filing.first_kept:
            self.size_bytes -= self._rows.popleft()[1]


def _size(row: tuple[Any, ...]) -> int:
    return ROW_BYTES + sum(len(value) for value in row if isinstance(value, str | bytes))


class Samples:
    """Which of what cannot be used are worth keeping; the ledger counts them all. Seconds are of a steady clock."""

    def __init__(self) -> None:
        # (source, reason) → how many may be kept, as of when
        self._kinds: dict[tuple[str, str], tuple[float, float]] = {}

    def pick(self, coming: Sequence[SetAside], *, now_s: float) -> list[SetAside]:
        """Return some of those that came together."""
        picked: list[SetAside] = []
        for what in coming[-SAMPLES_MAX:]:
            kind = what.source, what.reason
            allowed, since_s = self._kinds.get(kind, (float(SAMPLES_MAX), now_s))
            allowed = min(allowed + (now_s - since_s) / SAMPLE_S, float(SAMPLES_MAX))
            if allowed >= 1:
                picked.append(what)
                allowed -= 1
            if kind not in self._kinds and len(self._kinds) >= KINDS_MAX:
                self._kinds.clear()
            self._kinds[kind] = (allowed, now_s)
        return picked


def cut(what: SetAside) -> tuple[str, str, str, bytes, bytes]:
    """Return the row of a payload that is set aside: enough of it to see what is wrong."""
    return (
        what.source,
        what.reason,
        what.message[:SET_ASIDE_BYTES_MAX],
        what.topic[:SET_ASIDE_BYTES_MAX],
        what.payload[:SET_ASIDE_BYTES_MAX],
    )
