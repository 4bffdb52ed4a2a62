"""A few rows of a shelf in use are read as of one moment, without a copy, and without leaving a trace."""

from __future__ import annotations

import asyncio
import errno
import os
import random

import numpy as np
import pytest

from gateway.core.batch import Batch, LogRecords, ResourceRecords, Series
from gateway.core.clock import FakeClock
from gateway.core.contracts import Priority
from gateway.store import peeking
from gateway.store.connection import DATABASE, PAGE_BYTES
from gateway.store.pages import TABLE_INTERIOR
from gateway.store.peeking import Refused, newest_quarantined, newest_refused, one_quarantined, peek
from gateway.store.records import SetAside, StoreError
from gateway.store.segments import SegmentError


def odd(number: int, size: int = 20) -> SetAside:
    # Each for a reason of its own: of one reason only a few are kept at a time.
    return SetAside("direct", f"t/{number}".encode(), bytes([number % 256]) * size, f"reason_{number}", "not JSON")


async def quarantine(store, *what: SetAside) -> None:
    await store.append([], set_aside=what)


def seen(shelves, *, limit: int = 1000) -> list[SetAside]:
    return [row.what for _, row in peek(shelves.state_dir, lambda tables: newest_quarantined(tables, limit=limit))]


def count(shelves, table: str = "quarantine") -> int:
    return peek(shelves.state_dir, lambda tables: tables.count(table))


@pytest.mark.parametrize("is_running", [True, False])
async def test_what_was_quarantined_newest_first(shelves, is_running) -> None:
    """The same while the gateway runs and when it is stopped: all of it, or as many as are asked for."""
    store = await shelves.open()
    put = [odd(number, size) for number, size in enumerate([0, 20, 400, 5000, 60_000] * 5)]
    for what in put:
        await quarantine(store, what)
    if not is_running:
        await shelves.close()
    assert seen(shelves) == put[::-1]
    assert seen(shelves, limit=3) == put[:-4:-1]
    assert count(shelves) == len(put)


async def test_one_is_found_by_its_number(shelves) -> None:
    """Among many, on the disk and in the log; one that made way is nothing."""
    store = await shelves.open(quarantine_bytes=20_000)
    for number in range(300):
        await quarantine(store, odd(number))
    rows = peek(shelves.state_dir, lambda tables: newest_quarantined(tables, limit=1000))
    assert len(rows) > 100
    for number, row in rows:
        assert peek(shelves.state_dir, lambda tables, n=number: one_quarantined(tables, n)) == row
    assert peek(shelves.state_dir, lambda tables: one_quarantined(tables, 1)) is None
    assert peek(shelves.state_dir, lambda tables: one_quarantined(tables, 1 << 40)) is None
    assert rows[0][1].at_ns == shelves.clock.wall_ns()


async def test_what_an_uplink_refused(shelves) -> None:
    """With its readings, their series, and when they were."""
    store = await shelves.open()
    await shelves.put(store, 3)
    await store.append([], logs=shelves.logs(store, "7"))
    await store.append([], records=[(Priority.NORMAL, shelves.messages(b"span"))])
    while (lease := await shelves.lease(store)) is not None:
        store.refuse(lease, "refused", "bad name")
    await shelves.put(store)
    assert count(shelves, "refused") == 3
    await shelves.close()
    rows = peek(shelves.state_dir, lambda tables: newest_refused(tables, limit=9))
    opened = {type(what): what for _, row in rows for what, _ in [row.open()]}
    assert opened[Batch].bits.tolist() == [1, 2, 3]
    assert opened[LogRecords].bodies == (b"7",)
    assert opened[ResourceRecords].bodies == (b"span",)
    assert {(row.uplink, row.reason, row.message) for _, row in rows} == {("cloud", "refused", "bad name")}
    number = int(opened[Batch].series[0])
    assert peek(shelves.state_dir, lambda tables: tables.series(number)).name == "m"
    assert peek(shelves.state_dir, lambda tables: tables.series(999)).name == "tidegate.lost_series"


