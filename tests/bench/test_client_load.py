"""The load of a client's measurement counts what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway import Client
from gateway.bench import client_load

if TYPE_CHECKING:
    from pathlib import Path

    from hil.otlp_sink import OtlpSink


def test_a_rate_is_of_what_was_called() -> None:
    """For about as long as it is told."""
    called = []
    rate = client_load.rate_of(lambda: called.append(1), 0.01)
    assert rate.calls == len(called) > 0
    assert 0 < rate.per_s <= rate.calls / 0.01


def test_what_is_not_delivered_is_no_figure(
    tmp_path: Path, otlp_sink: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate of readings that went nowhere says nothing."""
    monkeypatch.setattr(client_load, "DRAIN_S", 20.0)
    with Client(otlp_sink.url, state_dir=tmp_path / "state", wait=20) as client:
        found = client_load.measure(client, seconds=0.02)
        # The arrays come after it is counted, and may be there by now.
        arrived = sum(count for reading, count in otlp_sink.readings().items() if reading.metric != "array")
        assert found["delivered"] == arrived > 0
        monkeypatch.setattr(client, "drain", lambda _: False)
        with pytest.raises(RuntimeError, match="readings were delivered"):
            client_load.measure(client, seconds=0.02)
