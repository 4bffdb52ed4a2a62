"""Series numbers of a mapping as a table, metric by topic, filled as readings come. Must not know payloads or names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.codecs.routing import NO_SERIES_LEFT
from gateway.core.batch import distinct, is_among

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from gateway.codecs.columns import Column
    from gateway.codecs.device_time import Times
    from gateway.codecs.routes import Owners
    from gateway.codecs.routing import Work
    from gateway.core.contracts import Priority

UNRESOLVED: Final = -1
"""In place of a series' number: the store was not asked yet, or had none left."""

ROWS_FIRST: Final = 64


class SeriesTable:
    """int64 (metrics, rows), a row for each topic. `resolve` is asked (metric, row, owner) at the first reading.

    It answers None where no series is left for that owner, and is asked again with the next reading.
    """

    def __init__(self, metrics: int, *, resolve: Callable[[int, int, str], int | None]) -> None:
        self._resolve = resolve
        self._numbers = np.full((metrics, ROWS_FIRST), UNRESOLVED, np.int64)

    @property
    def row_bytes(self) -> int:
        """How much memory a row takes, with room to grow."""
        return 2 * 8 * len(self._numbers)

    def cover(self, row: int) -> None:
        """Make room for a row."""
        while row >= self._numbers.shape[1]:
            self._numbers = np.concatenate([self._numbers, np.full_like(self._numbers, UNRESOLVED)], axis=1)

    def drop(self, rows: Sequence[int]) -> None:
        """Let go of what stands in rows."""
        self._numbers[:, rows] = UNRESOLVED

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these numbers, distinct and in order."""
        self._numbers[is_among(self._numbers, numbers)] = UNRESOLVED

    def one(self, metric: int, row: int, *, position: int, owners: Owners) -> int:
        """Return the series of one metric of one row for the message at `position`, UNRESOLVED where none is left."""
        if self._numbers[metric, row] == UNRESOLVED:
            self._ask(metric, row, owners.of(position))
        return int(self._numbers[metric, row])

    def many(
        self, metric: int, rows: npt.NDArray[np.intp], *, positions: npt.NDArray[np.intp], owners: Owners
    ) -> npt.NDArray[np.int64]:
        """Return the series of one metric of each of `rows` for the messages at `positions`, UNRESOLVED likewise."""
        found: npt.NDArray[np.int64] = self._numbers[metric][rows]
        if found.min(initial=0) == UNRESOLVED:
            missing = found == UNRESOLVED
            # Where one of those who share a topic has no series left, another may.
            names = owners.names
            for pair in distinct(rows[missing] * len(names) + owners.numbers(positions[missing])).tolist():
                row, owner = divmod(pair, len(names))
                if self._numbers[metric, row] == UNRESOLVED:
                    self._ask(metric, row, names[owner])
            found = self._numbers[metric][rows]
        return found

    def _ask(self, metric: int, row: int, owner: str) -> None:
        number = self._resolve(metric, row, owner)
        self._numbers[metric, row] = UNRESOLVED if number is None else number

    def hand_over(
        self,
        metric: int,
        column: Column,
        work: Work,
        *,
        priority: Priority,
        rows: npt.NDArray[np.intp],
        positions: npt.NDArray[np.intp],
        times: Times,
    ) -> None:
        """Give the readings and problems of a column to `work`.

        `rows`, `positions`, `times` are those of the values that the column was made of.
        """
        for at, reason, sentence in column.problems:
            work.lose(int(positions[at]), reason, sentence)
        if column.which is not None:
            rows, positions, times = rows[column.which], positions[column.which], times.take(column.which)
        bits, kinds = column.bits, column.kinds
        series = self.many(metric, rows, positions=positions, owners=work.owners)
        if series.min(initial=0) == UNRESOLVED:
            kept = series != UNRESOLVED
            work.lose_each(positions[~kept], "max_series", NO_SERIES_LEFT)
            series, bits, times = series[kept], bits[kept], times.take(kept)
            kinds = kinds if isinstance(kinds, int) else kinds[kept]
        work.output.add(priority, series=series, times=times, bits=bits, kinds=kinds)
