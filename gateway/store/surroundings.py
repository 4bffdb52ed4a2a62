"""What a store is given from outside. Must hold no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.core.clock import Clock
    from gateway.core.telemetry import Telemetry
    from gateway.store.room import Room
    from gateway.store.series import SeriesBounds
    from gateway.store.settings import StoreSettings
    from gateway.store.taking import Takes


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that one store works with and did not make."""

    settings: StoreSettings
    room: Room
    clock: Clock
    telemetry: Telemetry
    max_series: int
    series: SeriesBounds
    commit_interval_s: float
    closed: str = ""  # why nothing is taken until the next start
    note_path: Path | None = None  # outlives this process: there is noted what could not be written
    takes: Mapping[str, Takes] = field(default_factory=dict)  # by uplink
