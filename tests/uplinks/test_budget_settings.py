"""A budget as a config says it: what is read of it, and what is refused with what would be right."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.contracts import Priority
from gateway.core.units import Rate, Size
from gateway.uplinks.budget_settings import BudgetSettings


def hook(kind, value):
    return kind.parse(value)


def read(text: str) -> BudgetSettings:
    return msgspec.toml.decode(text.encode(), type=BudgetSettings, dec_hook=hook)


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ({"rate": Rate(30)}, 'rate: is 240bit/s; it is at least "300bit/s"'),
        ({"per_hour": Size(1000)}, 'per_hour: is 1000B; one request with its connection needs "64KiB"'),
        ({"per_day": Size(65_536), "per_month": Size(0)}, "per_month: is 0B"),
    ],
)
def test_a_budget_holds_at_least_a_request(budget: dict, sentence: str) -> None:
    """Else nothing would ever leave."""
    with pytest.raises(ValueError, match=sentence):
        BudgetSettings(**budget)


def test_a_budget_has_the_windows_that_are_limited() -> None:
    """And none by itself."""
    assert BudgetSettings().allowances() == {}
    found = BudgetSettings(per_day=Size(1 << 20), per_month=Size(20 << 20)).allowances()
    assert found == {"day": 1 << 20, "month": 20 << 20}


def test_free_hours_are_hours_of_a_budget() -> None:
    """Each that is none is said by its place; and they have to be free of something."""
    budget = read('per_day = "1MiB"\nfree = ["22:00-06:00", "12:00-13:00 local"]')
    assert [hours.is_local for hours in budget.free_hours().hours] == [False, True]
    assert BudgetSettings().free_hours().hours == ()
    with pytest.raises(ValueError, match=r'free\[1\]: "noon" are no hours; write "22:00-06:00"'):
        BudgetSettings(per_day=Size(1 << 20), free=("22:00-06:00", "noon"))
    with pytest.raises(ValueError, match="free: there is no allowance that they would be free of"):
        BudgetSettings(rate=Rate(8000), free=("22:00-06:00",))


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ({"per_day": Size(1 << 20), "overdraw": ("critical",)}, "overdraw: has no bound; add overdraw_max"),
        ({"per_day": Size(1 << 20), "overdraw_max": Size(1 << 20)}, "overdraw_max: is for nobody"),
        (
            {"per_day": Size(1 << 20), "overdraw": ("bulk",), "overdraw_max": Size(9)},
            "overdraw_max: is 9B; one request",
        ),
        ({"overdraw": ("critical",), "overdraw_max": Size(1 << 20)}, "overdraw: there is no allowance to go beyond"),
    ],
)
def test_an_overdraft_is_bounded_and_somebodys(budget: dict, sentence: str) -> None:
    """And one of an allowance."""
    with pytest.raises(ValueError, match=sentence):
        BudgetSettings(**budget)


def test_classes_that_may_overdraw_are_named() -> None:
    """Nobody may by itself."""
    budget = read('per_day = "1MiB"\noverdraw = ["critical", "normal"]\noverdraw_max = "64KiB"')
    assert budget.overdraws() == {Priority.CRITICAL, Priority.NORMAL}
    assert BudgetSettings().overdraws() == frozenset()
