"""The end-to-end measurements run and hold their own account: accepted is what the receiver counted."""

from __future__ import annotations

import pytest

from gateway.bench.end_to_end import batched, flash, idle, single
from gateway.bench.report import Figure, Skipped


def is_of_a_gateway(figure: Figure) -> bool:
    """Whether this may be its memory: an interpreter with numpy has 20 MB, and no look sees more than the peak."""
    peak_mb = float(figure.note.removeprefix("median; peak "))
    return 20 < figure.value <= peak_mb + 0.1 and peak_mb < 200


@pytest.mark.slow
def test_single_messages_are_measured_and_all_arrive() -> None:
    """The floor of CPU holds even on a busy machine."""
    figures = {figure.name: figure for figure in single(True) if isinstance(figure, Figure)}
    cpu = figures["CPU per message, all the way to OTLP"]
    assert cpu.meets(cpu.floor), cpu
    rss = figures["RSS under that load"]
    assert is_of_a_gateway(rss), rss


@pytest.mark.slow
def test_batched_readings_are_measured_and_all_arrive() -> None:
    """Under a microsecond each, on any machine."""
    figures = {figure.name: figure for figure in batched(True) if isinstance(figure, Figure)}
    assert figures["CPU per batched reading"].value < 1000
    rss = figures["RSS under that load"]
    assert is_of_a_gateway(rss), rss


@pytest.mark.alone
@pytest.mark.slow
def test_a_trickle_is_measured() -> None:
    """At about the rate that is asked for, with a gateway's memory."""
    figures = {figure.name: figure for figure in idle(True) if isinstance(figure, Figure)}
    note = figures["CPU at 100 readings/s"].note
    assert 50 < float(note.removeprefix("measured at ").partition("/s")[0]) < 120
    assert 20 < figures["RSS at 100 readings/s"].value < 200


@pytest.mark.slow
def test_flash_is_measured_or_the_reason_said() -> None:
    """Under the floor where the file system counts."""
    (result,) = flash(True)
    # In the first seconds of a log each commit also notes how far it came (store/reached), later one in many.
    assert isinstance(result, Skipped) or result.meets(1.5 * result.floor), result
