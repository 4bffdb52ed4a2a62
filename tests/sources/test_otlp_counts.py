"""Bytes that are on their way, and who finds no room."""

from __future__ import annotations

import pytest

from gateway.core.telemetry import Telemetry
from gateway.net.http_requests import RequestError
from gateway.sources.otlp_counts import Counts


def test_what_a_request_holds_is_given_back() -> None:
    """However it ends; growing counts what it has, not what it had."""
    counts = Counts("local", telemetry=Telemetry(), bytes_max=100)
    with counts.hold(40) as one, pytest.raises(RequestError) as caught, counts.hold(30) as other:
        one.grow(30)
        other.grow(60)
        assert counts.in_flight_bytes == 100
        other.grow(61)
    assert (caught.value.status, caught.value.after_s, counts.in_flight_bytes) == (503, 1.0, 0)
    with pytest.raises(RequestError), counts.hold(101):
        pytest.fail("there is no room")
    assert counts.in_flight_bytes == 0
