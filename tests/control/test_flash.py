"""The card lasts: what the pace of commits does to keep within a day's allowance, simulated by the day."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.control.flash import DAY_S, INTERVAL_S_MAX, PURSE_S, Allowance, stretch

MIB = 1 << 20
LOOK_S = 10.0
COMMIT_BYTES = 6_200


@dataclass
class Card:
    """A gateway that writes: so much for each commit, and so much a second whatever the commits."""

    allowance: Allowance
    commit_bytes: float = COMMIT_BYTES
    data_bytes_per_s: float = 0.0
    now_s: float = 0.0
    written: float = 0.0
    longest_s: float = 0.0

    def run(self, seconds: float) -> float:
        """Let time pass; return what was written meanwhile, as bytes a day."""
        before = self.written
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            interval_s = self.allowance.pace.interval_s
            self.longest_s = max(self.longest_s, interval_s)
            self.written += LOOK_S / interval_s * self.commit_bytes + LOOK_S * self.data_bytes_per_s
            self.now_s += LOOK_S
            self.allowance.look(self.now_s, written_bytes=int(self.written), readings=int(self.now_s))
        return (self.written - before) / seconds * DAY_S


def card(bytes_per_day: int, *, interval_s: float = 1.0, **more: float) -> Card:
    made = Card(Allowance(bytes_per_day=bytes_per_day, base_interval_s=interval_s), **more)
    made.allowance.look(0.0, written_bytes=0, readings=0)
    return made


@pytest.mark.parametrize("shortage", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("base_s", [0.0, 0.05, 1.0, 5.0, 60.0])
def test_the_pace_stays_between_its_own_and_the_longest(base_s: float, shortage: float) -> None:
    """Nobody waits longer than five seconds, unless that is configured; early commits are never further apart."""
    pace = stretch(base_s, shortage=shortage)
    assert base_s <= pace.interval_s <= max(base_s, INTERVAL_S_MAX)
    assert base_s / 40 <= pace.gap_s <= pace.interval_s
    assert stretch(base_s, shortage=0.0).interval_s == base_s


def test_the_pace_grows_with_the_shortage() -> None:
    """A little for a little."""
    paces = [stretch(0.25, shortage=step / 10) for step in range(11)]
    assert paces == sorted(paces)
    assert len(set(paces)) == 11


def test_what_is_allowed_changes_nothing() -> None:
    """Day after day at nine tenths of it."""
    quiet = card(600 * MIB)
    quiet.run(2 * DAY_S)
    assert quiet.longest_s == 1.0
    assert quiet.allowance.shortage == 0


@pytest.mark.parametrize("bytes_per_day", [400 * MIB, 256 * MIB, 128 * MIB])
def test_too_many_commits_become_as_many_as_are_allowed(bytes_per_day: int) -> None:
    """Up to five times too many; the first day has half an hour's worth more, the next ones are exact."""
    busy = card(bytes_per_day)
    assert busy.run(DAY_S) <= bytes_per_day * (1 + PURSE_S / DAY_S)
    assert busy.run(DAY_S) == pytest.approx(bytes_per_day, rel=0.01)
    assert 0 < busy.allowance.shortage < 1


def test_what_commits_cannot_mend_is_bounded_and_said() -> None:
    """Data that is too much by itself: commits are as rare as they may be, and the shortage is complete."""
    flooded = card(128 * MIB, data_bytes_per_s=10_000)
    flooded.run(DAY_S)
    assert flooded.allowance.shortage == 1
    assert flooded.allowance.pace == (INTERVAL_S_MAX, INTERVAL_S_MAX)
    assert flooded.allowance.bytes_per_day > 128 * MIB


def test_a_burst_is_paid_from_what_was_saved() -> None:
    """Half an hour of ten times the commits, as a backlog from a broker brings, after a quiet day."""
    quiet = card(1024 * MIB, commit_bytes=1_000)
    quiet.run(DAY_S)
    quiet.commit_bytes = 10_000
    quiet.longest_s = 0.0
    quiet.run(1800)
    assert quiet.longest_s == 1.0


def test_it_recovers() -> None:
    """When less comes the pace is its own again, within an hour."""
    busy = card(256 * MIB)
    busy.run(DAY_S)
    assert busy.allowance.shortage > 0
    busy.commit_bytes = 100
    busy.run(PURSE_S)
    assert busy.allowance.shortage == 0


def test_after_a_long_flood_it_recovers_as_fast() -> None:
    """A purse is empty or not: there are no debts."""
    flooded = card(128 * MIB, data_bytes_per_s=1_000_000)
    flooded.run(DAY_S)
    flooded.data_bytes_per_s, flooded.commit_bytes = 0.0, 100
    flooded.run(PURSE_S)
    assert flooded.allowance.shortage == 0


def test_a_restart_is_no_fortune() -> None:
    """Half a purse: who restarts every minute may write little more than the allowance."""
    written = sum(card(256 * MIB).run(PURSE_S) for _ in range(24)) / 24
    assert written <= 256 * MIB * (1 + 0.5)


def test_rates_are_of_the_last_hour_and_not_known_at_once() -> None:
    """Bytes a day and bytes a reading (here one reading a second)."""
    steady = card(1024 * MIB, commit_bytes=500)
    steady.run(50)
    assert (steady.allowance.bytes_per_day, steady.allowance.bytes_per_reading) == (None, None)
    steady.run(60)
    assert steady.allowance.bytes_per_day == pytest.approx(500 * DAY_S)
    assert steady.allowance.bytes_per_reading == pytest.approx(500)
    steady.run(PURSE_S)
    steady.commit_bytes = 1000
    steady.run(PURSE_S / 2)
    assert steady.allowance.bytes_per_day == pytest.approx(750 * DAY_S, rel=0.02)
    steady.run(PURSE_S)
    assert steady.allowance.bytes_per_day == pytest.approx(1000 * DAY_S)


def test_without_readings_there_is_no_cost_of_one() -> None:
    """Nothing is divided by nothing."""
    allowance = Allowance(bytes_per_day=MIB, base_interval_s=1.0)
    for now_s in (0.0, 100.0):
        allowance.look(now_s, written_bytes=int(now_s), readings=7)
    assert allowance.bytes_per_day == DAY_S
    assert allowance.bytes_per_reading is None
