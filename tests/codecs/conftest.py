"""A mapper on a desk: messages in, readings out as rows that a test can compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from gateway.codecs.mapping import MapLimits, Mapped, Mapper, MappingSettings, default_mappings
from gateway.core.batch import KIND_MASK, Series, ValueKind
from gateway.core.contracts import Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable

ARRIVED_NS = 5_000 * 10**9
WALL_NS = 1_790_000_000 * 10**9


@dataclass
class Row:
    """One reading."""

    series: Series
    value: float | int | bool
    time_ns: int
    flags: int
    priority: int

    @property
    def name(self) -> str:
        return self.series.name


class Desk:
    """A mapper with a small registry of series; `series_max` bounds it, and those in `refused` get no new one."""

    def __init__(
        self, *mappings: dict[str, Any], series_max: int = 10**6, limits: dict[str, Any] | None = None
    ) -> None:
        settings = msgspec.convert(mappings, tuple[MappingSettings, ...]) or default_mappings()
        self.series: list[Series | None] = []
        self.owners: dict[str, str] = {}
        self.refused: set[str] = set()
        self.asked = 0
        self.series_max = series_max
        self.mapper = Mapper(settings, resolve=self._resolve, limits=MapLimits(**(limits or {})))

    def _resolve(self, series: Series, owner: str = "") -> int | None:
        self.asked += 1
        if series in self.series:
            return self.series.index(series) + 1
        if len(self.series) >= self.series_max or owner in self.refused:
            return None
        self.series.append(series)
        self.owners[series.name] = owner
        return len(self.series)

    def forget(self, *names: str) -> None:
        """Let the mapper forget all series of these names: their numbers are nobody's any more."""
        gone = [k for k, series in enumerate(self.series) if series is not None and series.name in names]
        for k in gone:
            self.series[k] = None
        self.mapper.forget_series(np.array(gone, np.uint32) + np.uint32(1))

    def map(
        self, *messages: tuple[str | bytes, bytes], wall_ns: int | None = WALL_NS, source: str = "direct", **more: Any
    ) -> tuple[list[Row], Mapped]:
        """Map messages that arrive in one buffer; return the readings as rows too."""
        topics = [topic.encode() if isinstance(topic, str) else topic for topic, _ in messages]
        arrivals = Arrivals(source, topics, [payload for _, payload in messages], **{"arrived_ns": ARRIVED_NS, **more})
        mapped = self.mapper.map(arrivals, wall_ns=wall_ns)
        rows = [row for priority, batch in mapped.pieces for row in self._rows(int(priority), batch)]
        assert mapped.readings == len(rows)
        assert all(0 <= index < len(messages) for index, *_ in mapped.malformed)
        return rows, mapped

    def _rows(self, priority: int, batch: Any) -> list[Row]:
        rows = []
        for k in range(len(batch)):
            kind = ValueKind(int(batch.flags[k]) & KIND_MASK)
            bits = int(batch.bits[k])
            value: Any = bits
            if kind is ValueKind.DOUBLE:
                value = float(batch.bits[k : k + 1].view(np.float64)[0])
            elif kind is ValueKind.BOOL:
                value = bool(bits)
            flags = int(batch.flags[k]) & ~KIND_MASK
            series = self.series[int(batch.series[k]) - 1]
            assert series is not None, "a forgotten number was given"
            rows.append(Row(series, value, int(batch.time_ns[k]), flags, priority))
        return rows

    def values(self, *messages: tuple[str | bytes, bytes], **options: Any) -> dict[str, list[Any]]:
        """Map messages; return the values by metric, and what was lost under "lost"."""
        rows, mapped = self.map(*messages, **options)
        found: dict[str, list[Any]] = {}
        for row in rows:
            found.setdefault(row.name, []).append(row.value)
        if mapped.malformed:
            found["lost"] = self.lost(mapped)
        return found

    @staticmethod
    def lost(mapped: Mapped) -> list[tuple[int, str]]:
        """Return index and reason of each reading that is lost, sorted."""
        return sorted((lost.at, lost.reason) for lost in mapped.malformed for _ in range(lost.readings))


@pytest.fixture
def desk() -> Callable[..., Desk]:
    """Return what makes a desk of mappings; none: the default mapping."""
    return Desk
