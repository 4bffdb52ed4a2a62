"""`tidegate size`: the arithmetic of disks and links."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.arguments import add_size
from gateway.control import profiles
from gateway.control.sizing import COMMIT_INTERVAL_S, Sizing, parse_link, parse_rate, size_up
from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.store.connection import DATABASE
from gateway.store.database import Store, StoreSettings

if TYPE_CHECKING:
    from pathlib import Path


def sizing(**changes: float) -> Sizing:
    given = {"rate": 100.0, "outage_s": 86400.0, "disk_bytes": 512 * 2**20, "link_bytes_per_s": 8000.0} | changes
    return Sizing(**given)  # type: ignore[arg-type]


def test_a_day_at_a_hundred_a_second() -> None:
    """8.64 M readings, a hundred in each commit: eight and a half bytes each, with what they share."""
    day = sizing(commit_interval_s=1.0)
    assert day.shelf_bytes_per_reading == pytest.approx(2 + 20 / 10 + 450 / 100)
    assert day.outage_bytes == pytest.approx(8.64e6 * 8.5)
    assert day.disk_lasts_s == pytest.approx(512 * 2**20 / 850)
    assert sizing(rate=0.01).shelf_bytes_per_reading == 472


def test_it_is_reckoned_with_the_interval_that_boards_have() -> None:
    """Who says none has that of the board."""
    command = argparse.ArgumentParser()
    add_size(command)
    given = vars(command.parse_args(["--rate", "1/s", "--outage", "1d"]))
    boards = {float(profiles.load(name).commit_interval) for name in profiles.names()}
    assert boards == {COMMIT_INTERVAL_S} == {size_up(**given).commit_interval_s}


@pytest.mark.parametrize(("readings", "commits"), [(1, 600), (25, 600), (50, 600), (200, 200), (2500, 20)])
async def test_what_is_reckoned_is_what_a_shelf_takes(tmp_path: Path, readings: int, commits: int) -> None:
    """A hundred decimals that walk, at moments of their own: never more than reckoned, nor a third of it."""
    noise = np.random.default_rng(1)
    levels = noise.integers(1000, 5000, 100)
    clock = FakeClock()
    store = await Store.open(
        state_dir=tmp_path,
        settings=StoreSettings(),
        clock=clock,
        uplinks=["cloud"],
        max_series=100,
        telemetry=Telemetry(),
        commit_interval_s=0.0,
    )
    numbers = np.array([store.resolve(Series((("device.id", f"d{k}"),), "temperature")) for k in range(100)])
    for _ in range(commits):
        clock.advance(NS_PER_S // 4)
        which = noise.integers(0, 100, readings)
        levels[which] += noise.integers(-3, 4, readings)
        times = clock.wall_ns() - noise.integers(0, 250, readings) * 1_000_000
        batch = Batch(
            numbers[which].astype(np.uint32), times, (levels[which] / 100).view(np.int64), np.zeros(readings, np.uint8)
        )
        await store.append([(Priority.NORMAL, batch)])
    await store.close()
    measured = (tmp_path / DATABASE).stat().st_size / (readings * commits)
    reckoned = sizing(rate=readings * 4.0, commit_interval_s=0.25).shelf_bytes_per_reading
    assert measured < reckoned < 3 * measured


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
    ("disk_bytes", "link", "fits"),
    [(51_000, 0.0, True), (50_999, 0.0, False), (10**6, 1.0, False), (10**6, 10**6, True)],
)
def test_what_fits(disk_bytes: int, link: float, fits: bool) -> None:
    """The disk decides where no link is given."""
    assert Sizing(rate=100, outage_s=60, disk_bytes=disk_bytes, link_bytes_per_s=link).fits == fits
