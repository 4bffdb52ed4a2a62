"""Whatever fails in a commit, nothing is kept half and everybody gets an answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3

import numpy as np
import pytest

from gateway.core.batch import Batch, Series
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import FullError, Priority
from gateway.store import committer, disks, keeping
from gateway.store.committer import STUCK_S
from gateway.store.database import Loss, SetAside
from gateway.store.drawer import SAMPLES_MAX, SET_ASIDE_BYTES_MAX
from gateway.store.pace import Pace
from gateway.store.writer import SEGMENT_READINGS_MAX


def error_of(code: int, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode, error.sqlite_errorname = code, "SQLITE_X"
    return error


@pytest.mark.parametrize("error", [error_of(sqlite3.SQLITE_IOERR, "disk I/O error"), ValueError("a mistake of ours")])
async def test_a_failed_commit_keeps_nothing_and_can_be_repeated(shelves, failing, error) -> None:
    """FullError for those who wait, a sentence in the status, and the same arrivals again."""
    store = await shelves.open()
    failing.errors = [error]
    batch = shelves.batch(store, [1, 2])
    with pytest.raises(FullError, match="nothing can be written"):
        await store.append([(Priority.NORMAL, batch)], losses=[Loss("syntax", 1)])
    assert store.status()["accepted"] == 0
    assert str(error) in store.status()["store"]["trouble"]
    await store.append([(Priority.NORMAL, batch)], losses=[Loss("syntax", 1)])
    assert store.status()["accepted"] == 3
    assert store.status()["store"]["trouble"] == ""
    assert await shelves.drain(store) == [1, 2]
    shelves.check(store)


CORRUPT = "database disk image is malformed"


async def test_what_a_failing_disk_gives_back_is_no_damage(shelves, failing, monkeypatch) -> None:
    """SQLite takes for a damaged file what such a disk answers: the sentence stays the disk's, and it is tried again."""
    store = await shelves.open()
    put = await shelves.put(store, 2)
    failing.errors = [error_of(sqlite3.SQLITE_IOERR, "disk I/O error"), error_of(sqlite3.SQLITE_CORRUPT, CORRUPT)]
    with monkeypatch.context() as patch:
        patch.setattr(disks, "takes_writes", lambda _: False)
        for _ in range(2):
            with pytest.raises(FullError, match="disk I/O error"):
                await shelves.put(store, 1)
            assert "disk I/O error" in store.status()["store"]["trouble"]
    assert not store.is_damaged
    assert store.is_moving()
    put += await shelves.put(store, 1)
    assert store.status()["store"]["trouble"] == ""
    assert sorted(await shelves.drain(store)) == put
    shelves.check(store)


async def test_damage_is_damage_where_the_disk_takes_writes(shelves, failing) -> None:
    """One bad moment of a card must not hide for ever what it left behind."""
    store = await shelves.open()
    failing.errors = [error_of(sqlite3.SQLITE_IOERR, "disk I/O error"), error_of(sqlite3.SQLITE_CORRUPT, CORRUPT)]
    for _ in range(2):
        with pytest.raises(FullError):
            await shelves.put(store, 1)
    assert store.is_damaged
    assert "is salvaged at the next start" in store.status()["store"]["trouble"]


async def test_damage_after_a_commit_that_succeeded_is_not_the_disks(shelves, failing, monkeypatch) -> None:
    """What failed before is over."""
    store = await shelves.open()
    monkeypatch.setattr(disks, "takes_writes", lambda _: False)
    failing.errors = [error_of(sqlite3.SQLITE_IOERR, "disk I/O error")]
    with pytest.raises(FullError):
        await shelves.put(store, 1)
    await shelves.put(store, 1)
    failing.errors = [error_of(sqlite3.SQLITE_CORRUPT, CORRUPT)]
    with pytest.raises(FullError):
        await shelves.put(store, 1)
    assert store.is_damaged


async def test_what_may_pass_is_waited_for_before_data_leaves_uncounted(shelves, failing, monkeypatch, caplog) -> None:
    """A full disk, a lock: for a minute, and the log says for how long it was."""
    store = await shelves.open()
    allowance = store._desks["cloud"].allowance
    failing.errors = [error_of(sqlite3.SQLITE_BUSY, "database is locked")] * 2
    with pytest.raises(FullError):
        await shelves.put(store, 1)
    assert not allowance.is_mute
    monkeypatch.setattr(store._committer.trouble, "failing_s", lambda: committer.MUTE_S + 30)
    with pytest.raises(FullError):
        await shelves.put(store, 1)
    assert allowance.is_mute
    assert "nothing can be written since 1.5 min: what is held is sent" in caplog.text
    await shelves.put(store, 1)
    assert not allowance.is_mute


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY])
async def test_a_disk_that_fails_is_not_waited_for(shelves, failing, code) -> None:
    """It may not be there to be read for much longer."""
    store = await shelves.open()
    failing.errors = [error_of(code, "it fails")]
    with pytest.raises(FullError):
        await shelves.put(store, 1)
    assert store._desks["cloud"].allowance.is_mute


