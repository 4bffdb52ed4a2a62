"""A plant whose readings are known, and an account of which of them are somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gateway.bench.plant import METRICS, PERIOD_S, Arrived, Plant, Taken
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority

if TYPE_CHECKING:
    from pathlib import Path

STARTED_NS = 1_790_000_000 * NS_PER_S


def make_plant() -> Plant:
    return Plant({Priority.CRITICAL: 1, Priority.NORMAL: 2}, started_ns=STARTED_NS)


def test_each_device_says_each_metric_each_second() -> None:
    """By class, each series' readings side by side, the same whenever they are asked for."""
    plant = make_plant()
    numbers = np.arange(100, 115, dtype=np.uint32)
    pieces = plant.readings(PERIOD_S + 60, 30, numbers=numbers)
    assert [(priority, len(batch)) for priority, batch in pieces] == [
        (Priority.CRITICAL, 30 * len(METRICS)),
        (Priority.NORMAL, 60 * len(METRICS)),
    ]
    batch = pieces[1][1]
    assert batch.series[::30].tolist() == list(range(105, 115))
    assert batch.time_ns[0] == STARTED_NS + (PERIOD_S + 60) * NS_PER_S
    assert len(batch.sorted().run_starts()) == 10
    again = plant.readings(60, 30, numbers=numbers)[1][1]
    assert (batch.bits == again.bits).all()


def test_what_arrived_is_known_by_reading(tmp_path: Path) -> None:
    """New, again, and what nobody said: another value, another time."""
    plant = make_plant()
    arrived = Arrived(plant, seconds=100, path=tmp_path / "arrived")
    seconds = np.arange(10, 20)
    times, bits = STARTED_NS + seconds * NS_PER_S, plant.bits[7, seconds]
    assert arrived.take(7, times, bits) == Taken(10, 0, 0)
    assert arrived.take(7, times[5:], bits[5:]) == Taken(0, 5, 0)
    assert arrived.take(7, times, bits + 1) == Taken(0, 0, 10)
    assert arrived.take(7, times + 1, bits) == Taken(0, 0, 10)
    assert arrived.take(7, times + 100 * NS_PER_S, bits) == Taken(0, 0, 10)
    # Out of order, and one of them twice in one request.
    order = np.array([3, 1, 1])
    at = STARTED_NS + (20 + order) * NS_PER_S
    assert arrived.take(7, at, plant.bits[7, 20 + order]) == Taken(2, 1, 0)
    assert arrived.count() == arrived.count(Priority.NORMAL) == 12
    assert arrived.count(Priority.CRITICAL) == 0


def test_the_longest_silence_begins_before_the_first_reading_and_ends_after_the_last(tmp_path: Path) -> None:
    """Of any series of the class."""
    plant = Plant({Priority.BULK: 1}, started_ns=STARTED_NS)
    arrived = Arrived(plant, seconds=100, path=tmp_path / "arrived")
    for number in range(len(METRICS)):
        for second in (0, 10, 50, 90):
            arrived.take(number, np.array([STARTED_NS + second * NS_PER_S]), plant.bits[number, [second]])
    assert arrived.gap_s(Priority.BULK, before_s=100) == 40
    arrived.seen[2, 10:60] = False
    assert arrived.gap_s(Priority.BULK, before_s=100) == 90
    arrived.seen[3] = False
    assert arrived.gap_s(Priority.BULK, before_s=100) == 101
