"""What a store is given from outside has what can be left out, left out."""

from __future__ import annotations

from gateway.core.clock import FakeClock
from gateway.core.telemetry import Telemetry
from gateway.store.room import Room
from gateway.store.series import SeriesBounds
from gateway.store.settings import StoreSettings
from gateway.store.surroundings import Surroundings


def test_nothing_is_closed_or_left_out_unless_somebody_says_so(tmp_path) -> None:
    """A shelf that is open, of which every uplink takes all."""
    settings = StoreSettings()
    room = Room(tmp_path, settings)
    around = Surroundings(settings, room, FakeClock(), Telemetry(), 9, SeriesBounds(), 1.0)
    assert (around.closed, around.note_path, around.takes) == ("", None, {})
