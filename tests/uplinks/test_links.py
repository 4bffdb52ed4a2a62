"""Links and who uses which: a kernel and servers that say what they are told to, and virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gateway.core.clock import NS_PER_S, BootTimes, FakeClock, Timeline
from gateway.core.contracts import BootId
from gateway.core.units import Duration, Rate, Size
from gateway.uplinks import links as links_module
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.guards import NoLinkError
from gateway.uplinks.link_probe import PROBE_BYTES, Found
from gateway.uplinks.link_settings import LinkSettings
from gateway.uplinks.links import JITTER, LOOK_S, WRITE_AGAIN_S, Links, Road, Seen, look_at
from gateway.uplinks.ration import SAVED_SHARE, SHARE, SPENT_SHARE
from gateway.uplinks.settings import OtlpUplinkSettings
from hil import virtual_threads

if TYPE_CHECKING:
    from pathlib import Path

PROBE = "tcp://192.0.2.7:443"
DAY_S = 86_400


class LoopClock(FakeClock):
    def monotonic_ns(self) -> int:
        return int(asyncio.get_running_loop().time() * NS_PER_S)


@dataclass
class Box:
    """`down` says why links are down, `silent` which servers do not answer; `asked` who was asked and when."""

    links: Links = None  # type: ignore[assignment]
    down: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    devices: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, float]] = field(default_factory=list)
    takes_s: float = 0.1
    costs: int = 500
    task: asyncio.Task | None = None

    def look(self, settings: LinkSettings) -> Seen:
        device = self.devices.get(settings.name, settings.interface)
        return Seen(device, self.down.get(settings.name, ""), self.marks.get(settings.name, ""))

    async def ask(self, settings: LinkSettings, _device: str) -> Found:
        self.asked.append((settings.name, asyncio.get_running_loop().time()))
        await asyncio.sleep(self.takes_s)
        return Found("no answer" if settings.name in self.silent else "", self.costs)

    def road(self, *names: str, uplink: str = "cloud") -> Road:
        road = self.links.road(OtlpUplinkSettings(name=uplink, endpoint="http://127.0.0.1:1", links=names))
        assert road is not None
        return road

    def start(self) -> None:
        self.task = asyncio.create_task(self.links.run())

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task
        assert len(asyncio.all_tasks()) == 1, "no probe is left"


def box(*settings: LinkSettings, folder: Path | None = None) -> Box:
    made, clock = Box(), LoopClock(wall=1_790_000_000 * NS_PER_S)
    timeline = Timeline([BootTimes(BootId(1), clock.boot)], current=BootId(1))
    timeline.observe(clock)
    store: Any = SimpleNamespace(timeline=timeline)
    made.links = Links(
        settings, clock=clock, random=random.Random(1), look=made.look, ask=made.ask, store=store, folder=folder
    )
    return made


def ethernet(**given: object) -> LinkSettings:
    return LinkSettings(**{"name": "ethernet", "interface": "eth0", "settle": Duration(30), **given})  # type: ignore[arg-type]


def lte(**given: object) -> LinkSettings:
    return LinkSettings(**{"name": "lte", "interface": "wwan0", **given})  # type: ignore[arg-type]


def name_of(road: Road) -> str | None:
    return road.told()["link"]


def run(scenario) -> None:
    virtual_threads.run(scenario())


def test_the_first_that_is_up_is_used() -> None:
    """In the order in which the uplink names them; who names none has the kernel's routes."""

    async def scenario() -> None:
        made = box(ethernet(), lte())
        road, other = made.road("ethernet", "lte"), made.road("lte", "ethernet", uplink="other")
        assert made.links.road(OtlpUplinkSettings(name="bare", endpoint="http://127.0.0.1:1")) is None
        made.start()
        await asyncio.sleep(0.1)
        assert (name_of(road), name_of(other)) == ("ethernet", "lte")
        told = made.links.told()
        assert told["ethernet"]["used_by"] == ["cloud"]
        assert (told["lte"]["state"], told["lte"]["reason"], told["lte"]["metered"]) == ("up", "", True)
        await made.stop()

    run(scenario)


