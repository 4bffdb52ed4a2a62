"""Uplinks that come and go at random: nothing is delivered twice, nothing is nowhere, and every account adds up."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Priority
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration
from gateway.store.connection import DATABASE
from gateway.store.database import Loss, Store, StoreSettings
from gateway.store.reading import read_held, verify
from gateway.store.segments import decode_metrics

NAMES = ("a", "b", "c")
GRACE_S = 1000


async def acting(act, *arguments, **by_name) -> None:
    """Do something that takes no time, inside of the event loop."""
    act(*arguments, **by_name)


class MembershipMachine(RuleBasedStateMachine):
    """One shelf, up to three uplinks, each of which gets each reading at most once, and in the end all that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-model-"))
        self.state_dir = self.folder / "0"
        self.clock = FakeClock()
        self.next_id = 0
        self.lost = 0
        self.generation = 0
        self.got: dict[str, set[int]] = {name: set() for name in NAMES}
        self.unsaved: dict[str, set[int]] = {name: set() for name in NAMES}
        self.uplinks: tuple[str, ...] = ("a", "b")
        self.open()

    async def bring_in(self, *what, **more) -> None:
        await self.store.append(*what, **more)

    def run(self, work):
        return self.loop.run_until_complete(asyncio.wait_for(work, 120))

    def open(self) -> None:
        self.store = self.run(
            Store.open(
                state_dir=self.state_dir,
                settings=StoreSettings(uplink_grace=Duration(GRACE_S)),
                clock=self.clock,
                uplinks=self.uplinks,
                max_series=10,
                telemetry=Telemetry(),
                commit_interval_s=0.0,
            )
        )

    def teardown(self) -> None:
        try:
            self.run(self.store.close())
            assert verify(self.state_dir).problems == []
            self.uplinks = NAMES
            self.open()
            try:
                for name in NAMES:
                    self.drain(name, 10**6)
                self.accounts_add_up()
                for _ in range(3):
                    self.run(self.bring_in([]))
                    self.run(self.store.tend())
            finally:
                self.run(self.store.close())
            with sqlite3.connect(self.state_dir / DATABASE) as connection:
                # The state row alone: what nobody wants has left.
                assert connection.execute("SELECT count(*) FROM shelf").fetchall() == [(1,)]
            connection.close()
            report = verify(self.state_dir)
            assert (report.problems, report.readings) == ([], 0)
            with read_held(self.state_dir) as held:
                assert list(held) == []
        finally:
            self.loop.close()
            shutil.rmtree(self.folder)

    @rule(count=st.integers(1, 30), priority=st.sampled_from(Priority), lost=st.integers(0, 2))
    def put(self, count, priority, lost) -> None:
        series = self.store.resolve(Series((), "m"))
        numbers = np.arange(self.next_id, self.next_id + count)
        batch = Batch.of(series, self.clock.wall_ns(), numbers)
        self.run(self.bring_in([(priority, batch)], losses=[Loss("syntax", lost)] if lost else []))
        self.next_id += count
        self.lost += lost
        self.forget_unsaved()

    @rule(name=st.sampled_from(NAMES), most=st.integers(1, 60))
    def send(self, name, most) -> None:
        if name in self.uplinks:
            self.drain(name, most)

    def drain(self, name: str, most: int) -> None:
        while most > 0:
            lease = self.run(self.store.lease(name, readings_max=most, bytes_max=1 << 20))
            if lease is None:
                return
            ids = {n for segment in lease.segments for n in decode_metrics(segment.body).bits.tolist()}
            assert not ids & self.got[name]
            self.got[name] |= ids
            self.unsaved[name] |= ids
            self.run(acting(self.store.ack, lease))
            most -= lease.readings

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def reconfigure(self, names) -> None:
        self.run(self.store.close())
        self.forget_unsaved()
        assert verify(self.state_dir).problems == []
        self.uplinks = tuple(sorted(names))
        self.open()

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def die(self, names) -> None:
        """What is on the disk at this moment is all that is left; the configuration may have changed meanwhile."""
        self.generation += 1
        new = self.folder / str(self.generation)
        shutil.copytree(self.state_dir, new)
        self.run(self.store.close())
        for name in NAMES:
            # What no commit had noted comes again; nothing else does.
            self.got[name] -= self.unsaved[name]
        self.forget_unsaved()
        self.state_dir = new
        self.uplinks = tuple(sorted(names))
        self.open()

    def forget_unsaved(self) -> None:
        for ids in self.unsaved.values():
            ids.clear()

    @rule(seconds=st.integers(1, GRACE_S // 2))
    def wait(self, seconds) -> None:
        self.clock.advance(seconds * NS_PER_S)

    @rule()
    def tend(self) -> None:
        self.run(self.store.tend())

    @rule()
    def commit(self) -> None:
        self.run(self.bring_in([]))
        self.forget_unsaved()

    @precondition(lambda self: self.generation < 5)
    @rule()
    def reboot(self) -> None:
        self.generation += 1
        self.run(self.store.close())
        self.forget_unsaved()
        self.clock.reboot(f"boot-{self.generation}", wall=self.clock.wall + 10**9, synced=True)
        self.open()

    @invariant()
    def accounts_add_up(self) -> None:
        status = self.store.status()
        assert status["accepted"] == self.next_id + self.lost
        for uplink in status["uplinks"].values():
            assert status["accepted"] == uplink["delivered"] + uplink["held"] + sum(uplink["ledger"].values())
            assert sum(uplink["held_by_class"].values()) == uplink["held"]
            assert min(*uplink["held_by_class"].values(), uplink["delivered"], *uplink["ledger"].values(), 0) == 0
        for name in self.uplinks:
            assert "removed" not in status["uplinks"][name]


MembershipMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMembership = pytest.mark.slow(pytest.mark.timeout(1200)(MembershipMachine.TestCase))
