"""Who pays for what goes over a link: all or nobody, however many send, and never more than there is."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field

import pytest

from gateway.core.contracts import Priority
from gateway.core.units import Rate, Size
from gateway.uplinks.budget import COUNT_MAX, Budget, OverBudgetError, UnwrittenError
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.link_settings import LinkSettings
from gateway.uplinks.links import SHARE_MIN, WANTED_S, Link, Road, Seen
from gateway.uplinks.purse import Purse, budget_of
from gateway.uplinks.scheduling import WindowLeft
from gateway.uplinks.windows import Moment

NOON = 1_789_948_800 + 43_200
NOW = Moment("boot", 0.0, NOON, True)
CRITICAL = frozenset({Priority.CRITICAL})


def funded(limit_bytes: int, window: str = "day", **given: object) -> Budget:
    budget = Budget({window: limit_bytes}, now=lambda: NOW, **given)  # type: ignore[arg-type]
    budget.covers(limit_bytes)
    budget.plan()
    budget.written()
    return budget


def spent(budget: Budget, window: str = "day") -> int:
    return int(budget.told()[f"per_{window}"]["spent_bytes"])  # type: ignore[call-overload]


@dataclass
class Desk:
    """A metered link with a budget, a free one, and the roads of those who use them."""

    shared: Budget = field(default_factory=lambda: funded(1_000_000))
    rate: Rate | None = None
    now_s: float = 0.0

    def __post_init__(self) -> None:
        budget = BudgetSettings(
            rate=self.rate, overdraw=("critical", "normal"), overdraw_max=Size(1 << 20), per_day=Size(1 << 20)
        )
        dice = random.Random(1)
        self.lte = Link(LinkSettings(name="lte", interface="wwan0", budget=budget), random=dice)
        self.lte.budget = self.shared
        self.wifi = Link(LinkSettings(name="wifi", interface="wlan0", metered=False), random=dice)
        for link in (self.lte, self.wifi):
            link.look(Seen(link.settings.interface), 0.0)

    def purse(self, name: str = "cloud", own: Budget | None = None, *, link: Link | None = None) -> Purse:
        road = Road(name, [link or self.lte], doubted=lambda: None)
        road.choose(0.0)
        purse = Purse(road, own, overdraws=CRITICAL, now_s=lambda: self.now_s)
        purse.use(road.take())
        return purse


def test_what_is_free_for_one_of_two_is_not_free() -> None:
    """It goes against the allowance of the other, and has to fit there."""
    free = BudgetSettings(per_day=Size(1 << 20), free=("11:00-13:00",)).free_hours()
    own = funded(500_000, free=free)
    desk = Desk()
    assert not desk.purse(own=own).take(1000)
    assert (spent(own), spent(desk.shared)) == (0, 1000)
    assert Desk(shared=funded(1_000_000, free=free)).purse(own=own).take(1000)


def test_over_a_metered_link_both_pay() -> None:
    """What one of them has not is taken of none."""
    desk, own = Desk(), funded(500_000)
    purse = desk.purse(own=own)
    purse.take(400_000)
    assert (spent(own), spent(desk.shared)) == (400_000, 400_000)
    purse.settle(400_000, 300_000)
    assert (spent(own), spent(desk.shared)) == (300_000, 300_000)
    desk.purse("other").take(650_000)
    with pytest.raises(OverBudgetError):
        purse.take(60_000)
    assert (spent(own), spent(desk.shared)) == (300_000, 950_000)
    assert purse.largest_bytes == 500_000 - 500_000 // 32
    with pytest.raises(OverBudgetError):
        desk.purse(own=own).take(300_000)
    assert (spent(own), spent(desk.shared)) == (300_000, 950_000)


def test_over_a_free_link_nobody_pays() -> None:
    """However much goes, and whatever is spent by then."""
    desk, own = Desk(), funded(100_000)
    own.take(99_000)
    purse = desk.purse(own=own, link=desk.wifi)
    purse.take(10_000_000)
    purse.go_on(10_000_000)
    purse.settle(10_000_000, 9_000_000)
    assert (spent(own), spent(desk.shared)) == (99_000, 0)
    assert (purse.largest_bytes, purse.lacking(1 << 40), purse.windows()) == (COUNT_MAX, None, [])
    assert (purse.covers(1 << 40), purse.is_limiting, purse.overdraws()) == (True, False, frozenset())


def test_a_note_that_is_lacking_is_wanted_of_who_lacks_it() -> None:
    """And nothing is taken before it is written."""
    desk, own = Desk(), Budget({"day": 500_000}, now=lambda: NOW)
    purse = desk.purse(own=own)
    with pytest.raises(UnwrittenError):
        purse.take(100_000)
    assert (spent(desk.shared), own.wants_note, desk.shared.wants_note) == (0, True, False)
    assert not purse.covers(200_000)


async def test_it_is_covered_by_who_keeps_its_note() -> None:
    """The uplink's by the store, the link's by its own; where that cannot be written it goes on without."""
    desk, own = Desk(shared=Budget({"day": 1_000_000}, now=lambda: NOW)), Budget({"day": 500_000}, now=lambda: NOW)
    purse, written = desk.purse(own=own), []

    async def write(budget: Budget, *, fails: bool = False) -> bool:
        written.append(budget)
        if not fails:
            budget.plan()
            budget.written()
        return not fails

    desk.lte.write_note = lambda: write(desk.shared, fails=True)
    assert not purse.covers(100_000)
    await purse.cover(lambda: write(own))
    assert written == [own, desk.shared]
    assert (own.is_mute, desk.shared.is_mute) == (False, True)
    purse.take(100_000)
    assert purse.covers(100_000)
    await purse.cover(lambda: write(own))
    assert written[2:] == [desk.shared], "which is tried again"


def test_each_plans_with_its_part_of_the_link() -> None:
    """As much as it wants of what all want; who is alone has all of it, and who has long said nothing wants nothing."""
    desk = Desk(rate=Rate(8000))
    one = desk.purse("one", funded(500_000, "hour"))
    assert one.windows()[1] == WindowLeft("day on lte", 1_000_000, 43_200)
    assert (one.windows()[0].name, one.rate(None), one.rate(500.0)) == ("hour", 8000, 500)
    two = desk.purse("two")
    assert [left.left_bytes for left in two.windows()] == [500_000]
    desk.lte.wants("one", 300.0, 0.0)
    desk.lte.wants("two", 100.0, 0.0)
    desk.lte.wants("nobody", 1e9, 0.0)
    shares = [purse.rate(None) / 8000 for purse in (one, two)]
    assert shares == pytest.approx([(0.75 + SHARE_MIN) / (1 + 2 * SHARE_MIN), (0.25 + SHARE_MIN) / (1 + 2 * SHARE_MIN)])
    assert sum(shares) == pytest.approx(1)
    desk.now_s = WANTED_S - 1
    desk.lte.wants("one", 300.0, desk.now_s)
    desk.now_s = WANTED_S + 1
    assert one.rate(None) / 8000 > 0.9


def test_who_wants_little_of_a_link_that_is_short_has_it() -> None:
    """What the others want all the same is divided among them."""
    desk = Desk(rate=Rate(8000))
    one, two = desk.purse("one"), desk.purse("two")
    desk.lte.wants("one", 1_000_000.0, 0.0)
    desk.lte.wants("two", 800.0, 0.0)
    assert two.rate(None) >= 800
    assert one.rate(None) + two.rate(None) == pytest.approx(8000)
    desk.lte.wants("two", 900_000.0, 0.0)
    assert one.rate(None) == pytest.approx(two.rate(None))


def test_who_overdraws_does_so_of_both() -> None:
    """Where both have a budget, what only one of them lets through is no exception."""
    desk = Desk()
    assert desk.purse().overdraws() == {Priority.CRITICAL, Priority.NORMAL}
    assert desk.purse(own=funded(500_000)).overdraws() == CRITICAL
    assert desk.purse(own=funded(500_000), link=desk.wifi).overdraws() == frozenset()


def test_what_keeps_one_waiting_longest_is_said() -> None:
    """The month's end and not the day's."""
    desk, own = Desk(), funded(1_000_000, "month")
    purse = desk.purse(own=own)
    purse.take(1_000_000 - 10)
    assert "per month" in str(purse.lacking(1000))
    assert purse.lacking(5) is None


def test_settings_without_an_allowance_make_no_budget() -> None:
    """A rate is not one."""
    assert budget_of(BudgetSettings(rate=Rate(8000)), now=lambda: NOW, note=b"") is None
    budget = budget_of(BudgetSettings(per_day=Size(1 << 20)), now=lambda: NOW, note=b"")
    assert budget is not None
    assert budget.told()["per_day"]["limit_bytes"] == 1 << 20


def test_many_who_share_never_spend_more_than_there_is() -> None:
    """Threads that take, go on, give back and settle: the sum of what went is what is spent, and no byte over."""
    shared = funded(3_000_000)
    desk, went, locks = Desk(shared=shared), [0] * 4, threading.Lock()

    def send(number: int) -> None:
        dice = random.Random(number)
        purse = desk_purses[number]
        for _ in range(2000):
            cost = dice.randrange(1, 4000)
            try:
                purse.take(cost)
            except (OverBudgetError, UnwrittenError):
                continue
            real = dice.randrange(0, cost + 1)
            went[number] += real
            purse.settle(cost, real)
            with locks:
                shared.plan()
                shared.written()

    desk_purses = [desk.purse(f"uplink{number}", funded(1_000_000)) for number in range(4)]
    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(went) == spent(shared) <= 3_000_000
    assert spent(shared) > 2_000_000
