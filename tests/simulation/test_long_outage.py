"""A week without a link on a shelf that holds a day: all of the week is there, coarser, and what matters is whole (P2, P4)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.thinning import thin
from gateway.core.units import Size
from gateway.store.database import Store, StoreSettings
from gateway.store.reading import verify
from gateway.store.records import where_from
from gateway.store.segments import decode_metrics

DAY_S = 86_400
MAX_BYTES = 3 << 19
# What one commit brings: series of each class, and how many readings of each. That is about ten a second.
PIECE_S = 300
PIECE = {Priority.CRITICAL: (1, 30), Priority.NORMAL: (6, 300), Priority.BULK: (4, 300)}
FOUND_AT = 100


class Outage(NamedTuple):
    """What came, what was left at the end, and what that cost the card, in bytes handed to the disk."""

    came: dict[Priority, Batch]
    evidence: dict[Priority, Batch]
    left: dict[Priority, Batch]
    ledger: dict[str, int]
    written_bytes: int
    came_bytes: int
    rewritten_bytes: float


class Site:
    """A gateway's shelf, and the devices that fill it."""

    def __init__(self, state_dir: Path, when_full: str) -> None:
        self.state_dir = state_dir
        self.clock = FakeClock()
        self.telemetry = Telemetry()
        self.settings = StoreSettings(max_bytes=Size(MAX_BYTES), when_full=when_full)
        self.noise = np.random.default_rng(11)
        self.level = np.full(16, 200.0)
        self.store: Store

    async def open(self) -> None:
        self.store = await Store.open(
            state_dir=self.state_dir,
            settings=self.settings,
            clock=self.clock,
            uplinks=["cloud"],
            max_series=100,
            telemetry=self.telemetry,
            commit_interval_s=0.0,
        )

    def next(self) -> dict[Priority, Batch]:
        """Return what comes in the next minutes: values that wander."""
        self.clock.advance(PIECE_S * NS_PER_S)
        found = {}
        first = 0
        for priority, (series, count) in PIECE.items():
            numbers = [self.store.resolve(Series((), f"{priority.name}{k}")) for k in range(series)]
            times = self.clock.wall_ns() - PIECE_S * NS_PER_S + np.arange(count) * (PIECE_S * NS_PER_S // count)
            walk = self.level[first : first + series] + np.cumsum(self.noise.normal(size=(count, series)), axis=0)
            self.level[first : first + series] = walk[-1]
            first += series
            columns = np.tile(np.array(numbers, np.uint32), count), np.repeat(times, series)
            found[priority] = Batch.of(*columns, np.round(walk.ravel(), 2))
        return found


def handed_to_the_disk() -> int:
    """Return how many bytes this process has written to files by now."""
    (line,) = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("wchar:")]
    return int(line.split()[1])


async def live_through(site: Site, days: int) -> Outage:
    """Nothing leaves for so long; a finding on the first day, a restart in the middle; then all of it leaves."""
    await site.open()
    came: dict[Priority, list[Batch]] = {priority: [] for priority in Priority}
    evidence: dict[Priority, list[Batch]] = {priority: [] for priority in Priority}
    begun, came_bytes = handed_to_the_disk(), 0
    pieces_max = days * DAY_S // PIECE_S
    for number in range(pieces_max):
        pieces = site.next()
        first = site.store._committer.next_sequence
        await site.store.append([*pieces.items()])
        came_bytes += site.store._committer._recent.size_bytes if not number else 0
        for priority, batch in pieces.items():
            came[priority].append(batch)
        if number in {FOUND_AT, FOUND_AT + 1}:
            site.store._committer.moments.evidence.add(first, site.store._committer.next_sequence - 1)
            for priority, batch in pieces.items():
                evidence[priority].append(batch)
        if number == pieces_max // 2:
            await site.store.close()
            await site.open()
        assert site.store.status()["store"]["used_bytes"] <= MAX_BYTES
    written_bytes = handed_to_the_disk() - begun
    status = site.store.status()
    account = status["uplinks"]["cloud"]
    assert status["accepted"] == account["held"] + sum(account["ledger"].values())
    await site.store.close()
    assert verify(site.state_dir).problems == []
    await site.open()
    left: dict[Priority, list[Batch]] = {priority: [] for priority in Priority}
    while (lease := await site.store.lease("cloud", readings_max=10**6, bytes_max=1 << 20)) is not None:
        assert lease.signal is Signal.METRICS
        for segment in lease.segments:
            left[where_from(segment.id)[0]].append(decode_metrics(segment.body))
        site.store.ack(lease)
    end = site.store.status()["uplinks"]["cloud"]
    assert end["delivered"] == account["held"]
    assert end["ledger"] == account["ledger"]
    await site.store.close()
    together = [{priority: Batch.join(parts) for priority, parts in of.items()} for of in (came, evidence, left)]
    rewritten_bytes = site.telemetry.value("tidegate_store_rewritten_bytes")
    return Outage(*together, account["ledger"], written_bytes, came_bytes * pieces_max, rewritten_bytes)


def rows_of(batch: Batch) -> set[tuple[int, int, int]]:
    return {*zip(batch.series.tolist(), batch.time_ns.tolist(), batch.bits.tolist(), strict=True)}


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_week_on_a_shelf_that_holds_a_day(tmp_path: Path) -> None:
    """The first, least, greatest and last reading of each series and day; criticals whole, and what tells of a finding."""
    outage = await live_through(Site(tmp_path / "week", "dilute"), 7)
    assert set(outage.ledger) == {"diluted"}
    came = {priority: rows_of(batch) for priority, batch in outage.came.items()}
    left = {priority: rows_of(batch) for priority, batch in outage.left.items()}
    assert left[Priority.CRITICAL] == came[Priority.CRITICAL]
    for priority in (Priority.NORMAL, Priority.BULK):
        assert left[priority] < came[priority]
        assert rows_of(thin(outage.came[priority], DAY_S * NS_PER_S)) <= left[priority]
        assert rows_of(outage.evidence[priority]) <= left[priority]
    # Bulk makes way for the others.
    shares = {priority: len(left[priority]) / len(came[priority]) for priority in Priority}
    assert shares[Priority.BULK] < shares[Priority.NORMAL] < shares[Priority.CRITICAL] == 1
    # In its life no more of anything is written anew than came in.
    assert 0 < outage.rewritten_bytes < outage.came_bytes


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_what_it_costs_the_card(tmp_path: Path) -> None:
    """Three days, beside a shelf that lets go of the oldest."""
    diluted = await live_through(Site(tmp_path / "diluted", "dilute"), 3)
    dropped = await live_through(Site(tmp_path / "dropped", "drop_oldest"), 3)
    assert set(dropped.ledger) == {"evicted_full"}
    assert diluted.written_bytes < 2 * dropped.written_bytes