async def test_a_victim_comes_back_when_its_commit_fails(shelves, failing) -> None:
    """Neither lost nor hidden; and who was acked meanwhile stays settled."""
    store = await shelves.open(max_age=60, uplinks=("a", "b"))
    put = await shelves.put(store, 2)
    await shelves.drain(store, "b")
    shelves.clock.advance(100 * NS_PER_S)
    failing.errors = [error_of(sqlite3.SQLITE_IOERR, "disk I/O error")]
    await store.tend()
    with pytest.raises(FullError):
        await store.append([])
    shelves.check(store)
    assert await shelves.drain(store, "a") == put
    assert await shelves.lease(store, "b") is None


async def test_who_is_sent_meanwhile_stays(shelves, monkeypatch) -> None:
    """Between finding and deleting somebody may have begun to send it."""
    store = await shelves.open(max_age=60)
    put = await shelves.put(store, 2)
    # A commit that allows it was there before.
    store.release(await shelves.lease(store), maybe_delivered=False)
    shelves.clock.advance(100 * NS_PER_S)
    keeper = store._committer._keeper
    real = keeper.find_victims

    async def find(*what, **more):
        found = await real(*what, **more)
        assert len(found) == 1
        await shelves.lease(store)
        return found

    monkeypatch.setattr(keeper, "find_victims", find)
    await store.tend()
    await store.append([])
    uplink = store.status()["uplinks"]["cloud"]
    assert (uplink["held"], uplink["leased"], uplink["ledger"]) == (len(put), len(put), {})


async def test_what_a_commit_brings_is_not_leased_before_it_is_through(shelves, failing) -> None:
    """It is seen on the disk while the log is still being moved into the file; the account does not hold it yet."""
    store = await shelves.open(recent_bytes=1)
    put = await shelves.put(store, 1)
    store.release(await shelves.lease(store), maybe_delivered=False)

    async def write(connection, work) -> tuple[int, int]:
        pages = await failing.real(connection, work)
        store.ack(await shelves.lease(store))
        return pages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committer, "write", write)
        put += await shelves.put(store, 2)
    uplink = store.status()["uplinks"]["cloud"]
    assert (uplink["delivered"], uplink["held"]) == (1, 2)
    assert await shelves.drain(store) == put[1:]
    shelves.check(store)


async def test_who_is_turned_away_again_and_again_keeps_nobody_from_making_room(shelves, monkeypatch) -> None:
    """What comes each time is more than fits: all the same uplinks are allowed to lease, and acks are written."""
    store = await shelves.open()
    put = await shelves.put(store, 1)
    keeper = store._committer._keeper
    real = keeper.find_victims

    async def find(incoming_bytes, *done, **more):
        if incoming_bytes:
            raise FullError("no room for that")
        return await real(incoming_bytes, *done, **more)

    async def insist() -> None:
        while True:
            with contextlib.suppress(FullError):
                await shelves.put(store, 1)

    monkeypatch.setattr(keeper, "find_victims", find)
    crowd = asyncio.create_task(insist())
    async with asyncio.timeout(30):
        store.ack(await shelves.lease(store))
        while store.settling.done:
            await asyncio.sleep(0.001)
    crowd.cancel()
    assert store.status()["uplinks"]["cloud"]["delivered"] == len(put)
    shelves.check(store)


async def test_a_stop_while_somebody_is_turned_away_is_a_clean_one(shelves) -> None:
    """The last commit is made without who finds no room, and says that it is the last."""
    store = await shelves.open(max_bytes=1 << 20, when_full="refuse", commit_interval_s=10.0)
    waiting = asyncio.create_task(shelves.put_noise(store, 2 << 20))
    await asyncio.sleep(0)
    await shelves.close(store)
    with pytest.raises(FullError):
        await waiting
    assert not (await shelves.open()).events


async def test_a_stop_that_cannot_be_written_leaves_its_log(shelves, failing) -> None:
    """Nothing is lost by it, and the next start does not think so."""
    store = await shelves.open()
    put = await shelves.put(store, 5)
    failing.errors = [error_of(sqlite3.SQLITE_IOERR, "disk I/O error")] * 2
    await shelves.close(store)
    failing.errors.clear()
    store = await shelves.open()
    assert store.events == []
    assert await shelves.drain(store) == put