def test_a_link_that_goes_is_left_at_once_and_who_uses_it_is_told() -> None:
    """One look later; it is said which."""

    async def scenario() -> None:
        made = box(ethernet(), lte())
        road, lost, found = made.road("ethernet", "lte"), [], []
        road.on_lost = lambda: lost.append(name_of(road))
        road.on_found = lambda: found.append(name_of(road))
        made.start()
        await asyncio.sleep(0.1)
        made.down["ethernet"] = "eth0 has no carrier"
        await asyncio.sleep(LOOK_S)
        assert (name_of(road), lost, found) == ("lte", ["lte"], ["ethernet", "lte"])
        assert made.links.told()["ethernet"]["reason"] == "eth0 has no carrier"
        await made.stop()

    run(scenario)


def test_it_comes_back_to_a_better_link_when_that_has_settled() -> None:
    """One that comes and goes within that time costs nothing; nothing is cut for it."""

    async def scenario() -> None:
        made = box(ethernet(), lte())
        made.down["ethernet"] = "eth0 has no carrier"
        road, lost = made.road("ethernet", "lte"), []
        road.on_lost = lambda: lost.append(1)
        made.start()
        await asyncio.sleep(0.1)
        for _ in range(20):
            del made.down["ethernet"]
            await asyncio.sleep(20)
            assert name_of(road) == "lte"
            made.down["ethernet"] = "eth0 has no carrier"
            await asyncio.sleep(5)
        del made.down["ethernet"]
        await asyncio.sleep(29)
        assert name_of(road) == "lte"
        await asyncio.sleep(3)
        assert (name_of(road), lost) == ("ethernet", [])
        await made.stop()

    run(scenario)


def test_where_none_is_up_it_is_said_why_and_waited() -> None:
    """Whoever waits goes on when one comes up."""

    async def scenario() -> None:
        made = box(ethernet(), lte())
        made.down = {"ethernet": "eth0 has no carrier", "lte": "there is no interface wwan0 just now"}
        road = made.road("ethernet", "lte")
        made.start()
        await asyncio.sleep(0.1)
        with pytest.raises(NoLinkError) as error:
            road.take()
        why = "ethernet: eth0 has no carrier; lte: there is no interface wwan0 just now"
        assert str(error.value) == f"no link of cloud is up: {why}"
        assert not await road.wait(3)
        asyncio.get_running_loop().call_later(10, made.down.pop, "lte")
        began_s = asyncio.get_running_loop().time()
        assert await road.wait(60)
        assert asyncio.get_running_loop().time() - began_s <= 10 + LOOK_S
        assert road.take().name == "lte"
        await made.stop()

    run(scenario)


def test_news_of_the_kernel_are_looked_at_at_once() -> None:
    """Not at the next look."""

    async def scenario() -> None:
        made = box(lte())
        made.down["lte"] = "wwan0 has no carrier"
        road = made.road("lte")
        made.start()
        await asyncio.sleep(0.1)
        made.down.clear()
        made.links.network_up()
        await asyncio.sleep(0.01)
        assert name_of(road) == "lte"
        await made.stop()

    run(scenario)


def test_another_device_is_another_turn() -> None:
    """A router behind another interface: connections from before are cut, though the link is the same and up."""

    async def scenario() -> None:
        made = box(LinkSettings(name="router", gateway="192.0.2.1"))
        made.devices["router"] = "eth0"
        road, lost = made.road("router"), []
        road.on_lost = lambda: lost.append(1)
        made.start()
        await asyncio.sleep(0.1)
        link = road.take()
        turn = link.turn
        assert road.is_good(link, turn)
        made.devices["router"] = "wlan0"
        await asyncio.sleep(LOOK_S)
        assert not road.is_good(link, turn)
        assert (road.take().device, lost) == ("wlan0", [1])
        await made.stop()

    run(scenario)


def test_another_address_is_another_turn() -> None:
    """A modem that dialled anew between two looks: what was sent from the address that is gone has no answer."""

    async def scenario() -> None:
        made = box(lte())
        made.marks["lte"] = "3 10.0.0.1"
        road, lost = made.road("lte"), []
        road.on_lost = lambda: lost.append(1)
        made.start()
        await asyncio.sleep(0.1)
        link = road.take()
        turn = link.turn
        await asyncio.sleep(3 * LOOK_S)
        assert (road.is_good(link, turn), lost) == (True, [])
        made.marks["lte"] = "3 10.0.0.2"
        await asyncio.sleep(LOOK_S)
        assert (road.is_good(link, turn), road.take().is_up, lost) == (False, True, [1])
        await made.stop()

    run(scenario)


