"""What a budget and links come to in a day: free hours, overdrafts, and who shares what."""

from __future__ import annotations

import pytest

from gateway.control.config import parse_config
from gateway.control.sizing import Sizing, size_up
from gateway.control.ways import DAY_S, MONTH_DAYS, NEVER_S, Way, ways_of

MIB = 1 << 20
LINKS = """
[[links]]
name = "ethernet"
interface = "eth0"
metered = false

[[links]]
name = "lte"
interface = "wwan0"
budget = { rate = "80kbit/s", per_day = "20MiB", free = ["22:00-06:00"], overdraw = ["critical"], overdraw_max = "1MiB" }
"""


def uplink(name: str, text: str = "") -> str:
    return f'[[uplinks]]\ntype = "otlp"\nname = "{name}"\nendpoint = "http://127.0.0.1:1"\n{text}\n'


def ways(*parts: str) -> list[list[Way]]:
    config = parse_config("\n".join(('[gateway]\nid = "box"\n', *parts)), offline=True)
    return [ways_of(config, one) for one in config.uplinks]


def test_an_uplink_without_links_has_one_way() -> None:
    """Its own; without a budget nothing bounds it."""
    ((way,),) = ways(uplink("cloud"))
    assert (way.day_bytes, way.drain_s(1e9, 1e12)) == (NEVER_S, 0.0)
    assert list(way.lines(1e9, 1e12)) == ["Over cloud nothing bounds it but the line."]


@pytest.mark.parametrize(
    ("budget", "day_bytes"),
    [
        ('per_day = "20MiB"', 20 * MIB),
        ('per_hour = "1MiB", per_day = "20MiB"', 20 * MIB),
        ('per_hour = "1MiB"', 24 * MIB),
        ('per_month = "400MiB", per_day = "20MiB"', 400 * MIB / MONTH_DAYS),
        ('rate = "80kbit/s"', 1e4 * DAY_S),
        ('rate = "800bit/s", per_day = "20MiB"', 100 * DAY_S),
        # Eight hours of the night at a rate; an hour's allowance counts in the others alone.
        ('rate = "80kbit/s", per_day = "20MiB", free = ["22:00-06:00"]', 20 * MIB + 8 * 3600 * 1e4),
        ('rate = "80kbit/s", per_hour = "1MiB", free = ["22:00-06:00", "05:00-07:00"]', 15 * MIB + 9 * 3600 * 1e4),
        ('rate = "800bit/s", per_day = "20MiB", free = ["22:00-06:00"]', 100 * DAY_S),
        ('per_day = "20MiB", free = ["22:00-06:00"]', NEVER_S),
    ],
)
def test_what_goes_in_a_day(budget: str, day_bytes: float) -> None:
    """The least of what bounds it, and the free hours beside that."""
    ((way,),) = ways(uplink("cloud", f"budget = {{ {budget} }}"))
    assert way.day_bytes == pytest.approx(day_bytes)


def test_what_may_be_overdrawn_stands_beside_it() -> None:
    """It is not every day's, so nothing drains by it."""
    given = 'per_day = "20MiB", overdraw = ["critical"], overdraw_max = "1MiB"'
    ((way,),) = ways(uplink("cloud", f"budget = {{ {given} }}"))
    assert (way.day_bytes, way.overdraw_bytes) == (20 * MIB, MIB)
    assert list(way.lines(100.0, 0.0))[-1] == "Classes that may overdraw have up to 1 MiB a day beyond that."


def test_a_links_budget_is_that_of_all_who_use_it() -> None:
    """Beside an uplink's own, which counts over metered links alone."""
    own = 'links = ["ethernet", "lte"]\nbudget = { per_day = "5MiB" }'
    first, second = ways(LINKS, uplink("a", own), uplink("b", 'links = ["lte"]'))
    assert [way.day_bytes for way in first] == [NEVER_S, 10 * MIB]
    assert (first[1].name, first[1].sharers, first[1].free_s) == ("lte (a)", 2, 0.0)
    assert first[1].drain_s(0.0, 5 * MIB) == pytest.approx(DAY_S)
    assert second[0].day_bytes == pytest.approx(20 * MIB + 8 * 3600 * 1e4)
    assert (second[0].overdraw_bytes, first[1].overdraw_bytes) == (MIB, 0.0)


def test_a_way_that_is_too_thin_is_said() -> None:
    """With what becomes of what has no room."""
    thin = Way("lte", allowed_bytes=1 * MIB)
    assert "too thin, what comes in is thinned there" in next(thin.lines(100.0, 1e6))
    free = Way("lte", 1e4, 1 * MIB, 8 * 3600.0)
    said = list(free.lines(100.0, 1e6))
    assert "274.7 MiB in free hours" in said[0]
    assert said[1] == "What the paid hours have no room for is thinned meanwhile, and goes whole in the free ones."
    night = Way("lte", allowed_bytes=1 * MIB, free_s=8 * 3600.0)
    assert "the backlog of the outage waits for these, 16 h at most" in next(night.lines(100.0, 1e6))


def test_a_configuration_is_sized_up() -> None:
    """It fits where each uplink has one way that is wide enough; the store is the configuration's too."""
    text = '[gateway]\nid = "box"\n[store]\nmax_bytes = "64MiB"\ncommit_interval = "10s"\n'
    narrow = uplink("b", 'budget = { per_day = "1MiB" }')
    wide = uplink("a", 'links = ["ethernet", "lte"]')
    asked = {"rate": "50/s", "outage": "1h", "disk": ""}
    found = size_up(**asked, commit_interval="", config=parse_config(text + LINKS + wide, offline=True))
    assert (found.disk_bytes, found.commit_interval_s, found.fits) == (64 * MIB, 10.0, True)
    assert "Over ethernet (a) nothing bounds it but the line." in found.lines()
    assert any(line.startswith("Over lte (a): live data takes 10.3 MiB a day") for line in found.lines())
    both = size_up(**asked, config=parse_config(text + LINKS + wide + narrow, offline=True))
    assert not both.fits
    given = size_up(rate="1/s", outage="1h", disk="1MiB", commit_interval="2s", config=parse_config(text, offline=True))
    assert (given.disk_bytes, given.commit_interval_s) == (MIB, 2.0)
    assert isinstance(size_up(rate="1/s", outage="1h", disk=""), Sizing)