async def test_a_commit_that_fails_since_its_files_went_says_that(shelves, failing) -> None:
    """And not what the disk said of the place where they were."""
    store = await shelves.open()
    await shelves.put(store, 1)
    moved = shelves.state_dir.with_name("moved")

    async def meanwhile() -> None:
        shelves.state_dir.rename(moved)

    failing.meanwhile = meanwhile
    failing.errors = [FileNotFoundError(2, "No such file or directory")]
    with pytest.raises(FullError, match="was deleted, moved away or replaced"):
        await shelves.put(store, 1)
    assert "was deleted, moved away or replaced" in str(store.status()["store"]["trouble"])
    moved.rename(shelves.state_dir)
    store.look_at_files()
    assert not store.is_closed


async def test_who_only_asks_whether_to_wait_is_not_counted_as_turned_away(shelves) -> None:
    """One message that finds no room is one, however often it was looked."""
    store = await shelves.open(commit_interval_s=1.0)
    assert store.defer(list)
    store._committer.trouble.closed = "the files are gone"
    assert not store.defer(list)
    assert shelves.telemetry.value("tidegate_store_pushed_back", cause="closed") == 0
    with pytest.raises(FullError, match="gone"):
        store.append([(Priority.NORMAL, shelves.batch(store, [1]))])
    assert shelves.telemetry.value("tidegate_store_pushed_back", cause="closed") == 1


async def test_a_stuck_commit_stops_the_heartbeat(shelves, failing) -> None:
    """The watchdog is told when the disk does not come back."""
    store = await shelves.open()
    stuck = asyncio.Event()
    failing.meanwhile = stuck.wait
    waiting = asyncio.create_task(shelves.put(store, 1))
    while failing.meanwhile is not None:
        await asyncio.sleep(0)
    assert store.is_moving()
    store._committer._started_s -= STUCK_S
    assert not store.is_moving()
    stuck.set()
    await waiting
    assert store.is_moving()


async def test_many_readings_are_encoded_beside_the_loop(shelves) -> None:
    """The same segments, made in a thread."""
    store = await shelves.open()
    number = store.resolve(Series((), "m"))
    await store.append([(Priority.BULK, Batch.of(number, range(5000), np.arange(5000)))])
    assert await shelves.drain(store) == list(range(5000))


async def test_a_flood_of_malformed_payloads_is_counted_and_cut(shelves) -> None:
    """The ledger has all, the quarantine enough, none of them long."""
    store = await shelves.open(commit_interval_s=0.02)
    await asyncio.gather(
        *(
            store.append(
                [], losses=[Loss("syntax", 50)], set_aside=[SetAside("s", b"t", b"x" * 100_000, "syntax", "no")] * 50
            )
            for _ in range(3)
        )
    )
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"syntax": 150}
    found = await store.quarantined(limit=1000)
    assert 0 < len(found) <= SAMPLES_MAX
    assert len(found[0].what.payload) == SET_ASIDE_BYTES_MAX


async def test_boots_that_nothing_refers_to_are_forgotten(shelves) -> None:
    """As soon as the last segment of them has gone."""
    store = await shelves.open()
    await shelves.put(store, 1)
    for number in (2, 3):
        await shelves.close()
        shelves.clock.reboot(f"boot-{number}", wall=shelves.clock.wall + NS_PER_S, synced=True)
        store = await shelves.open()
    await store.tend()
    await store.append([])
    assert [times.boot for times in store.timeline.boots] == [1, 2, 3]
    await shelves.drain(store)
    await store.append([])
    await store.tend()
    await store.append([])
    assert [times.boot for times in store.timeline.boots] == [3]
    await shelves.close()
    assert (await shelves.open()).timeline.boots[0].boot == 3


async def test_a_clock_that_is_set_while_nothing_arrives(shelves) -> None:
    """It is noticed and kept."""
    shelves.clock.wall, shelves.clock.synced = 0, False
    store = await shelves.open()
    await store.append([])
    shelves.clock.wall, shelves.clock.synced = 1_790_000_000 * NS_PER_S, True
    await store.tend()
    assert store.status()["clock"]["quality"] == "synced"
    await shelves.close()
    assert len((await shelves.open()).timeline.current.samples) == 2


async def test_it_tends_by_itself(shelves, monkeypatch) -> None:
    """Every now and then, and a failure is only a line in the log."""
    monkeypatch.setattr(committer, "TEND_S", 0.01)
    store = await shelves.open(max_age=60)
    await shelves.put(store, 1)
    shelves.clock.advance(100 * NS_PER_S)
    deadline = asyncio.get_running_loop().time() + 5
    while not store.status()["uplinks"]["cloud"]["ledger"] and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)
    assert store.status()["uplinks"]["cloud"]["ledger"] == {"expired_age": 1}

    async def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("busy")

    monkeypatch.setattr(keeping, "find_expired", fail)
    await store.tend()
    await shelves.put(store, 1)


