"""What is known to be guilty goes apart until it is taken."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.codecs.otlp import NO_MARKS, Marks
from gateway.core.batch import Batch, LogRecords
from gateway.uplinks.parts import LogsPart, MetricsPart
from gateway.uplinks.suspects import SERIES_MAX, Suspects


def readings(*series: int) -> MetricsPart:
    numbers = np.array(series, np.uint32)
    return MetricsPart([(Batch.of(numbers, np.arange(len(series)), np.zeros(len(series))), NO_MARKS)])


def series_of(part: MetricsPart) -> list[int]:
    return [number for batch, _ in part.groups for number in batch.series.tolist()]


@pytest.fixture
def suspects() -> Suspects:
    return Suspects()


def test_what_is_blamed_goes_apart(suspects) -> None:
    """With its marks; where there is nothing to part, nothing is."""
    assert suspects.apart(readings(1, 2)) is None
    suspects.blame(readings(2, 2))
    part = readings(1, 2, 2, 3)
    part.groups.append((readings(2, 4).groups[0][0], Marks(backfill=True)))
    parted = suspects.apart(part)
    assert parted is not None
    assert [series_of(side) for side in parted] == [[1, 3, 4], [2, 2, 2]]
    assert [[marks.backfill for _, marks in side.groups] for side in parted] == [[False, True]] * 2
    assert suspects.apart(readings(1, 3)) is None
    assert suspects.apart(readings(2, 2)) is None


def test_what_is_taken_apart_is_cleared(suspects) -> None:
    """What was taken with others says nothing of it."""
    suspects.blame(readings(1, 2))
    assert suspects.are_all(readings(1, 1))
    suspects.clear(readings(1, 3))
    assert suspects.are_all(readings(1))
    suspects.clear(readings(1))
    assert not suspects.are_all(readings(1))
    assert suspects.are_all(readings(2))
    assert not suspects.are_all(readings(2, 3))


def test_some_are_remembered(suspects) -> None:
    """The newest of them."""
    for number in range(SERIES_MAX + 5):
        suspects.blame(readings(number))
    assert len(suspects) == SERIES_MAX
    assert not suspects.are_all(readings(4))
    assert suspects.are_all(readings(5))


def test_of_log_records_nobody_knows_whose_they_are(suspects) -> None:
    """They are never blamed, so none goes apart."""
    part = LogsPart(LogRecords(np.zeros(2, np.uint32), np.arange(2), (b"a", b"b")), NO_MARKS)
    suspects.blame(part)
    suspects.blame(readings(0))
    suspects.clear(part)
    assert not suspects.are_all(part)
    assert suspects.apart(part) is None
