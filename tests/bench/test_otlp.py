"""The measurement of OTLP in and out runs, and holds its own account: accepted is what the receiver counted."""

from __future__ import annotations

import pytest

from gateway.bench import otlp
from gateway.bench.report import Figure, Skipped


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measure", "over", "nouns"),
    [
        (otlp.through, "", ["log records", "spans", "data points", "data points, watched"]),
        (otlp.through_grpc, " over gRPC", ["log records", "spans"]),
    ],
)
def test_records_and_spans_are_measured_and_all_arrive(measure, over: str, nouns: list[str]) -> None:
    """A few microseconds each, on any machine."""
    figures = {figure.name: figure for figure in measure(True) if isinstance(figure, Figure)}
    assert len(figures) == 3 * len(nouns)
    for noun in nouns:
        assert 0 < figures[f"CPU for each of the {noun}{over}"].value < 50
        assert 20 < figures[f"RSS under {noun}{over}"].value < 200


def test_without_the_extra_the_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to install; nothing is started."""
    monkeypatch.setattr(otlp, "EXTRAS", {"grpc": ("no_such_module_anywhere",)})
    (result,) = otlp.through_grpc(True)
    assert isinstance(result, Skipped)
    assert "pip install tidegate[grpc]" in result.reason
