"""The quota holds, the least important goes first, and a disk that others have filled is a quota that is reached."""

from __future__ import annotations

import asyncio
import os

import pytest

from gateway.core.clock import NS_PER_S
from gateway.core.contracts import FullError, Priority
from gateway.core.units import Size
from gateway.store.database import StoreSettings
from gateway.store.reading import verify
from gateway.store.room import BALLAST, LOG_BYTES_MAX, LOG_BYTES_MIN, Candidate, Room, age_ns

MIB = 1 << 20


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
    deadline = asyncio.get_running_loop().time() + 5
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
    results = await asyncio.gather(*(shelves.put_noise(store, 600_000) for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [FullError, FullError]
    assert store.status()["accepted"] == 0
    await shelves.put_noise(store, 300_000)


async def test_a_quota_that_was_lowered_is_kept_at_the_door(shelves) -> None:
    """With refuse nothing is let go, and nothing more is taken before there is room."""
    store = await shelves.open(when_full="refuse")
    await shelves.put_noise(store, 2_000_000)
    await shelves.close()
    store = await shelves.open(when_full="refuse", max_bytes=Size(MIB))
    with pytest.raises(FullError, match="when_full is refuse"):
        await shelves.put(store, 1)
    await store.append([])


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
    room = Room(tmp_path, StoreSettings())
    room.keep_ballast()
    room.keep_ballast()
    assert (tmp_path / BALLAST).stat().st_size == room.ballast_bytes > room.log_bytes
    room.drop_ballast()
    room.drop_ballast()
    real = os.statvfs(tmp_path)
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((4096, 4096, *real[2:4], 10, *real[5:])))
    room.keep_ballast()
    assert not (tmp_path / BALLAST).exists()
    assert room.limit_bytes == 40960  # nothing is promised yet
    assert room.lacking(40960) == 0
    assert room.lacking(40961) == 1 + room.slack_bytes


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
        with pytest.raises(FullError, match="the disk is full: 0 bytes left"):
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
    old = BootTimes(1, "a", 50 * NS_PER_S, [Sample(0, wall, Quality.UNSYNCED)])
    middle = BootTimes(2, "b", 7 * NS_PER_S)
    year = 365 * 86400 * NS_PER_S

    def age(quality: Quality) -> int:
        now = BootTimes(3, "c", 0, [Sample(0, wall + year, quality)])
        return age_ns(Timeline([old, middle, now], current=3), row, now_ns=5 * NS_PER_S) // NS_PER_S

    assert age(Quality.UNSYNCED) == 5 + 7 + 40
    assert age(Quality.SYNCED) == (year // NS_PER_S) + 5 - 10