async def test_the_clocks_are_those_of_the_shelf(shelves) -> None:
    """A moment of an earlier boot is repaired as an uplink would do it."""
    store = await shelves.open()
    await shelves.put(store)
    moment_ns, boot = shelves.clock.monotonic_ns(), store.timeline.current.boot
    await shelves.close()
    shelves.clock.reboot("boot-2", wall=shelves.clock.wall_ns() + 10**12, synced=True)
    store = await shelves.open()
    await shelves.put(store)
    timeline = peek(shelves.state_dir, lambda tables: tables.timeline())
    ((repaired,), _) = timeline.repair(np.array([moment_ns]), boot)
    assert repaired == FakeClock().wall


async def test_nothing_is_written_or_locked(shelves, tmp_path) -> None:
    """Neither a file beside the shelf nor one in the way of a gateway that starts meanwhile."""
    store = await shelves.open()
    await quarantine(store, odd(1))
    before = {path.name: path.read_bytes() for path in shelves.state_dir.iterdir()}
    seen(shelves)
    assert {path.name: path.read_bytes() for path in shelves.state_dir.iterdir()} == before
    await shelves.close()
    found = []

    def look(_tables) -> None:
        # It is looked at again, since a start writes.
        if not found:
            found.append(asyncio.run_coroutine_threadsafe(shelves.open(), loop).result(20))

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(peek, shelves.state_dir, look)
    assert found


@pytest.mark.parametrize("seed", range(8))
async def test_a_gateway_that_goes_on_meanwhile(shelves, seed) -> None:
    """Commits, checkpoints and logs that begin anew in the middle of a look: what is told is of one moment."""
    store = await shelves.open(quarantine_bytes=30_000)
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    moments: list[list[int]] = []
    passes = 0

    async def go_on() -> None:
        for number in range(rng.choice([1, 8, 30])):
            await quarantine(store, odd(number, rng.choice([10, 700])))
        mode = rng.choice(["", "PASSIVE", "RESTART", "TRUNCATE"])
        if mode:
            await store._connection.execute_fetchall(f"PRAGMA wal_checkpoint({mode})")
        moments.append([row[0] for row in await store._connection.execute_fetchall("SELECT id FROM quarantine")][::-1])

    def look(tables) -> list[int]:
        nonlocal passes
        passes += 1
        newest_quarantined(tables, limit=rng.choice([0, 1, 10]))
        if passes % 4:
            asyncio.run_coroutine_threadsafe(go_on(), loop).result(20)
        return [number for number, _ in newest_quarantined(tables, limit=1000)]

    await go_on()
    for _ in range(10):
        assert await asyncio.to_thread(peek, shelves.state_dir, look) in moments
    assert passes > 12
    assert len(moments[-1]) > 20


async def test_one_that_never_stands_still_is_a_sentence(shelves, monkeypatch) -> None:
    """Not half a look."""
    store = await shelves.open()
    await quarantine(store, odd(1))
    await store._connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    heads = iter(range(1 << 20))
    monkeypatch.setattr(peeking, "read_log_bytes", lambda _: next(heads).to_bytes(32, "big"))
    with pytest.raises(StoreError, match="try again later"):
        peek(shelves.state_dir, lambda tables: tables.count("quarantine"))


@pytest.mark.parametrize("data", [b"", bytes(5000), b"garbage" * 1000])
def test_what_is_no_shelf(tmp_path, data) -> None:
    """Says so, and which file."""
    (tmp_path / DATABASE).write_bytes(data)
    with pytest.raises(StoreError, match=DATABASE):
        peek(tmp_path, lambda tables: tables.count("quarantine"))
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        peek(tmp_path / "none", lambda tables: tables.count("quarantine"))


@pytest.mark.parametrize("seed", range(60))
async def test_damage_ends_in_rows_or_none(shelves, seed) -> None:
    """Flipped bytes anywhere behind the first page: whatever is whole is shown, nothing hangs."""
    store = await shelves.open()
    await store.append([], set_aside=[odd(number, 300) for number in range(16)])
    await shelves.close()
    path = shelves.state_dir / DATABASE
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(PAGE_BYTES, len(data), 40).tolist():
        data[place] = int(rng.integers(0, 256))
    path.write_bytes(data)
    assert len(seen(shelves)) <= count(shelves) <= 1 << 20
    peek(shelves.state_dir, lambda tables: (tables.timeline(), newest_refused(tables, limit=9)))


