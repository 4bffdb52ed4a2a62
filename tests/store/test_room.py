"""The quota holds, the least important goes first, and a disk that others have filled is a quota that is reached."""

from __future__ import annotations

import asyncio
import os

import pytest

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import FullError, Priority
from gateway.core.units import Size
from gateway.store import room
from gateway.store.connection import DATABASE
from gateway.store.database import StoreSettings
from gateway.store.reading import verify
from gateway.store.room import BALLAST, LOG_BYTES_MAX, LOG_BYTES_MIN, Candidate, Room, age_ns

MIB = 1 << 20
DAY_S = 86_400


async def test_the_oldest_goes_when_the_shelf_is_full(shelves) -> None:
    """Never more than max_bytes; what goes is in the ledger; what is held is the newest."""
    store = await shelves.open(max_bytes=Size(MIB))
    put = 0
    for _ in range(40):
        put += await shelves.put_noise(store, 60_000)
        assert store.status()["store"]["used_bytes"] <= MIB
        shelves.clock.advance(NS_PER_S)
    uplink = store.status()["uplinks"]["cloud"]
    assert uplink["held"] + uplink["ledger"]["evicted_full"] == put
    assert uplink["held"] > 0
    loss = uplink["losses"][0]
    assert loss["first_ns"] < loss["last_ns"] < shelves.clock.wall_ns()
    shelves.check(store)
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_bulk_goes_before_critical(shelves) -> None:
    """What matters most stays, though it is older."""
    store = await shelves.open(max_bytes=Size(MIB))
    critical = await shelves.put_noise(store, 100_000, priority=Priority.CRITICAL)
    for _ in range(20):
        await shelves.put_noise(store, 60_000, priority=Priority.BULK)
    lease = await shelves.lease(store, readings_max=10**6)
    assert lease.segments[0].priority is Priority.CRITICAL
    assert lease.readings == critical


async def test_what_is_being_sent_stays(shelves) -> None:
    """A leased segment is not taken away under its sender; where nothing else can go, sources are pushed back."""
    store = await shelves.open(max_bytes=Size(MIB))
    leased = 0
    with pytest.raises(FullError, match="being sent"):
        for _ in range(30):
            await shelves.put_noise(store, 60_000)
            leased += (await shelves.lease(store)).readings
    assert store.status()["uplinks"]["cloud"]["held"] == leased
    assert "evicted_full" not in store.status()["uplinks"]["cloud"]["ledger"]
    shelves.check(store)


async def test_refuse_pushes_back_until_there_is_room(shelves) -> None:
    """Nothing is let go; after an ack there is room again."""
    store = await shelves.open(max_bytes=Size(MIB), when_full="refuse")
    put = 0
    with pytest.raises(FullError, match="when_full is refuse"):
        for _ in range(40):
            put += await shelves.put_noise(store, 60_000)
    assert store.status()["uplinks"]["cloud"]["held"] == store.status()["accepted"] == put
    for _ in range(6):
        store.ack(await shelves.lease(store))
    deadline = asyncio.get_running_loop().time() + 60
    while asyncio.get_running_loop().time() < deadline:
        try:
            await shelves.put_noise(store, 60_000)
            break
        except FullError:
            await asyncio.sleep(0.01)
    assert store.status()["accepted"] > put
    shelves.check(store)


