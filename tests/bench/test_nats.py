"""What goes into a stream is measured and counted there, or it is said why not."""

from __future__ import annotations

import pytest

from gateway.bench import nats
from gateway.bench.nats import through_nats
from gateway.bench.report import Figure, Skipped
from hil.nats_server import why_no_nats


@pytest.mark.slow
def test_readings_into_a_stream_are_measured_and_all_are_there() -> None:
    """As OTLP and as JSON."""
    if why := why_no_nats():
        pytest.skip(why)
    figures = {figure.name: figure for figure in through_nats(True) if isinstance(figure, Figure)}
    assert len(figures) == 3
    assert figures["batched readings into a JetStream stream, each once"].value > 0
    assert figures["CPU per batched reading, all the way to NATS"].value < 2000
    assert "bytes a reading in the stream" in figures["CPU per message, JSON to JSON, all the way to NATS"].note


def test_where_there_is_no_server_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the suite is measured all the same."""
    monkeypatch.setattr(nats.shutil, "which", lambda *_, **__: None)
    (result,) = through_nats(True)
    assert isinstance(result, Skipped)
    assert "nats-server is not installed" in result.reason