def test_a_link_with_a_probe_is_asked_first() -> None:
    """What stands behind it is not used before it has answered, and it is not asked while it is used and works."""

    async def scenario() -> None:
        made = box(ethernet(probe=PROBE), lte())
        road = made.road("ethernet", "lte")
        made.start()
        await asyncio.sleep(0.05)
        assert name_of(road) is None
        await asyncio.sleep(0.1)
        assert name_of(road) == "ethernet"
        await asyncio.sleep(3600)
        assert made.asked == [("ethernet", 0.0)]
        assert made.links.told()["ethernet"]["wire_bytes"] == 500
        await made.stop()

    run(scenario)


def test_what_fails_over_a_link_has_it_asked_and_left() -> None:
    """A router whose own way is gone: the interface is up all the same."""

    async def scenario() -> None:
        made = box(ethernet(probe=PROBE), lte())
        road = made.road("ethernet", "lte")
        made.start()
        await asyncio.sleep(100)
        made.silent.add("ethernet")
        road.doubt(road.take())
        await asyncio.sleep(0.2)
        assert name_of(road) == "lte"
        assert made.links.told()["ethernet"]["reason"] == "no answer"
        # It is asked again, as often as is said and no more, until it answers and has settled.
        began = len(made.asked)
        await asyncio.sleep(3600)
        times = [at_s for _, at_s in made.asked[began - 1 :]]
        gaps = [later - before for before, later in itertools.pairwise(times)]
        assert min(gaps) >= 60
        assert max(gaps) <= 60 * (1 + JITTER) + LOOK_S
        assert len({round(gap) for gap in gaps}) > 3, "at random"
        made.silent.clear()
        await asyncio.sleep(60 * (1 + JITTER) + 30 + 3 * LOOK_S)
        assert name_of(road) == "ethernet"
        await made.stop()

    run(scenario)


def test_a_doubt_without_a_probe_is_none() -> None:
    """That a receiver is down says nothing of the link, and must not drain the other one's allowance."""

    async def scenario() -> None:
        made = box(ethernet(), lte())
        road = made.road("ethernet", "lte")
        made.start()
        await asyncio.sleep(0.1)
        for _ in range(10):
            road.doubt(road.take())
            await asyncio.sleep(1)
        assert (name_of(road), made.asked) == ("ethernet", [])
        await made.stop()

    run(scenario)


def test_a_link_that_was_down_is_asked_anew() -> None:
    """What its server said before says nothing of now, where another link is up; it is not asked more often for that."""

    async def scenario() -> None:
        made = box(ethernet(probe=PROBE), lte())
        road = made.road("ethernet", "lte")
        made.start()
        await asyncio.sleep(10)
        for _ in range(30):
            made.down["ethernet"] = "gone"
            await asyncio.sleep(2)
            assert name_of(road) == "lte"
            del made.down["ethernet"]
            await asyncio.sleep(2)
            assert name_of(road) == "lte"
        assert len(made.asked) <= 3
        await asyncio.sleep(120)
        assert name_of(road) == "ethernet"
        await made.stop()

    run(scenario)


def test_a_modem_that_comes_and_goes_is_used_while_it_is_there() -> None:
    """Where there is no other way: its server has answered lately, and may not be asked again so soon."""

    async def scenario() -> None:
        made = box(lte(probe=PROBE))
        road = made.road("lte")
        made.start()
        await asyncio.sleep(10)
        used = 0
        for _ in range(50):
            made.down["lte"] = "gone"
            await asyncio.sleep(2)
            assert name_of(road) is None
            del made.down["lte"]
            await asyncio.sleep(2)
            used += name_of(road) == "lte"
        assert used >= 45
        assert len(made.asked) <= 5
        # One that has not answered is not used for that.
        made.silent.add("lte")
        road.doubt(road.links[0])
        await asyncio.sleep(80)
        assert name_of(road) is None
        made.down["lte"] = "gone"
        await asyncio.sleep(2)
        del made.down["lte"]
        await asyncio.sleep(2)
        assert name_of(road) is None
        await made.stop()

    run(scenario)


