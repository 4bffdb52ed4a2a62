"""What may be thinned together ends where OTLP messages begin, and these go one by one."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.core.batch import Batch, ResourceRecords
from gateway.core.contracts import BootId, Priority, Signal
from gateway.store.records import LeasedSegment
from gateway.store.segments import press_metrics, press_records
from gateway.store.thinnable import thinned_together

COLUMNS = press_metrics(Batch.of(1, [5], np.array([1.0])))
MESSAGES = press_records(ResourceRecords(Signal.METRICS, np.array([3]), np.array([5]), (b"m",)))


@pytest.mark.parametrize(
    ("forms", "expected"),
    [("c", (1, 60.0)), ("cc", (2, 60.0)), ("ccmc", (2, 60.0)), ("m", (1, 0.0)), ("mm", (1, 0.0)), ("mc", (1, 0.0))],
)
def test_how_many_go_together(forms: str, expected: tuple[int, float]) -> None:
    """And at which step."""
    segments = []
    for sequence, form in enumerate(forms, start=1):
        body = (MESSAGES if form == "m" else COLUMNS).seal(sequence=sequence, boot=BootId(1), previous_hash=bytes(16))
        segments.append(LeasedSegment(sequence, BootId(1), Signal.METRICS, Priority.NORMAL, 1, body))
    assert thinned_together(segments, 60.0) == expected
