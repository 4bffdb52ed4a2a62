"""A few hours over an allowance: the promises hold, and a gateway that breaks one is found out."""

from __future__ import annotations

import pytest

from gateway.bench import allowance
from gateway.bench.allowance import HOUR_S, Case
from gateway.bench.report import Figure
from gateway.codecs.otlp import MetricsEncoder
from gateway.uplinks.spending import Spending


def figures(case: Case) -> list[Figure]:
    return list(allowance._figures(allowance.simulate(case)))


@pytest.mark.slow
def test_an_allowance_holds_and_each_reading_is_somewhere() -> None:
    """As `tidegate bench --quick` has it."""
    found = list(allowance.allowance(True))
    assert len(found) == 5
    assert all(isinstance(figure, Figure) and figure.meets(figure.floor) for figure in found), found
    # It is one that binds, and is used.
    assert float(found[0].note.split()[0]) > 95
    assert "thinned readings" in found[2].note


@pytest.mark.slow
def test_who_does_not_pay_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are those of the far end: an account that is kept wrongly does not hide them."""
    monkeypatch.setattr(Spending, "around", lambda _, wire: wire)
    over, *_ = figures(Case(HOUR_S, "hour"))
    assert over.value > 0
    assert over.meets(over.floor) is False


@pytest.mark.slow
def test_what_is_not_sent_and_let_go_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings are looked for one by one: an account that agrees with itself does not hide that some are gone."""
    whole = MetricsEncoder.encode

    def lose(self: MetricsEncoder, groups: list) -> bytes:
        return whole(self, [(batch.take(slice(0, -1)), marks) for batch, marks in groups])

    monkeypatch.setattr(MetricsEncoder, "encode", lose)
    *_, lost = figures(Case(HOUR_S, "hour"))
    assert lost.value > 0
    assert lost.meets(lost.floor) is False
