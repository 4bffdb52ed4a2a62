"""What is left of leases is written once more for one uplink: held once at any moment, and nobody else's affair."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Any

import numpy as np
import pytest

from gateway.core.batch import MONOTONIC, Batch, ResourceRecords, Series
from gateway.core.clock import NS_PER_S, Quality
from gateway.core.contracts import FullError, Priority, Signal
from gateway.core.units import Duration
from gateway.store import apart
from gateway.store.apart import Lost, Rest
from gateway.store.reading import verify
from gateway.store.segments import decode, decode_metrics

TWO = ("cloud", "other")


async def leases_of(shelves, store, count: int = 3, *, priority: Priority = Priority.NORMAL) -> list:
    """Put ten readings for each of so many leases."""
    found = []
    for _ in range(count):
        await shelves.put(store, 10, priority=priority)
        found.append(await shelves.lease(store, readings_max=10))
    return found


def some_of(lease, *places: int) -> list:
    """Return readings of a lease of one segment, as they stand in it."""
    (segment,) = lease.segments
    return [Rest(segment.priority, decode_metrics(segment.body).take(np.array(places)))]


async def test_the_rest_is_held_and_all_else_is_delivered(shelves, numbers) -> None:
    """For that uplink; to the others nothing has happened, and nothing was accepted by it."""
    store = await shelves.open(uplinks=TWO)
    leases = await leases_of(shelves, store)
    pieces = [piece for lease in leases for piece in some_of(lease, 2, 7)]
    await store.apart.keep("cloud", leases, pieces, put_off_s=0.0)
    status = store.status()
    assert status["accepted"] == 30
    cloud, other = (status["uplinks"][name] for name in TWO)
    assert (cloud["delivered"], cloud["held"], cloud["leased"]) == (24, 6, 0)
    assert (other["delivered"], other["held"]) == (0, 30)
    shelves.check(store)
    lease = await shelves.lease(store)
    assert numbers(lease) == [3, 8, 13, 18, 23, 28]
    assert len(lease.segments) == 1
    assert store.apart.has_all(lease)
    assert not store.apart.has_all(leases[0])
    store.ack(lease)
    assert sorted(await shelves.drain(store, "other")) == list(range(1, 31))
    shelves.check(store)
    await shelves.close()
    report = verify(shelves.state_dir)
    assert (report.segments, report.problems) == (0, [])
    assert report.uplinks["cloud"] == {"delivered": 30, "held": 0, "ledger": 0}


async def test_it_is_there_after_a_restart_and_what_had_arrived_is_not(shelves) -> None:
    """Whoever was killed in between sends nothing twice that was kept apart from it."""
    store = await shelves.open(uplinks=TWO)
    leases = await leases_of(shelves, store)
    await store.apart.keep("cloud", leases, some_of(leases[1], 0), put_off_s=100.0)
    await shelves.close()
    store = await shelves.open(uplinks=TWO)
    assert await shelves.drain(store) == [11]
    uplink = store.status()["uplinks"]["cloud"]
    assert (uplink["delivered"], uplink["held"], uplink["maybe_twice"]) == (30, 0, 0)
    shelves.check(store)


async def test_who_comes_later_gets_what_is_held_once(shelves) -> None:
    """The leases are still there for another one that lacks them all: of what is in them the newcomer gets no rest."""
    store = await shelves.open(uplinks=TWO)
    leases = await leases_of(shelves, store)
    await store.apart.keep("cloud", leases, some_of(leases[0], 3), put_off_s=0.0)
    await shelves.close()
    store = await shelves.open(uplinks=(*TWO, "late"))
    shelves.check(store)
    assert sorted(await shelves.drain(store, "late")) == list(range(1, 31))
    assert sorted(await shelves.drain(store, "other")) == list(range(1, 31))
    assert await shelves.drain(store) == [4]
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).segments == 0


async def test_who_comes_later_gets_what_was_held_for_one_alone(shelves) -> None:
    """Nobody else was to have the leases, so a rest is all that there is of it: as with all else that is held."""
    store = await shelves.open()
    leases = await leases_of(shelves, store)
    await store.apart.keep("cloud", leases, some_of(leases[0], 3), put_off_s=0.0)
    await shelves.close()
    store = await shelves.open(uplinks=("cloud", "late"))
    shelves.check(store)
    assert store.status()["uplinks"]["late"]["ledger"] == {"before_uplink": 29}
    assert await shelves.drain(store, "late") == [4]
    assert await shelves.drain(store) == [4]
    shelves.check(store)


@pytest.mark.parametrize("grace", [0, 1e6])
async def test_who_comes_later_in_the_place_of_others(shelves, grace: float) -> None:
    """Those who are configured no more may still have leases kept for them; who is let go has not."""
    store = await shelves.open(uplinks=TWO, uplink_grace=Duration(grace))
    leases = await leases_of(shelves, store)
    await shelves.close()
    store = await shelves.open(uplink_grace=Duration(grace))
    leases = [await shelves.lease(store, readings_max=10) for _ in leases]
    await store.apart.keep("cloud", leases, some_of(leases[0], 3), put_off_s=0.0)
    await shelves.close()
    store = await shelves.open(uplinks=("cloud", "late"), uplink_grace=Duration(grace))
    shelves.check(store)
    (left,) = await shelves.drain(store)
    assert sorted(await shelves.drain(store, "late")) == (list(range(1, 31)) if grace else [left])
    shelves.check(store)


async def test_where_none_is_configured_any_more_each_is_held_once(shelves) -> None:
    """For whoever comes next."""
    store = await shelves.open(uplinks=TWO)
    leases = await leases_of(shelves, store)
    await store.apart.keep("cloud", leases, some_of(leases[0], 3), put_off_s=0.0)
    await shelves.close()
    await shelves.open(uplinks=())
    await shelves.close()
    store = await shelves.open(uplinks=("late",))
    shelves.check(store)
    assert sorted(await shelves.drain(store, "late")) == list(range(1, 31))
    shelves.check(store)


async def test_of_a_bounded_number_it_is_known_that_they_were_kept_apart(shelves, monkeypatch) -> None:
    """Those that were delivered since need no memory for ever; an older one may be kept apart once more."""
    monkeypatch.setattr(apart, "KEPT_MAX", 2)
    store = await shelves.open()
    for lease in await leases_of(shelves, store, 4):
        await store.apart.keep("cloud", [lease], some_of(lease, 0), put_off_s=0.0)
    leases = [await shelves.lease(store, readings_max=1) for _ in range(4)]
    leases.sort(key=lambda lease: lease.segments[0].sequence)
    assert [store.apart.has_all(lease) for lease in leases] == [False, False, True, True]
    await store.apart.keep("cloud", leases, [piece for lease in leases for piece in some_of(lease, 0)], put_off_s=0.0)
    lease = await shelves.lease(store)
    assert (lease.readings, len(lease.segments), store.apart.has_all(lease)) == (4, 1, True)


async def test_each_class_stays_what_it_is(shelves) -> None:
    """And is counted as such."""
    store = await shelves.open()
    critical = await leases_of(shelves, store, 1, priority=Priority.CRITICAL)
    bulk = await leases_of(shelves, store, 1, priority=Priority.BULK)
    pieces = [*some_of(critical[0], 0), *some_of(bulk[0], 1, 2)]
    await store.apart.keep("cloud", [*critical, *bulk], pieces, put_off_s=0.0)
    assert shelves.by_class(store) == (1, 0, 2)
    assert await shelves.drain(store) == [1, 12, 13]


async def test_it_is_put_off_and_others_go_first(shelves) -> None:
    """Where there is room for that; else it is leased in its turn."""
    store = await shelves.open()
    leases = await leases_of(shelves, store, 2)
    await store.apart.keep("cloud", leases[:1], some_of(leases[0], 0), put_off_s=0.2)
    assert await shelves.lease(store) is None
    put = await shelves.put(store, 1)
    lease = await shelves.lease(store)
    assert not store.apart.is_put_off(lease)
    assert lease.readings == len(put)
    await asyncio.sleep(0.3)
    assert await shelves.drain(store) == [1]


async def test_what_cannot_be_written_has_not_happened(shelves, failing) -> None:
    """The leases are as they were, and so is the account; the next time it may work."""
    store = await shelves.open()
    leases = await leases_of(shelves, store)
    failing.errors.append(sqlite3.OperationalError("disk I/O error"))
    with pytest.raises(FullError):
        await store.apart.keep("cloud", leases, some_of(leases[0], 0), put_off_s=0.0)
    uplink = store.status()["uplinks"]["cloud"]
    assert (uplink["delivered"], uplink["held"], uplink["leased"]) == (0, 30, 30)
    await store.apart.keep("cloud", leases, some_of(leases[0], 0), put_off_s=0.0)
    assert await shelves.drain(store) == [1]
    shelves.check(store)
    await shelves.close()
    with pytest.raises(FullError, match="stopping"):
        await store.apart.keep("cloud", leases, some_of(leases[0], 0), put_off_s=0.0)


async def test_who_is_cancelled_meanwhile_has_it_all_the_same(shelves) -> None:
    """A stop does not find leases that are settled on the disk and not in memory."""
    store = await shelves.open(commit_interval_s=0.05)
    leases = await leases_of(shelves, store)
    task = asyncio.create_task(store.apart.keep("cloud", leases, some_of(leases[0], 0), put_off_s=0.0))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    uplink = store.status()["uplinks"]["cloud"]
    assert (uplink["delivered"], uplink["held"], uplink["leased"]) == (29, 1, 0)
    assert await shelves.drain(store) == [1]
    shelves.check(store)


async def test_there_is_room_for_so_much_at_a_time(shelves) -> None:
    """What waits for the disk has a bound, whoever it is of."""
    store = await shelves.open(pending_bytes=65536, commit_interval_s=0.2)
    leases = await leases_of(shelves, store, 1)
    waiting = store.append([(Priority.NORMAL, shelves.batch(store, shelves.numbers(4000)))])
    with pytest.raises(FullError):
        await store.apart.keep("cloud", leases, some_of(leases[0], 0), put_off_s=0.0)
    await waiting
    shelves.check(store)


async def test_what_is_lost_of_the_leases_is_in_the_ledger(shelves) -> None:
    """With the same commit, and aside for a person to look at; all others have arrived but for the rest."""
    store = await shelves.open(uplinks=TWO)
    leases = await leases_of(shelves, store, 2)
    aside = [("no", 2, leases[0].segments[0].body)]
    lost = [Lost(leases[0], 2, "refused", aside), Lost(leases[1], 3, "rejected")]
    heard = []
    store.settling.on_lost = lambda lease, readings: heard.append((lease, readings))
    await store.apart.keep("cloud", leases, some_of(leases[0], 0), put_off_s=0.0, lost=lost)
    cloud = store.status()["uplinks"]["cloud"]
    assert (cloud["delivered"], cloud["held"], cloud["ledger"]) == (14, 1, {"refused": 2, "rejected": 3})
    assert heard == [(leases[0], 2), (leases[1], 3)]
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []
    store = await shelves.open(uplinks=TWO)
    ((_, uplink, reason, message, readings, body),) = [tuple(row) for row in await refused_of(store)]
    assert (uplink, reason, message, readings, body) == ("cloud", "refused", "no", 2, aside[0][2])
    assert len(await shelves.drain(store)) == 1


async def refused_of(store) -> list:
    sql = "SELECT id, uplink, reason, message, readings, body FROM refused"
    return list(await store._committer.connection.execute_fetchall(sql))


async def test_on_a_full_shelf_the_rests_take_the_place_of_the_leases(shelves) -> None:
    """Which go with the same commit, so nobody else has to make way for them."""
    store = await shelves.open(max_bytes=1 << 20, when_full="refuse")
    with contextlib.suppress(FullError):
        for _ in range(1000):
            await shelves.put_noise(store, 16 << 10)
    accepted, leases = store.status()["accepted"], []
    while (lease := await shelves.lease(store, readings_max=2048)) is not None:
        leases.append(lease)
    rests = [
        Rest(segment.priority, decode_metrics(segment.body).take(slice(0, None, 4)))
        for lease in leases
        for segment in lease.segments
    ]
    await store.apart.keep("cloud", leases, rests, put_off_s=0.0)
    shelves.check(store)
    uplink = store.status()["uplinks"]["cloud"]
    assert uplink["held"] == sum(len(rest.what) for rest in rests) == accepted - uplink["delivered"]
    assert (uplink["ledger"], uplink["leased"]) == ({}, 0)


async def test_messages_stay_messages(shelves) -> None:
    """Beside readings of the same leases."""
    store = await shelves.open()
    messages = shelves.messages(b"one", b"two", signal=Signal.METRICS, count=3)
    await store.append(
        [(Priority.NORMAL, shelves.batch(store, shelves.numbers(4)))], records=[(Priority.NORMAL, messages)]
    )
    leases = [await shelves.lease(store), await shelves.lease(store)]
    rests = []
    for lease in leases:
        (segment,) = lease.segments
        found = decode(segment.body)
        is_message = isinstance(found, ResourceRecords)
        rests.append(Rest(segment.priority, found.take(slice(1, 2) if is_message else np.array([0]))))
    await store.apart.keep("cloud", leases, rests, put_off_s=0.0)
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []
    store = await shelves.open()
    back = []
    while (lease := await shelves.lease(store)) is not None:
        back += [decode(segment.body) for segment in lease.segments]
        store.ack(lease)
    assert sorted(map(len, back)) == [1, 3]
    (message,) = [one for one in back if isinstance(one, ResourceRecords)]
    assert (message.bodies, message.time_ns.tolist()) == ((b"two",), [shelves.clock.wall_ns()])
    shelves.check(store)


class Boots:
    """A shelf on a box that is started anew, and readings that only its own clock has times of."""

    def __init__(self, shelves) -> None:
        self.shelves = shelves
        self.number = 1

    async def start(self, **options) -> Any:
        clock = self.shelves.clock
        await self.shelves.close()
        self.number += 1
        clock.reboot(f"boot-{self.number}", wall=clock.wall + 86_400 * NS_PER_S, synced=True)
        return await self.shelves.open(**options)

    async def put(self, store, count: int = 10) -> list[int]:
        """Append readings a second apart, with their moments; return their Unix times."""
        numbers = self.shelves.numbers(count)
        series = store.resolve(Series((("device.id", "d1"),), "m"))
        moments = self.shelves.clock.monotonic_ns() + np.arange(count) * NS_PER_S
        await store.append([(Priority.NORMAL, Batch.of(series, moments, np.array(numbers), flags=MONOTONIC))])
        return (self.shelves.clock.wall_ns() + np.arange(count) * NS_PER_S).tolist()

    async def drain(self, store) -> list[int]:
        """Deliver all; return when the moments among it were."""
        found = []
        while (lease := await self.shelves.lease(store)) is not None:
            for segment in lease.segments:
                batch = decode_metrics(segment.body)
                if (batch.flags & MONOTONIC).any():
                    times, quality = store.timeline.repair(batch.time_ns, segment.boot)
                    assert quality is Quality.SYNCED
                    found += times.tolist()
            store.ack(lease)
        return sorted(found)


def moments_of(lease, *places: int) -> list:
    """Return readings of a lease of one segment, which are moments of its boot."""
    (segment,) = lease.segments
    return [Rest(segment.priority, decode_metrics(segment.body).take(np.array(places)), segment.boot)]


async def test_moments_of_an_earlier_boot_stay_moments_of_it(shelves) -> None:
    """As long as they are held its clock is known, however much of later boots has gone meanwhile, and restarts."""
    boots, store = Boots(shelves), await shelves.open(max_age=Duration(30 * 86_400))
    times = await boots.put(store)
    shelves.clock.advance(20 * NS_PER_S)
    options = {"max_age": Duration(30 * 86_400)}
    store = await boots.start(**options)
    later = await boots.put(store)
    # What is oldest from now on is of this boot.
    await shelves.put(store, 10)
    leases = [await shelves.lease(store, readings_max=10) for _ in range(3)]
    leases.sort(key=lambda lease: lease.segments[0].sequence)
    store.release(leases.pop(), maybe_delivered=False)
    pieces = [*moments_of(leases[0], 3, 4), *moments_of(leases[1], 9)]
    await store.apart.keep("cloud", leases, pieces, put_off_s=0.0)
    shelves.check(store)
    for _ in range(3):
        await store.tend()
        await shelves.put(store)
        store = await boots.start(**options)
        await store.tend()
        await shelves.put(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []
    store = await shelves.open(**options)
    assert await boots.drain(store) == [times[3], times[4], later[9]]
    shelves.check(store)
    await shelves.put(store)
    await store.tend()
    await shelves.put(store)
    assert [times.boot for times in store.timeline.boots] == [store.timeline.current.boot]


async def test_what_is_left_of_an_earlier_boot_is_as_old_as_that_at_least(shelves) -> None:
    """Its age counts from the end of its boot."""
    boots, options = Boots(shelves), {"max_age": Duration(3 * 86_400)}
    store = await shelves.open(**options)
    await boots.put(store)
    store = await boots.start(**options)
    lease = await shelves.lease(store, readings_max=10)
    await store.apart.keep("cloud", [lease], moments_of(lease, 3), put_off_s=0.0)
    shelves.clock.advance(86_400 * NS_PER_S)
    await store.tend()
    await shelves.put(store)
    assert store.status()["uplinks"]["cloud"]["held"] == 2
    shelves.clock.advance(86_400 * NS_PER_S + 20 * NS_PER_S)
    await store.tend()
    await shelves.put(store)
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"expired_age": 1}
    shelves.check(store)
