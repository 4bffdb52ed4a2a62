"""The door between the buffer and the shelf, with a shelf that can be told what to do."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs

from gateway.client import door as module
from gateway.client.buffer import SORTS, Buffer, Stream
from gateway.client.door import Door
from gateway.codecs.device_time import Moment
from gateway.core.batch import MONOTONIC, ValueKind
from gateway.core.clock import NS_PER_S, WALL_CEILING_NS, WALL_FLOOR_NS, FakeClock
from gateway.core.contracts import FullError, Priority, Signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

OFFSET_NS = 1_790_000_000 * NS_PER_S


@dataclass
class Shelf:
    """A pipeline and its store in one: keeps what it is given, unless it is full."""

    offset_ns: int | None = OFFSET_NS
    full: int = 0
    failing: int = 0  # of so many commits nothing is kept, which shows only then
    prepared: int = 0
    kept: list[tuple[Any, Any, bool]] = field(default_factory=list)
    deferred: list[Callable[[], None]] | None = None
    breaks: bool = False

    @property
    def timeline(self) -> Shelf:
        return self

    def wall_from(self, monotonic_ns: int) -> int | None:
        return None if self.offset_ns is None else monotonic_ns + self.offset_ns

    def resolve(self, series: Any, owner: str) -> int | None:
        if self.breaks:
            raise ZeroDivisionError
        return None if series.name == "unknown" else 7

    def moment(self, arrived_ns: int) -> Moment:
        return Moment(arrived_ns, WALL_FLOOR_NS, WALL_CEILING_NS)

    async def wait_for_room(self) -> None:
        await asyncio.sleep(0)

    def defer(self, come: Callable[[], None]) -> bool:
        if self.deferred is None:
            return False
        self.deferred.append(come)
        return True

    def prepare_pieces(self, pieces: Any, losses: Any) -> Any:
        self.prepared += 1
        return pieces, losses

    def put_prepared(self, prepared: Any, *, records: Any, is_last: bool) -> asyncio.Future[None]:
        if self.full:
            self.full -= 1
            raise FullError("no room", 0.001)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.failing:
            self.failing -= 1
            future.get_loop().call_soon(future.set_exception, FullError("no disk", 0.001))
        else:
            self.kept.append((prepared, records, is_last))
            future.get_loop().call_later(0.005, future.set_result, None)
        return future

    def readings(self) -> list[tuple[int, float, int]]:
        """Time, value and flags of each."""
        return [
            reading
            for (pieces, _), _, _ in self.kept
            for _, batch in pieces
            for reading in zip(batch.time_ns.tolist(), batch.values().tolist(), batch.flags.tolist(), strict=True)
        ]


class Rig:
    """A door that runs."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.clock = FakeClock()
        self.buffer = Buffer(bytes_max=64 << 10, wait_s=0, raises=True, make=lambda *w: Stream(*w), wake=self.wake)
        self.door: Any = None

    def wake(self, now: bool) -> None:
        if self.door is not None:
            self.door.hear(now=now)

    def add(self, value: float, name: str = "a", *, time_ns: int | None = None) -> None:
        is_stamped = time_ns is None
        sort = SORTS.index((Priority.NORMAL, ValueKind.DOUBLE, is_stamped))  # type: ignore[arg-type]
        time_ns = self.clock.monotonic if time_ns is None else time_ns
        self.buffer.add((name,), (name, "", "gauge", ()), value, time_ns, sort)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Door]:
        shelf: Any = self.shelf
        self.door = Door(
            self.buffer, resource=(("service.name", "x"),), version="0", pipeline=shelf, store=shelf, clock=self.clock
        )
        task = asyncio.create_task(self.door.run())
        try:
            yield self.door
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def deferred(self) -> None:
        """Wait until the door waits for a commit to begin."""
        async with asyncio.timeout(60):
            while not self.shelf.deferred:
                await asyncio.sleep(0.001)

    async def all_kept(self) -> None:
        async with asyncio.timeout(60):
            while self.buffer.waiting:
                await asyncio.sleep(0.001)


async def test_what_comes_goes_with_the_next_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """When that begins, with all that came until then; at once where it is wanted."""
    monkeypatch.setattr(module, "FINISH_S", 0.05)
    rig = Rig(Shelf(deferred=[]))
    deferred = rig.shelf.deferred
    assert deferred is not None
    async with rig.running():
        rig.add(1.0)
        await rig.deferred()
        rig.add(2.0)
        await asyncio.sleep(0.02)
        assert rig.shelf.kept == []
        deferred.pop()()
        await rig.all_kept()
        assert [value for _, value, _ in rig.shelf.readings()] == [1.0, 2.0]
        assert not rig.shelf.kept[0][2]
        rig.add(3.0)
        await rig.deferred()
        assert await asyncio.to_thread(rig.buffer.flush, 60)
        assert rig.shelf.kept[1][2]
        late = deferred.pop()
        rig.add(4.0)
        late()
        assert len(rig.shelf.kept) == 2, "its turn is over"
        await rig.deferred()
        deferred.pop()()
        await rig.all_kept()
    assert [value for _, value, _ in rig.shelf.readings()] == [1.0, 2.0, 3.0, 4.0]