async def test_a_checkpoint_that_fails_is_not_the_end(shelves, failing) -> None:
    """A full disk: the ballast goes, the log is rewound where that works, and the commit is tried once more."""
    store = await shelves.open()
    assert (shelves.state_dir / "ballast").exists()
    failing.errors = [error_of(sqlite3.SQLITE_FULL, "database or disk is full")]
    await shelves.put(store, 1)
    assert not (shelves.state_dir / "ballast").exists()
    real = store._committer.connection

    class NoCheckpoint:
        def __getattr__(self, name):
            return getattr(real, name)

        async def execute_fetchall(self, sql, *values):
            if "checkpoint" in sql:
                raise error_of(sqlite3.SQLITE_FULL, "database or disk is full")
            return await real.execute_fetchall(sql, *values)

    store._committer.connection = NoCheckpoint()
    failing.errors = [error_of(sqlite3.SQLITE_FULL, "database or disk is full")] * 2
    with pytest.raises(FullError, match="disk is full"):
        await shelves.put(store, 1)
    await shelves.put(store, 1)
    assert store.status()["accepted"] == 2


async def test_whoever_gave_up_before_a_failure_is_left_alone(shelves, failing) -> None:
    """A cancelled append has no answer to get."""
    store = await shelves.open(commit_interval_s=0.02)
    failing.errors = [error_of(sqlite3.SQLITE_IOERR, "disk I/O error")]
    gone = asyncio.create_task(shelves.put(store, 1))
    stays = asyncio.create_task(shelves.put(store, 1))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(FullError):
        await stays


async def test_what_is_set_aside_does_not_crowd_out_the_rest(shelves) -> None:
    """On a small shelf a flood of payloads that nobody understands leaves room for what somebody does."""
    store = await shelves.open(max_bytes=1 << 20)
    aside = [SetAside("line", b"t", bytes(60_000), "syntax", "no")] * 8
    for _ in range(10):
        await store.append([], losses=[Loss("syntax", 8)], set_aside=aside)
    assert store.status()["store"]["used_bytes"] < 700_000
    await shelves.put(store, 100)
    assert "evicted_full" not in store.status()["uplinks"]["cloud"]["ledger"]


async def put_last(shelves, store) -> None:
    """Append something whose sender sends nothing more before it is kept; return when it is."""
    await store.append([(Priority.NORMAL, shelves.batch(store, shelves.numbers(1)))], is_last=True)


async def test_who_sends_nothing_more_is_not_kept_waiting(shelves) -> None:
    """Its commit is early, and everybody else's with it."""
    store = await shelves.open(commit_interval_s=50)
    store.pace(interval_s=50, gap_s=0)
    other = asyncio.create_task(shelves.put(store, 1))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await put_last(shelves, store)
        await other


def beginnings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return where it will stand when each commit begins: when its end is heard of, a busy machine says."""
    times: list[float] = []
    began = Pace.began

    def note(pace: Pace, now_s: float) -> None:
        times.append(now_s)
        began(pace, now_s)

    monkeypatch.setattr(Pace, "began", note)
    return times


async def test_early_commits_have_a_distance(shelves, monkeypatch) -> None:
    """However many ask for them: each costs the card some pages."""
    store = await shelves.open(commit_interval_s=50)
    store.pace(interval_s=50, gap_s=0.1)
    times = beginnings(monkeypatch)
    for _ in range(4):
        await put_last(shelves, store)
    assert len(times) == 4
    assert all(later - earlier >= 0.09 for earlier, later in itertools.pairwise(times))


async def test_the_distance_goes_with_the_interval_unless_told_otherwise(shelves, monkeypatch) -> None:
    """A card that is to last has a long interval."""
    store = await shelves.open(commit_interval_s=40.0)
    times = beginnings(monkeypatch)
    for _ in range(2):
        await put_last(shelves, store)
    assert 0.99 <= times[1] - times[0] < 20


async def test_what_fills_a_segment_is_committed_before_the_interval_is_over(shelves) -> None:
    """Or what a sender may have unanswered would decide how fast it is."""
    store = await shelves.open(commit_interval_s=50)
    few = asyncio.create_task(shelves.put(store, 1))
    await asyncio.sleep(0.1)
    assert not few.done()
    async with asyncio.timeout(30):
        await shelves.put(store, SEGMENT_READINGS_MAX)
        await few


async def test_nobody_is_kept_waiting_who_is_to_stop(shelves) -> None:
    """Neither who waits already nor who comes then."""
    store = await shelves.open(commit_interval_s=50)
    early = asyncio.create_task(shelves.put(store, 1))
    await asyncio.sleep(0)
    store.hurry()
    async with asyncio.timeout(30):
        await early
        await shelves.put(store, 1)


async def test_a_new_pace_holds_for_what_comes(shelves) -> None:
    """Here from never to soon."""
    store = await shelves.open(commit_interval_s=50)
    store.pace(interval_s=0.01, gap_s=0.01)
    async with asyncio.timeout(30):
        await shelves.put(store, 1)