async def test_refusing_at_the_door_and_in_the_commit(shelves) -> None:
    """Two that fit alone but not together: neither is kept, both may come again."""
    store = await shelves.open(max_bytes=Size(MIB), when_full="refuse", commit_interval_s=0.02)
    put = sum([await shelves.put_noise(store, 60_000) for _ in range(10)])
    results = await asyncio.gather(*(shelves.put_noise(store, 90_000) for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [FullError, FullError]
    assert store.status()["accepted"] == put
    await shelves.put_noise(store, 90_000)


async def test_a_quota_that_was_lowered_is_kept_at_the_door(shelves) -> None:
    """With refuse nothing is let go, and nothing more is taken before there is room."""
    store = await shelves.open(when_full="refuse")
    await shelves.put_noise(store, 2_000_000)
    await shelves.close()
    store = await shelves.open(when_full="refuse", max_bytes=Size(MIB))
    with pytest.raises(FullError, match="when_full is refuse"):
        await shelves.put(store, 1)
    await store.append([])


async def test_a_large_commit_makes_room_for_the_log_as_well(shelves) -> None:
    """What comes is in the log once more, which keeps its length: both are within max_bytes."""
    store = await shelves.open(max_bytes=Size(MIB))
    for size in [60_000] * 14 + [300_000, 60_000]:
        await shelves.put_noise(store, size)
        assert store.status()["store"]["used_bytes"] <= MIB
    shelves.check(store)


async def test_what_is_set_aside_needs_room_as_well(shelves) -> None:
    """What an uplink refused is kept for people, and for the uplinks that still need it: both are within max_bytes."""
    store = await shelves.open(uplinks=("near", "far"), max_bytes=Size(MIB))
    while "evicted_full" not in store.status()["uplinks"]["near"]["ledger"]:
        await shelves.put_noise(store, 30_000)
    for _ in range(4):
        store.refuse(await shelves.lease(store, "near", readings_max=1), "status_400", "no")
    await shelves.put_noise(store, 1000)
    assert store.status()["store"]["used_bytes"] <= MIB


async def test_an_ack_writes_no_body_again(shelves) -> None:
    """Where others still need a segment, one page says that this one has it."""
    store = await shelves.open(uplinks=("near", "far"))
    await shelves.put_noise(store, 180_000)
    log = shelves.state_dir / f"{DATABASE}-wal"
    before = log.stat().st_size
    store.ack(await shelves.lease(store, "near"))
    await store.append([])
    assert log.stat().st_size - before < 8192


async def test_a_bound_that_was_lowered_much_is_worked_off(shelves, monkeypatch) -> None:
    """More has to go than one commit lets go: each takes away more than it brings, and nobody is pushed back."""
    monkeypatch.setattr(room, "EVICT_MAX", 4)
    store = await shelves.open()
    for _ in range(50):
        await shelves.put_noise(store, 40_000)
    await shelves.close()
    store = await shelves.open(max_bytes=Size(MIB))
    used = [store.status()["store"]["used_bytes"]]
    while used[-1] > MIB:
        await shelves.put_noise(store, 40_000)
        used.append(store.status()["store"]["used_bytes"])
        assert used[-1] < used[-2] - 60_000
    assert len(used) > 5
    shelves.check(store)


async def test_many_small_ones_make_way_for_a_large_one(shelves, monkeypatch) -> None:
    """However many they are."""
    monkeypatch.setattr(room, "EVICT_MAX", 4)
    store = await shelves.open(max_bytes=Size(MIB))
    small = sum([await shelves.put_noise(store, 2000) for _ in range(60)])
    while "evicted_full" not in store.status()["uplinks"]["cloud"]["ledger"]:
        await shelves.put_noise(store, 60_000)
    lost = store.status()["uplinks"]["cloud"]["ledger"]["evicted_full"]
    assert 4 * 250 < lost <= small
    shelves.check(store)


async def test_the_least_important_go_first_however_many_they_are(shelves, monkeypatch) -> None:
    """Those that were not looked at yet go before the first of the next class, whatever their signals."""
    monkeypatch.setattr(room, "EVICT_MAX", 2)
    store = await shelves.open()
    for priority in (Priority.NORMAL, *[Priority.BULK] * 7, Priority.CRITICAL):
        await shelves.put(store, priority=priority)
    for text in "abc":
        await store.append([], logs=shelves.logs(store, text))
    await shelves.put(store, priority=Priority.CRITICAL)

    connection = store._connection
    found, _ = await room.find_evictions(connection, bytes_over=10**9, incoming_bytes=10**9, may_go=lambda _: True)
    assert [row.sequence for row in found] == [2, 3, 4, 5, 6, 7, 8, 1, 9, 10, 11, 12, 13]
    found, may_more_go = await room.find_evictions(
        connection, bytes_over=10**9, incoming_bytes=1, may_go=lambda _: True
    )
    assert ([row.sequence for row in found], may_more_go) == ([2, 3], True)


async def test_pending_memory_is_bounded(shelves) -> None:
    """More than pending_bytes waiting for one commit is pushed back; one that is larger alone is taken."""
    store = await shelves.open(pending_bytes=Size(1000), commit_interval_s=0.05)
    large = asyncio.create_task(shelves.put(store, 200))
    await asyncio.sleep(0)
    with pytest.raises(FullError, match="slower than what arrives"):
        await shelves.put(store, 200)
    await large


def test_the_log_is_as_long_as_board_shelf_and_disk_allow(tmp_path) -> None:
    """The smallest of the three, and never less than it takes to work."""
    settings = StoreSettings(max_bytes=Size(512 * MIB))
    assert Room(tmp_path, settings, log_bytes_max=2 * MIB).log_bytes == 2 * MIB
    assert Room(tmp_path, StoreSettings(max_bytes=Size(4 * MIB)), log_bytes_max=2 * MIB).log_bytes == MIB // 2
    assert Room(tmp_path, settings, log_bytes_max=1).log_bytes == LOG_BYTES_MIN
    assert Room(tmp_path, StoreSettings(max_bytes=Size(1 << 40)), log_bytes_max=1 << 40).log_bytes <= LOG_BYTES_MAX


async def test_the_ballast_is_kept_and_dropped(tmp_path, monkeypatch) -> None:
    """A file that holds room back; without much room there is none."""
    space = Room(tmp_path, StoreSettings())
    space.keep_ballast()
    space.keep_ballast()
    assert (tmp_path / BALLAST).stat().st_size == space.ballast_bytes > space.log_bytes
    space.drop_ballast()
    space.drop_ballast()
    real = os.statvfs(tmp_path)
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((4096, 4096, *real[2:4], 10, *real[5:])))
    space.keep_ballast()
    assert not (tmp_path / BALLAST).exists()
    assert space.limit_bytes == 40960  # nothing is promised yet
    assert space.lacking(40960) == 0
    assert space.lacking(40961) == 1 + space.slack_bytes


async def test_a_full_disk_is_a_reached_quota(shelves, make_small_disk) -> None:
    """Others fill the disk: the oldest makes room for the newest, and every reading is accounted for."""
    disk = make_small_disk(8 << 20)
    shelves.state_dir = disk.path / "state"
    store = await shelves.open()
    for _ in range(30):
        await shelves.put_noise(store, 100_000)
    disk.fill()
    kept = 0
    for _ in range(30):
        try:
            await shelves.put_noise(store, 50_000)
            kept += 1
        except FullError:
            await asyncio.sleep(0.01)
    assert kept > 5
    assert store.status()["uplinks"]["cloud"]["ledger"]["evicted_full"] > 0
    shelves.check(store)
    disk.free()
    await shelves.put_noise(store, 100_000)
    assert store.status()["store"]["trouble"] == ""
    await shelves.close()
    assert verify(shelves.state_dir).problems == []


async def test_a_full_disk_with_refuse_pushes_back(shelves, make_small_disk) -> None:
    """Nothing is dropped, acks are still settled, and it goes on when there is room."""
    disk = make_small_disk(8 << 20)
    shelves.state_dir = disk.path / "state"
    store = await shelves.open(when_full="refuse")
    await shelves.put_noise(store, 100_000)
    disk.fill()
    with pytest.raises(FullError):
        for _ in range(100):
            await shelves.put_noise(store, 100_000)
    shelves.check(store)
    assert "evicted_full" not in store.status()["uplinks"]["cloud"]["ledger"]
    disk.free()
    await shelves.put_noise(store, 1000)


@pytest.mark.parametrize("when_full", ["drop_oldest", "refuse"])
async def test_a_disk_with_no_room_for_the_log_takes_nothing_and_nobody_goes(
    shelves, make_small_disk, when_full
) -> None:
    """Letting go would not help: what is held stays, it is said, and over when there is room again."""
    disk = make_small_disk(MIB // 2)
    shelves.state_dir = disk.path / "state"
    store = await shelves.open(when_full=when_full)
    await shelves.put_noise(store, 10_000)
    disk.fill()
    for _ in range(10):
        with pytest.raises(FullError, match="the disk is full: 0 B left"):
            await shelves.put_noise(store, 20_000)
    assert store.status()["uplinks"]["cloud"]["ledger"] == {}
    assert not store.is_taking
    # With "refuse" it is as it was told to be; else it should have gone on, and monitoring hears that it does not.
    assert store.is_writing == (when_full == "refuse")
    assert f"mounted at {disk.path}; free some room there" in store.status()["store"]["trouble"]
    disk.free()
    await shelves.put_noise(store, 10_000)
    assert store.is_taking
    assert store.is_writing
    shelves.check(store)


async def test_it_starts_on_a_full_disk(shelves, make_small_disk) -> None:
    """What is held can be read and sent; that frees the room for more."""
    disk = make_small_disk(4 << 20)
    shelves.state_dir = disk.path / "state"
    store = await shelves.open()
    put = await shelves.put(store, 100)
    await shelves.close()
    disk.fill()
    store = await shelves.open()
    assert await shelves.drain(store) == put
    disk.free()
    await shelves.put(store, 1)
    shelves.check(store)


def test_age_across_boots_needs_a_disciplined_clock(shelves) -> None:
    """A battery that says 2090 must not empty the shelf: time that the box was off counts only where it is known."""
    from gateway.core.clock import BootTimes, Quality, Sample, Timeline

    row = Candidate(1, 0, 1, 1, 10 * NS_PER_S, 0, 0, 100)
    wall = 1_790_000_000 * NS_PER_S
    middle = BootTimes(2, "b", 7 * NS_PER_S)
    year = 365 * DAY_S * NS_PER_S

    def age(quality: Quality, *, was: Quality = Quality.SYNCED, since_s: int = 0) -> int:
        old = BootTimes(1, "a", 50 * NS_PER_S, [Sample(since_s * NS_PER_S, wall, was)])
        now = BootTimes(3, "c", 0, [Sample(0, wall + year, quality)])
        return age_ns(Timeline([old, middle, now], current=3), row, now_ns=5 * NS_PER_S) // NS_PER_S

    assert age(Quality.UNSYNCED) == 5 + 7 + 40
    assert age(Quality.SYNCED) == (year // NS_PER_S) + 5 - 10
    # Confirmed after the row was stored, the clock tells when that was.
    assert age(Quality.SYNCED, since_s=20) == (year // NS_PER_S) + 5 - 10
    assert age(Quality.SYNCED, was=Quality.UNSYNCED) == age(Quality.UNSYNCED)


async def test_a_boot_whose_clock_nobody_confirmed_does_not_age_by_another_ones(shelves) -> None:
    """A box starts with its image's date and holds data offline; the link that comes tells what day it is."""
    image_ns = shelves.clock.wall
    shelves.clock.synced = False
    store = await shelves.open(max_age=30 * DAY_S)
    put = await shelves.put(store, 3)
    await shelves.close()
    shelves.clock.reboot("boot-2", wall=image_ns + 300 * DAY_S * NS_PER_S, synced=True)
    store = await shelves.open(max_age=30 * DAY_S)
    await store.tend()
    await store.append([])
    assert store.status()["uplinks"]["cloud"]["ledger"] == {}
    assert await shelves.drain(store) == put
