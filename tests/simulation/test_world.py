"""The whole gateway from one seed in virtual time: whatever happens around it, the promises hold (P1, P2, P3, P5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hil.virtual_threads import run
from hil.world import UPLINKS, World

if TYPE_CHECKING:
    from pathlib import Path


def live(folder: Path, seed: int, *, hours: float, receivers: int = 1) -> World:
    """Live through one seed and settle the accounts at the end."""
    world = World(folder, seed=seed, hours=hours, receivers=receivers)
    try:
        run(world.live())
        settle(world)
    except BaseException as error:
        error.add_note(f"seed {seed}: {world.plan}, {dict(world.stats)}")
        raise
    return world


def settle(world: World) -> None:
    """Hold the far sides and the final status against the truth."""
    truth, status = world.truth, world.status()
    promised = truth.promised_readings + truth.promised_malformed
    assert promised <= status["accepted"] <= promised + truth.perhaps_readings
    for name in UPLINKS:
        far, account = world.far[name], status["uplinks"][name]
        assert account["held"] == 0
        ledger = account["ledger"].items()
        # Where several reasons met in one lease, the ledger names all of them: refused+rejected.
        malformed = sum(readings for reason, readings in ledger if reason.split("+")[0] not in GIVEN_UP)
        lost = sum(account["ledger"].values()) - malformed
        assert truth.promised_malformed <= malformed <= truth.promised_malformed + truth.perhaps_readings
        assert far.missing() <= lost, f"{name}: {far.missing()} readings never came, {lost} are in the ledger"
        explained = account["maybe_twice"] + world.unnoted[name]
        assert far.doubled() <= explained, f"{name}: {far.doubled()} doubled, {explained} explained"


# Reasons for which readings that were understood are let go.
GIVEN_UP = {"diluted", "evicted_full", "expired_age", "refused", "rejected", "too_large", "damaged", "time_lost"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_the_promises_hold_through_an_hour(tmp_path: Path, seed: int) -> None:
    """An hour of bad roads, full disks, wrong clocks and reboots, then calm: the accounts are settled."""
    live(tmp_path, seed, hours=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 30))
def test_the_promises_hold_with_several_receivers(tmp_path: Path, seed: int) -> None:
    """What one of them may have taken and another one has is counted; nothing is lost between them."""
    live(tmp_path, seed, hours=0.6, receivers=3)


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(600, 700))
def test_the_promises_hold_with_several_receivers_through_many_lives(tmp_path: Path, seed: int) -> None:
    """The same for a hundred seeds and some hours each."""
    live(tmp_path, seed, hours=3.0, receivers=3)


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(100, 600))
def test_the_promises_hold_through_hundreds_of_lives(tmp_path: Path, seed: int) -> None:
    """The same for five hundred seeds and some hours each."""
    live(tmp_path, seed, hours=3.0)
