"""Asking whether a link carries anything costs a part of its allowance, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.units import Size
from gateway.uplinks.budget import Budget, OverBudgetError
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.link_probe import PROBE_BYTES
from gateway.uplinks.ration import SAVED_SHARE, SHARE, SPENT_SHARE, Ration
from gateway.uplinks.windows import Moment

NOON_S = 1_790_000_000.0
COST = 900
HOUR_S, DAY_S = 3600.0, 86_400.0


class Desk:
    """A link that is asked each minute where that is let; `asked_s` says when."""

    def __init__(self, **given: Any) -> None:
        self.now_s = 1000.0
        settings = BudgetSettings(**given)
        self.budget = Budget(
            settings.allowances(),
            now=lambda: Moment("a boot", self.now_s, NOON_S + self.now_s, is_sure=True),
            overdraw_bytes=int(settings.overdraw_max or 0),
        )
        self.budget.mute()
        self.ration = Ration(self.budget, settings)
        self.asked_s: list[float] = []

    def pass_by(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 60.0
            if not self.ration.wait_s(self.now_s):
                self.ration.take()
                self.ration.settle(COST)
                self.asked_s.append(self.now_s)

    def spend_all(self) -> None:
        while self.budget.lacking(PROBE_BYTES) is None:
            self.budget.take(PROBE_BYTES)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"per_hour": Size(1 << 20)}, HOUR_S),
        ({"per_day": Size(5 << 20)}, DAY_S),
        ({"per_month": Size(5 << 20)}, 31 * DAY_S),
    ],
)
def test_it_costs_a_twentieth_of_an_allowance(given: dict[str, Size], seconds: float) -> None:
    """Over a window's length, whichever that is, and what was saved up before; of several the tightest counts."""
    desk = Desk(**given)
    desk.pass_by(seconds)
    (limit,) = given.values()
    most = SHARE * limit * (1 + SAVED_SHARE) + PROBE_BYTES
    assert 0.7 * SHARE * limit < COST * len(desk.asked_s) <= most
    both = Desk(**{"per_month": Size(1 << 20), **given})
    both.pass_by(DAY_S)
    assert COST * len(both.asked_s) <= SHARE * both.ration._limits["month"] * (1 / 31 + SAVED_SHARE) + PROBE_BYTES


def test_it_goes_as_often_as_is_set_for_a_while() -> None:
    """A short outage is over before anything has to be saved; and who was not asked has saved up for the next one."""
    desk = Desk(per_month=Size(20 << 20))
    desk.pass_by(HOUR_S)
    assert len(desk.asked_s) == 60
    desk.pass_by(DAY_S)
    waits = [later - before for before, later in zip(desk.asked_s[-3:], desk.asked_s[-2:], strict=False)]
    assert min(waits) > 30 * 60
    told = desk.ration.told(desk.now_s)["probes"]
    assert told["spent_bytes"] == COST * len(desk.asked_s)
    assert 0 < told["held_back_s"] <= max(waits)
    asked = len(desk.asked_s)
    desk.now_s += 3 * DAY_S
    desk.pass_by(HOUR_S)
    assert len(desk.asked_s) == asked + 60


def test_of_what_may_be_overdrawn_it_costs_a_quarter() -> None:
    """Three quarters are there for who may overdraw; the first probe goes at once, and a spent allowance is none's."""
    over = 512 << 10
    desk = Desk(per_day=Size(5 << 20), overdraw=("critical",), overdraw_max=Size(over))
    desk.spend_all()
    spent = desk.budget.told()["per_day"]["spent_bytes"]
    desk.pass_by(60.0)
    assert len(desk.asked_s) == 1
    desk.pass_by(6 * HOUR_S)
    assert 0 < COST * len(desk.asked_s) <= SPENT_SHARE * over * (0.25 + SAVED_SHARE) + PROBE_BYTES
    assert desk.budget.told()["per_day"]["spent_bytes"] == spent + COST * len(desk.asked_s)
    none = Desk(per_day=Size(5 << 20))
    none.spend_all()
    with pytest.raises(OverBudgetError):
        none.pass_by(60.0)
    assert none.ration.told(none.now_s) == {}