async def test_what_finds_no_room_comes_again_and_is_made_ready_once() -> None:
    """Watched twice, a detector would count it twice. Meanwhile the status says what is wrong."""
    rig = Rig(Shelf(full=3, failing=2))
    async with rig.running() as door:
        rig.add(1.0)
        while rig.buffer.trouble != "no disk":
            await asyncio.sleep(0.001)
        assert (door.status()["state"], door.status()["last_error"]) == ("full", "no disk")
        await rig.all_kept()
        assert (door.status()["state"], door.status()["waiting"]) == ("open", 0)
    assert (len(rig.shelf.kept), rig.shelf.prepared) == (1, 1)


async def test_a_turn_without_room_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes when a commit begins and finds no room is offered again."""
    monkeypatch.setattr(module, "FINISH_S", 0.05)
    rig = Rig(Shelf(deferred=[], full=1))
    async with rig.running():
        rig.add(1.0)
        await rig.deferred()
        assert rig.shelf.deferred is not None
        rig.shelf.deferred.pop()()
        await rig.all_kept()


async def test_at_the_end_what_is_there_is_brought() -> None:
    """What is under way is waited for, and what came meanwhile goes too."""
    rig = Rig(Shelf())
    async with rig.running():
        rig.add(1.0)
        while not rig.shelf.kept:
            await asyncio.sleep(0)
        rig.add(2.0)
    assert rig.buffer.waiting == 0
    assert [value for _, value, _ in rig.shelf.readings()] == [1.0, 2.0]


async def test_the_end_is_not_put_off_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shelf that takes nothing keeps what is there in the buffer, for the next door."""
    monkeypatch.setattr(module, "FINISH_S", 0.05)
    rig = Rig(Shelf(full=1 << 30))
    async with rig.running():
        rig.add(1.0)
        await asyncio.sleep(0.02)
    assert rig.buffer.waiting == 1
    rig.shelf.full = 0
    async with rig.running():
        await rig.all_kept()
    assert len(rig.shelf.readings()) == 1


async def test_times() -> None:
    """That of sending is repaired later; one of its own is believed where it can be right, else replaced and marked."""
    rig = Rig(Shelf())
    ns = rig.clock.monotonic
    async with rig.running():
        rig.add(1.0)
        rig.add(2.0, time_ns=OFFSET_NS)
        rig.add(3.0, time_ns=5)
        await rig.all_kept()
    found = {value: (time_ns, flags) for time_ns, value, flags in rig.shelf.readings()}
    assert found[1.0] == (ns, MONOTONIC)
    # Beside one that is not right each of its column is looked at.
    assert found[2.0] == (OFFSET_NS, 0)
    assert found[3.0] == (
        ns,
        module.keep_sane(np.array([5]), np.array([True]), [5], moment=rig.shelf.moment(ns)).flags[0],
    )


async def test_readings_without_a_series_are_lost_with_a_reason() -> None:
    """And what was dropped before it came here too."""
    rig = Rig(Shelf())
    async with rig.running():
        rig.add(1.0, "unknown")
        rig.add(2.0)
        rig.buffer._open.dropped = 3
        await rig.all_kept()
    (((_, losses), _, _),) = rig.shelf.kept
    assert {loss.reason: loss.readings for loss in losses} == {"max_series": 1, "no_room": 3}
    assert [value for _, value, _ in rig.shelf.readings()] == [2.0]


async def test_a_mistake_of_ours_costs_a_parcel_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Or nothing would ever be kept again."""
    rig = Rig(Shelf(breaks=True))
    async with rig.running():
        rig.add(1.0)
        rig.add(2.0)
        await rig.all_kept()
        rig.shelf.breaks = False
        rig.add(3.0)
        await rig.all_kept()
    assert "please report it" in caplog.text
    (_, losses), _, _ = rig.shelf.kept[0]
    assert [(loss.reason, loss.readings) for loss in losses] == [("mapping_failed", 2)]
    assert [value for _, value, _ in rig.shelf.readings()] == [3.0]


@pytest.mark.parametrize("offset_ns", [OFFSET_NS, None])
async def test_a_record_is_of_the_time_that_is_known_when_it_is_stored(offset_ns: int | None) -> None:
    """Or of none, which OTLP calls unknown."""
    rig = Rig(Shelf(offset_ns=offset_ns))
    async with rig.running():
        sent_ns = rig.clock.monotonic
        rig.buffer.add_record(b"", priority=Priority.BULK, signal=Signal.LOGS, sent_ns=sent_ns)
        rig.buffer.add_record(b"", priority=Priority.BULK, signal=Signal.LOGS, time_ns=OFFSET_NS, sent_ns=sent_ns)
        await rig.all_kept()
    ((_, ((priority, records),), _),) = rig.shelf.kept
    (body,) = records.bodies
    (scope,) = ResourceLogs.FromString(body).scope_logs
    sent = 0 if offset_ns is None else sent_ns + offset_ns
    assert priority is Priority.BULK
    assert [record.time_unix_nano for record in scope.log_records] == [sent, OFFSET_NS]
    assert [record.observed_time_unix_nano for record in scope.log_records] == [sent, sent]
    assert records.counts.tolist() == [2]
    assert records.time_ns.tolist() == [0 if offset_ns is None else rig.clock.monotonic + offset_ns]
