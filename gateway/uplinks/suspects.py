"""The series that a server failed at lately: what comes of them next goes apart from the others. No I/O.

A device whose data a server fails at is in every lease, and to find it out in each costs dozens of requests. What is
known to be guilty goes in a request of its own until one is taken: then the others are taken with the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.uplinks.parts import MetricsPart

if TYPE_CHECKING:
    from gateway.uplinks.parts import Closed, Part

SERIES_MAX: Final = 256


class Suspects:
    """One uplink's. Of log records and of messages that are passed on nobody knows whose they are."""

    def __init__(self) -> None:
        self._series: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._series)

    def blame(self, part: Part | Closed) -> None:
        """Take note that a server fails at this, and at nothing beside it; of too many the first is forgotten."""
        for series in _series_of(part):
            self._series[series] = None
        while len(self._series) > SERIES_MAX:
            del self._series[next(iter(self._series))]

    def clear(self, part: Part | Closed) -> None:
        """Take note that this was taken; where it was sent apart it is like all else now."""
        if self._series and self.are_all(part):
            for series in _series_of(part):
                del self._series[series]

    def are_all(self, part: Part | Closed) -> bool:
        """Whether there is nothing else in it."""
        series = _series_of(part)
        return bool(series) and all(one in self._series for one in series)

    def apart(self, part: Part | Closed) -> tuple[MetricsPart, MetricsPart] | None:
        """Return the others and these, None where one of both is nothing."""
        if not self._series or not isinstance(part, MetricsPart):
            return None
        blamed = np.fromiter(self._series, np.uint32)
        others, these = MetricsPart([]), MetricsPart([])
        for batch, marks in part.groups:
            is_blamed = np.isin(batch.series, blamed)
            for side, index in ((others, ~is_blamed), (these, is_blamed)):
                if index.any():
                    side.groups.append((batch.take(index), marks))
        return (others, these) if others.groups and these.groups else None


def _series_of(part: Part | Closed) -> list[int]:
    if not isinstance(part, MetricsPart):
        return []
    found: list[int] = np.unique(np.concatenate([batch.series for batch, _ in part.groups])).tolist()
    return found
