"""Bytes that are on their way, and who finds no room."""

from __future__ import annotations

import pytest

from gateway.core.telemetry import Telemetry
from gateway.net.http_requests import RequestError
from gateway.sources.otlp_counts import SLOW_S, STALLED_S, Counts


@pytest.fixture
def counts() -> Counts:
    found = Counts("local", telemetry=Telemetry(), bytes_max=100, now_s=lambda: found.clock_s)
    found.clock_s = 0.0
    return found


def test_what_a_request_holds_is_given_back(counts: Counts) -> None:
    """However it ends; growing counts what it has, not what it had."""
    with counts.hold(pytest.fail) as one, pytest.raises(RequestError) as caught, counts.hold(pytest.fail) as other:
        one.grow(40)
        other.grow(30)
        other.grow(60)
        assert counts.in_flight_bytes == 100
        other.grow(61)
    assert (caught.value.status, caught.value.after_s) == (503, 1.0)
    assert (counts.in_flight_bytes, counts.coming) == (0, {})


def test_who_stands_still_makes_room(counts: Counts) -> None:
    """Not who is sending, nor who is all there and waits for the disk; and nobody as long as there is room."""
    away: list[str] = []
    with (
        counts.hold(lambda: away.append("still")) as still,
        counts.hold(lambda: away.append("moving")) as moving,
        counts.hold(lambda: away.append("whole")) as whole,
        counts.hold(lambda: away.append("late")) as late,
    ):
        still.grow(30)
        whole.grow(30)
        whole.has_come()
        counts.clock_s = STALLED_S
        moving.grow(30)
        assert away == []
        for _ in range(2):
            with pytest.raises(RequestError):
                late.grow(30)
        assert away == ["still"]
        for second in range(1, int(SLOW_S) + 1):
            counts.clock_s = STALLED_S + second - 0.5
            moving.grow(30 + second // 10)
        counts.clock_s = SLOW_S
        with pytest.raises(RequestError):
            late.grow(40)
        assert away[:2] == ["still", "moving"]
