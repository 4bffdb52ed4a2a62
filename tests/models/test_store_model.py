"""The store against a model of dicts: random actions on both, the same answers, and an account that always adds up."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.store.database import Loss, SeriesBounds, SetAside, Store, StoreSettings
from gateway.store.reading import read_held, verify
from gateway.store.segments import Form, decode_logs, decode_metrics, decode_records, read_header
from gateway.store.writer import LOG_PRIORITY

PRIORITIES = st.sampled_from(Priority)
UPLINKS = ("near", "far")


def ids_of(segment) -> list[int]:
    """Return which readings a segment holds: each has a number of its own as its value, or its message the first."""
    if read_header(segment.body).form is Form.MESSAGES:
        records = decode_records(segment.body)
        return [
            int(body) + k
            for body, count in zip(records.bodies, records.counts.tolist(), strict=True)
            for k in range(count)
        ]
    if segment.signal is Signal.LOGS:
        return [int(body) for body in decode_logs(segment.body).bodies]
    return decode_metrics(segment.body).bits.tolist()


def names_of(segment, series) -> dict[int, str]:
    """Return which series each reading is of, as `series` names its number; those of OTLP messages have none."""
    if read_header(segment.body).form is Form.MESSAGES:
        return dict.fromkeys(ids_of(segment), "")
    if segment.signal is Signal.LOGS:
        records = decode_logs(segment.body)
        return {int(body): series(n).name for body, n in zip(records.bodies, records.series.tolist(), strict=True)}
    batch = decode_metrics(segment.body)
    return {i: series(n).name for i, n in zip(batch.bits.tolist(), batch.series.tolist(), strict=True)}


async def acting(act, *arguments, **by_name) -> None:
    """Do something that takes no time, inside of the event loop."""
    act(*arguments, **by_name)


class StoreMachine(RuleBasedStateMachine):
    """One shelf, two uplinks, one clock."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-model-"))
        self.state_dir = self.folder / "0"
        self.clock = FakeClock()
        self.next_id = 1
        self.accepted = 0
        self.held = {name: set() for name in UPLINKS}
        self.leased = {name: set() for name in UPLINKS}
        self.delivered = dict.fromkeys(UPLINKS, 0)
        self.lost = {name: Counter() for name in UPLINKS}
        self.unsaved = {name: set() for name in UPLINKS}
        self.generation = 0
        self.names: dict[int, str] = {}
        self.classes: dict[int, Priority] = {}
        self.open()

    async def bring_in(self, *what, **more) -> None:
        await self.store.append(*what, **more)

    def run(self, work):
        return self.loop.run_until_complete(asyncio.wait_for(work, 120))

    def open(self) -> None:
        self.generation += 1
        self.store = self.run(
            Store.open(
                state_dir=self.state_dir,
                settings=StoreSettings(),
                clock=self.clock,
                uplinks=UPLINKS,
                max_series=100,
                telemetry=Telemetry(),
                commit_interval_s=0.0,
                series=SeriesBounds(idle_s=60),
            )
        )
        self.leased = {name: set() for name in UPLINKS}
        self.out = set()

    def teardown(self) -> None:
        try:
            self.run(self.store.close())
            self.check_disk()
        finally:
            self.loop.close()
            shutil.rmtree(self.folder)

    def check_disk(self) -> None:
        report = verify(self.state_dir)
        assert report.problems == []
        with read_held(self.state_dir) as held:
            named = {i: name for segment in held for i, name in names_of(segment, held.series).items()}
            on_disk = sorted(i for segment in held for i in ids_of(segment))
        assert named == {i: self.names[i] for i in on_disk}
        assert on_disk == sorted(self.held["near"] | self.held["far"])

    @rule(
        pieces=st.lists(st.tuples(PRIORITIES, st.integers(0, 20)), max_size=4),
        logs=st.integers(0, 2),
        messages=st.lists(st.tuples(PRIORITIES, st.sampled_from(Signal), st.integers(1, 9)), max_size=3),
        malformed=st.integers(0, 2),
        metric=st.sampled_from("klmn"),
    )
    def append(self, pieces, logs, messages, malformed, metric) -> None:
        series = self.store.resolve(Series((), metric))
        first_id = self.next_id
        batches, ids = [], []
        for priority, count in pieces:
            numbers = np.arange(self.next_id, self.next_id + count)
            self.next_id += count
            ids += numbers.tolist()
            self.classes.update(dict.fromkeys(numbers.tolist(), priority))
            batches.append((priority, Batch.of(series, self.clock.wall_ns(), numbers)))
        bodies = tuple(str(self.next_id + k).encode() for k in range(logs))
        ids += range(self.next_id, self.next_id + logs)
        self.classes.update(dict.fromkeys(ids[len(ids) - logs :], LOG_PRIORITY))
        self.next_id += logs
        self.names.update(dict.fromkeys(range(first_id, self.next_id), metric))
        whole = []
        for priority, signal, count in messages:
            numbers = range(self.next_id, self.next_id + count)
            body = str(self.next_id).encode()
            whole.append(
                (priority, ResourceRecords(signal, np.array([count]), np.array([self.clock.wall_ns()]), (body,)))
            )
            self.next_id += count
            ids += numbers
            self.names.update(dict.fromkeys(numbers, ""))
            self.classes.update(dict.fromkeys(numbers, priority))
        records = LogRecords(np.full(logs, series, np.uint32), np.full(logs, self.clock.wall_ns()), bodies)
        self.run(
            self.bring_in(
                batches,
                logs=records,
                records=whole,
                losses=[Loss("syntax", malformed)] if malformed else [],
                set_aside=[SetAside("s", b"t", b"{", "syntax", "no")] * malformed,
            )
        )
        self.accepted += len(ids) + malformed
        for name in UPLINKS:
            self.held[name].update(ids)
            self.lost[name]["syntax"] += malformed
            self.unsaved[name].clear()

    @rule(target=leases, name=st.sampled_from(UPLINKS), readings_max=st.integers(1, 60))
    def lease(self, name, readings_max):
        lease = self.run(self.store.lease(name, readings_max=readings_max, bytes_max=1 << 20))
        free = self.held[name] - self.leased[name]
        if lease is None:
            assert not free
            return multiple()
        ids = [i for segment in lease.segments for i in ids_of(segment)]
        assert len(ids) == len(set(ids)) == lease.readings
        for segment in lease.segments:
            assert names_of(segment, self.store.series) == {i: self.names[i] for i in ids_of(segment)}
        assert set(ids) <= free
        assert {segment.signal for segment in lease.segments} == {lease.signal}
        assert len(lease.segments) == 1 or lease.readings <= readings_max
        self.leased[name].update(ids)
        self.out.add(lease)
        return (self.generation, lease, ids)

    def _settle(self, entry):
        generation, lease, ids = entry
        if generation != self.generation or lease not in self.out:
            return None, None
        self.out.remove(lease)
        self.leased[lease.uplink] -= set(ids)
        return lease, ids

    @rule(entry=leases, rejected=st.integers(0, 5))
    def ack(self, entry, rejected) -> None:
        lease, ids = self._settle(entry)
        if lease is None:
            return
        rejected = min(rejected, len(ids))
        self.run(acting(self.store.ack, lease, rejected=rejected))
        self.run(acting(self.store.ack, lease, rejected=rejected))  # a second answer changes nothing
        self.held[lease.uplink] -= set(ids)
        self.unsaved[lease.uplink] |= set(ids)
        self.delivered[lease.uplink] += len(ids) - rejected
        self.lost[lease.uplink]["rejected"] += rejected

    @rule(entry=leases, maybe=st.booleans())
    def release(self, entry, maybe) -> None:
        lease, _ = self._settle(entry)
        if lease is not None:
            self.run(acting(self.store.release, lease, maybe_delivered=maybe))

    @rule(entry=leases)
    def refuse(self, entry) -> None:
        lease, ids = self._settle(entry)
        if lease is not None:
            self.run(acting(self.store.refuse, lease, "status_400", "no"))
            self.held[lease.uplink] -= set(ids)
            self.unsaved[lease.uplink] |= set(ids)
            self.lost[lease.uplink]["status_400"] += len(ids)

    @rule(name=st.sampled_from(UPLINKS))
    def link_up(self, name) -> None:
        self.store.link_up(name)

    @rule(seconds=st.integers(1, 100))
    def advance(self, seconds) -> None:
        self.clock.advance(seconds * NS_PER_S)

    @rule(seconds=st.integers(0, 100))
    def tend(self, seconds) -> None:
        """What is idle for a minute is forgotten, whatever is out or held."""
        self.clock.advance(seconds * NS_PER_S)
        self.run(self.store.tend())
        self.run(self.bring_in([]))
        for name in UPLINKS:
            self.unsaved[name].clear()

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.open()

    @rule(new_boot=st.booleans())
    def die(self, new_boot) -> None:
        """What is on the disk at this moment is all that is left; acks that no commit has written yet are undone."""
        new = self.folder / str(self.generation)
        shutil.copytree(self.state_dir, new)
        self.run(self.store.close())
        self.state_dir = new
        if new_boot:
            self.clock.reboot(f"boot-{self.generation + 1}", wall=self.clock.wall + 10**9)
        self.open()
        status = self.store.status()
        for name in UPLINKS:
            uplink = status["uplinks"][name]
            back = uplink["held"] - len(self.held[name])
            assert back in range(len(self.unsaved[name]) + 1)
            if back:
                # Which ones came back is known when they are leased; here all of them or none.
                with read_held(self.state_dir) as held:
                    on_disk = {i for segment in held for i in ids_of(segment)}
                assert self.held[name] <= on_disk
                assert back <= len(self.unsaved[name] & on_disk)
                self.held[name] |= self._lacking(name)
            self.delivered[name] = uplink["delivered"]
            self.lost[name] = Counter(uplink["ledger"])
            self.unsaved[name].clear()

    def _lacking(self, name) -> set[int]:
        bit = next(share.bit for share in self.store._committer.state.shares if share.name == name)
        with read_held(self.state_dir) as held:
            rows = [row for row in held.rows() if not row[1] & bit]
            by_id = {segment.id: segment for segment in held}
        return {i for row in rows for i in ids_of(by_id[row[0]])}

    @invariant()
    def accounts_add_up(self) -> None:
        status = self.store.status()
        assert status["accepted"] == self.accepted
        for name in UPLINKS:
            uplink = status["uplinks"][name]
            assert uplink["held"] == len(self.held[name])
            by_class = Counter(self.classes[i] for i in self.held[name])
            assert uplink["held_by_class"] == {priority.name.lower(): by_class[priority] for priority in Priority}
            assert uplink["delivered"] == self.delivered[name]
            assert uplink["ledger"] == {reason: n for reason, n in self.lost[name].items() if n}
            assert self.accepted == uplink["delivered"] + uplink["held"] + sum(uplink["ledger"].values())
            assert uplink["leased"] == len(self.leased[name])


StoreMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStore = pytest.mark.slow(pytest.mark.timeout(1200)(StoreMachine.TestCase))
