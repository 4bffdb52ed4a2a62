"""What gathers between commits: its bounds, its turn, and what is compressed ahead."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from gateway.core.batch import Batch, ResourceRecords
from gateway.core.contracts import BootId, FullError, Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.core.units import Size
from gateway.store import gathering as module
from gateway.store.gathering import DEFER_S_MIN, DEFERRED_MAX, Gathering
from gateway.store.pace import Pace
from gateway.store.segments import FIRST_HASH, decode_metrics
from gateway.store.settings import StoreSettings
from gateway.store.writer import READING_BYTES, seal


@pytest.fixture
def make():
    """Make a gathering with few bytes to wait in; `wanted` has what it asked of the committer."""

    def start(*, pending_bytes: int = 1000 * READING_BYTES, max_bytes: int = 512 << 20) -> Gathering:
        wanted: list[float] = []
        refused: list[FullError] = []
        gathering = Gathering(
            settings=StoreSettings(pending_bytes=Size(pending_bytes), max_bytes=Size(max_bytes)),
            telemetry=Telemetry(),
            pace=Pace(0.25),
            want=wanted.append,
            offset_ns=lambda: 500,
            is_refusing=lambda readings: bool(readings and refused),
            refusal=lambda: refused[0],
        )
        gathering.wanted, gathering.refused = wanted, refused
        return gathering

    return start


def batch(count: int, *, start: int = 0) -> Batch:
    return Batch.of(1, np.arange(start, start + count), np.arange(start, start + count))


def put(gathering: Gathering, count: int, *, start: int = 0, priority: Priority = Priority.NORMAL) -> asyncio.Future:
    return gathering.append([(priority, batch(count, start=start))], logs=None, losses=(), set_aside=())


async def test_on_a_small_shelf_less_waits_for_one_commit(make) -> None:
    """All of it must fit at once, in the file and in the log, or none of those who wait ever gets in."""
    gathering = make(pending_bytes=10**9, max_bytes=1 << 20)
    put(gathering, (1 << 18) // READING_BYTES)
    assert gathering.has_room()
    put(gathering, 1)
    assert not gathering.has_room()


async def test_one_more_is_taken_whatever_its_size(make) -> None:
    """So that a large payload can be taken at all; the next has to wait its turn."""
    gathering = make()
    put(gathering, 5000)
    assert gathering.waiting_bytes == 5000 * READING_BYTES
    with pytest.raises(FullError, match="slower than what arrives"):
        put(gathering, 1)
    waiting = asyncio.create_task(gathering.wait_for_room())
    await asyncio.sleep(0)
    gathering.take()
    await asyncio.sleep(0)
    assert not waiting.done()
    gathering.done()
    await waiting
    assert gathering.waiting_bytes == 0


async def test_a_disk_that_stands_still_pushes_back(make, monkeypatch) -> None:
    """After a while those who wait are told, and told to come again."""
    monkeypatch.setattr(module, "ROOM_WAIT_S", 0.001)
    gathering = make()
    put(gathering, 1000)
    with pytest.raises(FullError, match="slower than what arrives") as caught:
        await gathering.wait_for_room()
    assert caught.value.after_s == 0.25


async def test_much_does_not_wait_for_its_time(make) -> None:
    """Half of what may wait is worth a commit at once."""
    gathering = make()
    put(gathering, 499)
    assert gathering.wanted == [0.25]
    put(gathering, 1)
    assert gathering.wanted == [0.25, 0.25, 0]


async def test_what_is_refused_does_not_wait(make) -> None:
    """Readings are pushed back with the reason that was given; what only counts is not."""
    gathering = make()
    gathering.refused.append(FullError("the shelf is full", 7))
    with pytest.raises(FullError, match="the shelf is full"):
        put(gathering, 1)
    assert gathering.waiting_bytes == 0
    gathering.append([], logs=None, losses=(), set_aside=())


async def test_a_stopping_gateway_takes_nothing(make) -> None:
    """In words."""
    gathering = make()
    gathering.is_closing = True
    with pytest.raises(FullError, match="stopping"):
        put(gathering, 1)


async def test_what_fills_a_segment_is_pressed_ahead(make, monkeypatch) -> None:
    """By class and in order; the rest follows; together it is what came."""
    monkeypatch.setattr(module, "SEGMENT_READINGS_MAX", 10)
    gathering = make()
    put(gathering, 7)
    put(gathering, 5, priority=Priority.BULK)
    put(gathering, 16, start=7)
    pending = gathering.take()
    assert [len(piece) for _, piece in pending.pieces] == [5, 3]
    assert [(part.priority, part.pressed.readings, part.times) for part in pending.parts] == [
        (Priority.NORMAL, 10, (0, 9)),
        (Priority.NORMAL, 10, (10, 19)),
    ]
    sealed = seal(pending, sequence=1, previous_hash=FIRST_HASH, boot=BootId(1), offset_ns=None)
    assert [new.row.readings for new in sealed.segments] == [10, 10, 3, 5]
    times = [decode_metrics(new.body).time_ns.tolist() for new in sealed.segments[:3]]
    assert [time for some in times for time in some] == list(range(23))


async def test_otlp_messages_are_pressed_ahead_by_their_bytes(make, monkeypatch) -> None:
    """They count for the bound of what waits as they came."""
    monkeypatch.setattr(module, "SEGMENT_LOG_BYTES_MAX", 10)
    gathering = make()
    for body in (b"abcd", b"efg", b"hij", b"k"):
        some = ResourceRecords(Signal.LOGS, np.array([2]), np.array([5]), (body,))
        gathering.append([], logs=None, records=[(Priority.NORMAL, some)], losses=(), set_aside=())
    assert gathering.waiting_bytes == 11
    pending = gathering.take()
    assert [part.pressed.readings for part in pending.parts] == [6]
    assert [some.bodies for _, some in pending.records] == [(b"k",)]
    assert (pending.records_bytes, pending.readings) == (1, 8)


async def test_otlp_messages_are_refused_where_readings_are(make) -> None:
    """A shelf that is full and refuses."""
    gathering = make()
    gathering.refused.append(FullError("the shelf is full", 7))
    some = ResourceRecords(Signal.LOGS, np.array([2]), np.array([5]), (b"a",))
    with pytest.raises(FullError, match="the shelf is full"):
        gathering.append([], logs=None, records=[(Priority.NORMAL, some)], losses=(), set_aside=())
    assert gathering.take().records == []


async def test_a_piece_that_cannot_be_pressed_meets_the_commit(make, monkeypatch) -> None:
    """Whoever brought the pieces before it still hears from the commit that holds them, and nothing is left out."""
    monkeypatch.setattr(module, "SEGMENT_READINGS_MAX", 10)
    gathering = make()
    waiter = put(gathering, 7)
    pressed, real = [], module.press

    def fail_second(*what):
        pressed.append(what)
        if len(pressed) == 2:
            raise ZeroDivisionError
        return real(*what)

    monkeypatch.setattr(module, "press", fail_second)
    with pytest.raises(ZeroDivisionError):
        put(gathering, 23, start=7)
    pending = gathering.take()
    assert pending.waiters == [waiter]
    assert sum(part.pressed.readings for part in pending.parts) == 10
    assert sum(len(batch) for _, batch in pending.pieces) == 20


async def test_who_brings_little_comes_when_the_commit_begins(make) -> None:
    """In order, and with that commit, which is due as if they had come at once."""
    gathering = make()
    waiters = []
    for start in (0, 5):
        assert gathering.defer(lambda start=start: waiters.append(put(gathering, 2, start=start)), is_last=False)
    assert gathering.wanted == [0.25, 0.25]
    assert gathering.pending.readings == 0
    pending = gathering.take()
    assert pending.readings == 4
    assert pending.waiters == waiters
    assert [piece.time_ns.tolist() for _, piece in pending.pieces] == [[0, 1], [5, 6]]
    assert gathering.take().readings == 0


async def test_who_is_not_to_wait_is_told_so(make) -> None:
    """Where commits are close, others wait already, the shelf is full, refuses or closes."""
    gathering = make()
    gathering._pace.interval_s = DEFER_S_MIN / 2
    assert not gathering.defer(list, is_last=False)
    gathering._pace.interval_s = DEFER_S_MIN
    for _ in range(DEFERRED_MAX):
        assert gathering.defer(list, is_last=False)
    assert not gathering.defer(list, is_last=False)
    gathering.take()
    assert gathering.defer(list, is_last=True)
    gathering.refused.append(FullError("full"))
    assert not gathering.defer(list, is_last=False)
    gathering.refused.clear()
    gathering.is_closing = True
    assert not gathering.defer(list, is_last=False)
    gathering.is_closing = False
    put(gathering, 5000)
    assert not gathering.defer(list, is_last=False)