def test_a_probe_under_way_ends_with_the_links() -> None:
    """Nothing of it is left; a probe whose link went meanwhile says nothing."""

    async def scenario() -> None:
        made = box(lte(probe=PROBE))
        road, made.takes_s = made.road("lte"), 5.0
        made.start()
        await asyncio.sleep(1.5)
        made.down["lte"] = "gone"
        await asyncio.sleep(10)
        assert (name_of(road), made.links.told()["lte"]["reason"]) == (None, "gone")
        del made.down["lte"]
        await asyncio.sleep(61)
        await made.stop()

    run(scenario)


def test_the_kernel_is_asked_for_all_that_is_given() -> None:
    """The loopback is up and no default route leads there."""
    device, why, mark = look_at(LinkSettings(name="a", interface="lo"))
    assert (device, why, mark.endswith(" 127.0.0.1")) == ("lo", "", True)
    assert look_at(LinkSettings(name="a", interface="wwan9nothere")).why
    device, why, _ = look_at(LinkSettings(name="a", interface="lo", gateway="127.77.0.1"))
    assert (device, bool(why)) == ("lo", True)
    assert look_at(LinkSettings(name="a", probe=PROBE)) == ("", "", "")


def test_probes_are_paid_from_the_links_budget(tmp_path: Path) -> None:
    """What they cost is known after a restart; where nothing is left for one that is why the link is not used."""
    budget = BudgetSettings(per_month=Size(1 << 20), rate=Rate(8000))

    async def scenario() -> None:
        made = box(lte(probe=PROBE, budget=budget), folder=tmp_path)
        road = made.road("lte")
        made.start()
        while name_of(road) is None:
            await asyncio.sleep(LOOK_S)
        told = made.links.told()["lte"]["budget"]
        assert (told["per_month"]["spent_bytes"], told["rate_bit_s"]) == (500, 64_000)
        assert told["per_month"]["left_bytes"] == (1 << 20) - 500
        await made.stop()

        made = box(lte(probe=PROBE, budget=budget), ethernet(), folder=tmp_path)
        road = made.road("lte", "ethernet")
        link = road.links[0]
        assert link.budget is not None
        assert link.budget.told()["per_month"]["spent_bytes"] == 500
        while link.budget.lacking(1 << 15) is None:
            link.budget.covers(1 << 15)
            assert await link.write_note()
            link.budget.take(1 << 15)
        while link.budget.lacking(PROBE_BYTES) is None:
            link.budget.covers(PROBE_BYTES)
            assert await link.write_note()
            link.budget.take(PROBE_BYTES, is_probe=True)
        asked = len(made.asked)
        made.start()
        while name_of(road) is None:
            await asyncio.sleep(LOOK_S)
        assert (name_of(road), len(made.asked)) == ("ethernet", asked)
        assert "the budget of 1MiB per month on lte is spent" in made.links.told()["lte"]["reason"]
        await made.stop()

    run(scenario)


def test_a_probe_may_cost_what_may_be_overdrawn(tmp_path: Path) -> None:
    """Else who may go beyond a spent budget finds no link after a restart, for want of the probe's 900 bytes."""
    budget = BudgetSettings(per_month=Size(1 << 20), overdraw=("critical",), overdraw_max=Size(1 << 17))

    async def scenario() -> None:
        made = box(lte(probe=PROBE, budget=budget), folder=tmp_path)
        road = made.road("lte")
        link = road.links[0]
        assert link.budget is not None
        while link.budget.lacking(4096) is None:
            link.budget.covers(4096)
            assert await link.write_note()
            link.budget.take(4096)
        link.budget.settle(0, 4096)
        assert link.budget.lacking(1) is not None
        made.start()
        await asyncio.sleep(5 * LOOK_S)
        assert (name_of(road), made.links.told()["lte"]["reason"]) == ("lte", "")
        await made.stop()

    run(scenario)


