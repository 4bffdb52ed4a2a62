"""An outage in virtual time: what is fresh comes first, and a gateway that holds it up is found out."""

from __future__ import annotations

import pytest

from gateway.bench import outage
from gateway.bench.outage import DEVICES, Case
from gateway.uplinks.fresh_first import FreshFirst


@pytest.mark.slow
def test_what_is_fresh_is_fresh_and_the_backlog_has_its_share() -> None:
    """As `tidegate bench --quick` has it. A commit is a real one: on a busy machine it may take a turn of virtual time."""
    missed: list[object] = [None]
    for _ in range(3):
        first, lag, rest, share = found = list(outage.outage(True))
        missed = [(figure.name, figure.value, figure.note) for figure in found if not figure.meets(figure.floor)]
        if not missed:
            break
    assert not missed
    assert (first.unit, lag.unit, rest.unit, share.unit) == ("of all", "s at most", "%", "% off")
    # A commit each second, and a request: nothing is there sooner.
    assert lag.value > 1
    assert rest.value < 100


@pytest.mark.slow
def test_a_backlog_that_holds_live_data_up_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests of a large segment in a row are longer than live data may wait."""
    monkeypatch.setattr(FreshFirst, "gives_way", lambda *_: False)
    found = outage.simulate(Case(DEVICES, 600, 60))
    assert found.lags_s.max() > outage.LAG_S_MAX
