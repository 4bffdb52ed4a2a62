"""`tidegate size`: the arithmetic of disks and links."""

from __future__ import annotations

import pytest

from gateway.control.sizing import Sizing, parse_link, parse_rate


def sizing(**changes: float) -> Sizing:
    given = {"rate": 100.0, "outage_s": 86400.0, "disk_bytes": 512 * 2**20, "link_bytes_per_s": 8000.0} | changes
    return Sizing(**given)  # type: ignore[arg-type]


def test_a_day_at_a_hundred_a_second() -> None:
    """8.64 M readings at two bytes are 17.28 MB, and the shelf lasts a month."""
    assert sizing().outage_bytes == 17_280_000
    assert sizing().disk_lasts_s == pytest.approx(512 * 2**20 / 200)


def test_the_backlog_drains_beside_live_data() -> None:
    """What the link has over live data is what the backlog gets."""
    assert sizing().drain_s == pytest.approx(100 * 86400 * 2.5 / (8000 - 250))


def test_a_link_thinner_than_live_data_never_drains() -> None:
    """It says so instead of a number."""
    thin = sizing(link_bytes_per_s=200.0)
    assert thin.drain_s == float("inf")
    assert not thin.fits
    assert "never drain" in "\n".join(thin.lines())


def test_a_disk_too_small_is_said() -> None:
    """In capitals."""
    small = sizing(disk_bytes=1024)
    assert not small.fits
    assert "does NOT fit" in small.lines()[0]


def test_without_a_link_nothing_is_said_of_one() -> None:
    """Two lines: the shelf and what was reckoned with."""
    assert len(sizing(link_bytes_per_s=0.0).lines()) == 2


@pytest.mark.parametrize(("text", "rate"), [("200/s", 200), ("12/min", 0.2), ("3600 per h", 1), ("86400/d", 1)])
def test_rates(text: str, rate: float) -> None:
    """Readings per second, from what people write."""
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize(("text", "rate"), [("64kbit/s", 8000), ("1 Mbit/s", 125000), ("20MiB/d", 20 * 2**20 / 86400)])
def test_links(text: str, rate: float) -> None:
    """Bytes per second, from a rate or an allowance."""
    assert parse_link(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "fast", "200", "-1/s", "200/y", "1e3/s"])
def test_what_is_no_rate_says_what_would_be(text: str) -> None:
    """The error carries an example."""
    with pytest.raises(ValueError, match="200/s"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["", "fast", "64kbit", "64 kbaud/s", "MiB/d"])
def test_what_is_no_link_says_what_would_be(text: str) -> None:
    """The error carries an example or names what is wrong with the size."""
    with pytest.raises(ValueError, match=r"64kbit/s|not a size"):
        parse_link(text)


@pytest.mark.parametrize(
    ("disk_bytes", "link", "fits"), [(10**6, 0.0, True), (10, 0.0, False), (10**6, 1.0, False), (10**6, 10**6, True)]
)
def test_what_fits(disk_bytes: int, link: float, fits: bool) -> None:
    """The disk decides where no link is given."""
    assert Sizing(rate=100, outage_s=60, disk_bytes=disk_bytes, link_bytes_per_s=link).fits == fits