def test_a_refused_segment_that_is_damaged() -> None:
    """Is an error of its own kind, for who shows it."""
    with pytest.raises(SegmentError):
        Refused(0, "cloud", "refused", "", 5, b"garbage").open()


async def test_a_series_lost_in_one_table_is_found_in_the_other(shelves) -> None:
    """They stand twice."""
    store = await shelves.open()
    await shelves.put(store)
    number = store.resolve(Series((("device.id", "d1"),), "m"))
    await store._connection.execute_fetchall("UPDATE series SET body = x'00'")
    assert peek(shelves.state_dir, lambda tables: tables.series(number)).name == "m"


async def test_a_tree_that_leads_back_to_its_root_has_no_row(shelves) -> None:
    """The search for one row ends, and so does that for all."""
    store = await shelves.open()
    await store.append([], set_aside=[odd(number, 300) for number in range(16)])
    assert await asyncio.to_thread(peek, shelves.state_dir, lambda tables: one_quarantined(tables, 16))
    ((root,),) = await store._connection.execute_fetchall(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'quarantine'"
    )
    await shelves.close()
    path = shelves.state_dir / DATABASE
    data = bytearray(path.read_bytes())
    page = memoryview(data)[(root - 1) * PAGE_BYTES : root * PAGE_BYTES]
    assert page[0] == TABLE_INTERIOR
    # No child but the last, and that is the page itself.
    page[3:5], page[8:12] = bytes(2), root.to_bytes(4, "big")
    path.write_bytes(data)
    assert peek(shelves.state_dir, lambda tables: one_quarantined(tables, 16)) is None
    assert seen(shelves) == []


async def test_a_boot_that_is_damaged_is_left_out(shelves) -> None:
    """SQLite keeps any type in any column: what is known of the others is still told."""
    store = await shelves.open()
    await shelves.put(store)
    moment_ns, boot = shelves.clock.monotonic_ns(), store.timeline.current.boot
    rows = [(boot + 1, b"a uuid", b"\x92\x00\x90"), (boot + 2, "a uuid", "text"), (boot + 3, "a uuid", b"\xc1")]
    await store._connection.executemany("INSERT INTO boots VALUES (?, ?, ?)", rows)
    await store._connection.execute_fetchall(f"INSERT INTO boots VALUES ({boot + 4}, 'cut here', x'920090')")
    await shelves.close()
    path = shelves.state_dir / DATABASE
    data = bytearray(path.read_bytes())
    # The header of this row's record, which gives its own size and three columns: the last is not in it any more.
    data[data.rindex(b"cut here") - 4] = 3
    path.write_bytes(data)
    timeline = peek(shelves.state_dir, lambda tables: tables.timeline())
    assert [times.boot for times in timeline.boots] == [boot]
    ((repaired,), _) = timeline.repair(np.array([moment_ns]), boot)
    assert repaired == FakeClock().wall


async def test_a_refusal_that_is_damaged_is_left_out(shelves) -> None:
    """The others are shown, as many as were asked for."""
    store = await shelves.open()
    for number in range(3):
        await shelves.put(store)
        store.refuse(await shelves.lease(store), "refused", f"bad name {number}")
    await store.append([])
    await store._connection.execute_fetchall(
        "UPDATE refused SET message = x'00' WHERE id = (SELECT max(id) FROM refused)"
    )
    rows = peek(shelves.state_dir, lambda tables: newest_refused(tables, limit=2))
    assert [row.message for _, row in rows] == ["bad name 1", "bad name 0"]


async def test_a_disk_that_fails_while_it_is_read_is_a_sentence(shelves, monkeypatch) -> None:
    """It says which file and why, and the file is let go of."""
    store = await shelves.open()
    await quarantine(store, odd(1))
    await store._connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    files = []

    def fail(file: int, *_: object) -> bytes:
        files.append(file)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(peeking.os, "pread", fail)
        with pytest.raises(StoreError, match=f"{DATABASE} cannot be read: Input/output error"):
            seen(shelves)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(files[0])
    assert seen(shelves) == [odd(1)]