@pytest.mark.parametrize("is_spent", [False, True])
def test_a_dead_link_is_asked_for_a_share_of_its_allowance(tmp_path: Path, monkeypatch, *, is_spent: bool) -> None:
    """For a month each minute it was twice the allowance, and all that may be overdrawn; and it is found when it is back."""
    monkeypatch.setattr(links_module, "LOOK_S", 20.0)
    limit, over = (2 if is_spent else 20) << 20, 512 << 10
    budget = BudgetSettings(per_month=Size(limit), overdraw=("critical",), overdraw_max=Size(over))

    async def scenario() -> None:
        made = box(lte(probe=PROBE, budget=budget), folder=tmp_path)
        made.costs, made.silent = 900, {"lte"}
        road = made.road("lte")
        link = road.links[0]
        assert link.budget is not None
        while is_spent and link.budget.lacking(1 << 15) is None:
            link.budget.covers(1 << 15)
            assert await link.write_note()
            link.budget.take(1 << 15)
        made.start()
        # Nine days are left of the month.
        await asyncio.sleep(9 * DAY_S)
        first = [at_s for _, at_s in made.asked]
        assert len(first) >= 20
        assert first[5] < 6 * 100
        cost = len(made.asked) * made.costs
        part = SPENT_SHARE * over if is_spent else SHARE * limit
        assert cost <= part * (9 / 31 + SAVED_SHARE) + made.costs
        probes = made.links.told()["lte"]["probes"]
        assert probes["spent_bytes"] == cost
        assert probes["held_back_s"] > 60
        made.silent.clear()
        longest_s = max(later - before for before, later in itertools.pairwise(first))
        await asyncio.sleep(longest_s + 60)
        assert name_of(road) == "lte"
        await made.stop()

    run(scenario)


def test_damaged_notes_do_not_double_a_bill(tmp_path: Path) -> None:
    """Whether one of them can be read or none."""
    budget = BudgetSettings(per_month=Size(3 << 20))

    async def scenario() -> None:
        def opened() -> int:
            link = box(lte(budget=budget), folder=tmp_path).road("lte").links[0]
            assert link.budget is not None
            return int(link.budget.told()["per_month"]["spent_bytes"])

        made = box(lte(budget=budget), folder=tmp_path)
        link = made.road("lte").links[0]
        assert link.budget is not None
        for _ in range(20):
            if not link.budget.covers(1 << 16):
                assert await link.write_note()
            link.budget.take(1 << 16)
        assert opened() >= 20 << 16
        (tmp_path / "links.state").write_bytes(b"what")
        assert 20 << 16 <= opened() <= 24 << 16
        (tmp_path / "links.state.before").write_bytes(b"what")
        # It is the twenty-first of a month.
        assert 2 << 20 <= opened() < 3 << 20

    run(scenario)


def test_what_is_set_aside_is_given_back_at_a_stop_alone(tmp_path: Path) -> None:
    """A process that dies leaves it as spent."""
    budget = BudgetSettings(per_month=Size(1 << 20))

    async def scenario() -> None:
        async def spent(*, in_order: bool) -> int:
            made = box(lte(budget=budget), folder=tmp_path)
            made.road("lte")
            made.start()
            await asyncio.sleep(LOOK_S)
            if in_order:
                await made.stop()
            else:
                assert made.task is not None
                made.task.cancel()
                made.links._notes = None
                with pytest.raises(asyncio.CancelledError):
                    await made.task
            link = box(lte(budget=budget), folder=tmp_path).road("lte").links[0]
            assert link.budget is not None
            return int(link.budget.told()["per_month"]["spent_bytes"])

        assert await spent(in_order=True) == 0
        assert await spent(in_order=False) == 32 * 1024

    run(scenario)


def test_a_disk_that_takes_no_note_is_tried_again(tmp_path: Path) -> None:
    """Once a minute, and no more."""
    budget = BudgetSettings(per_month=Size(1 << 20))

    async def scenario() -> None:
        made = box(lte(budget=budget), folder=tmp_path / "gone")
        link = made.road("lte").links[0]
        made.start()
        await asyncio.sleep(LOOK_S)
        assert link.budget is not None
        link.budget.mute()
        (tmp_path / "gone").mkdir()
        await asyncio.sleep(30)
        assert link.budget.is_mute
        await asyncio.sleep(WRITE_AGAIN_S)
        assert not link.budget.is_mute
        await made.stop()

    run(scenario)
